"""Runs in processes of their own: started in order, measured, stopped and never left behind.

A run that crashes or leaks takes nothing with it, and the kernel counts its time and memory.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax_irkd.host import locks, room
from jax_irkd.host.interrupts import INTERRUPTED, StopRequest
from jax_irkd.runs.results import is_finished
from jax_irkd.studies.planning import PlannedRun

WAITING, RUNNING, DONE, FAILED, STOPPED = "waiting", "running", "done", "failed", "stopped"
Key = tuple[int, str]


class Status(NamedTuple):
    """How it stands with a task, and the reason when it failed."""

    state: str
    reason: str = ""


class _Child(NamedTuple):
    task: PlannedRun
    process: subprocess.Popen
    started: float


def run_tasks(
    tasks: Sequence[PlannedRun],
    workdir: Path,
    jobs: int,
    watch: Callable[[Mapping[Key, Status]], None],
    poll: float = 0.2,
) -> dict[Key, Status]:
    """Carry out `tasks`, up to `jobs` side by side; the final state of each.

    Fewer run side by side where the largest of them so far would not fit into the host's memory.
    A task with results.json is done. A failed one does not stop the others, except those that
    need it. SIGTERM, SIGINT and SIGUSR1 are passed on: the runs save and stop, and so do we. A
    second SIGINT ends them at once and raises KeyboardInterrupt. `watch` is called at every poll.

    Raises UserError when another study works in `workdir`, or a run that one has left behind.
    """
    status = {task.key: Status(DONE if _is_done(task) else WAITING) for task in tasks}
    children: list[_Child] = []
    with _locked(workdir) as lock, StopRequest() as stop:
        try:
            told = False
            while True:
                asked = stop.requested is not None
                children = [c for c in children if not _ended(c, status, workdir, asked)]
                if stop.requested and not told:
                    told = True
                    for child in children:
                        _signal(child, signal.SIGTERM)
                if not stop.requested:
                    _release(tasks, status)
                    while task := _next(tasks, status, jobs, children, workdir):
                        children.append(_start(task, lock, jobs))
                        status[task.key] = Status(RUNNING)
                watch(status)
                if not children:
                    return status
                time.sleep(poll)
        finally:
            for child in children:  # an error or a second Ctrl-C: nothing is left running
                _signal(child, signal.SIGKILL)
                child.process.wait()


def _is_done(task: PlannedRun) -> bool:
    return is_finished(task.folder)


def _next(
    tasks: Sequence[PlannedRun],
    status: Mapping[Key, Status],
    jobs: int,
    children: Sequence[_Child],
    workdir: Path,
) -> PlannedRun | None:
    """The task to start now, None while there is no place for one or none can be started."""
    ready = [
        task
        for task in tasks
        if status[task.key].state == WAITING
        and (task.needs is None or status[task.needs].state == DONE)
    ]
    if not ready or len(children) >= jobs:
        return None
    peak = room.largest_peak(read_attempts(workdir))
    return ready[0] if room.room(peak, (child.process.pid for child in children)) else None


def _release(tasks: Sequence[PlannedRun], status: dict[Key, Status]) -> None:
    """Give up tasks whose teacher has failed or was stopped."""
    for task in tasks:
        before = status[task.needs] if task.needs else None
        if status[task.key].state == WAITING and before and before.state in (FAILED, STOPPED):
            reason = f"its teacher {before.state}" + (f": {before.reason}" if before.reason else "")
            status[task.key] = Status(before.state, reason)


def log_path(task: PlannedRun) -> Path:
    """What a run prints, of all its attempts."""
    return task.folder.with_name(f"{task.method}.log")


def _start(task: PlannedRun, lock: int, jobs: int) -> _Child:
    path = log_path(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if jobs > 1:  # several processes share a GPU's memory
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with path.open("ab") as log:
        process = subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            # Ctrl-C of a terminal reaches the study alone, which passes it on once.
            start_new_session=True,
            # As long as a run lives, so does the lock, should the study be killed.
            pass_fds=(lock,),
        )
    return _Child(task, process, time.monotonic())


def _signal(child: _Child, number: int) -> None:
    if child.process.returncode is None:
        os.kill(child.process.pid, number)


def _ended(child: _Child, status: dict[Key, Status], workdir: Path, asked: bool) -> bool:
    """True when the run has ended; its state and what it took are then recorded."""
    pid, code, usage = os.wait4(child.process.pid, os.WNOHANG)
    if not pid:
        return False
    child.process.returncode = code = os.waitstatus_to_exitcode(code)
    task, reason = child.task, ""
    if _is_done(task):
        state = DONE
    elif code == INTERRUPTED or (asked and code == -signal.SIGTERM):  # before it could listen
        state = STOPPED
    else:
        state, reason = FAILED, _reason(task, code)
    status[task.key] = Status(state, reason)
    scale = 1 if sys.platform == "darwin" else 1024
    attempt = {
        "run": task.name,
        "exit_code": code,
        "state": state,
        "reason": reason,
        "wall_time_s": time.monotonic() - child.started,
        "cpu_time_s": usage.ru_utime + usage.ru_stime,
        "peak_memory_bytes": usage.ru_maxrss * scale,
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    with (workdir / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(attempt) + "\n")
    return True


def _reason(task: PlannedRun, code: int) -> str:
    """The line that says why: the message of a user's mistake, or the last one there is."""
    text = log_path(task).read_text("utf-8", errors="replace")[-8000:]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] if code == 2 else []
    last = (said or lines or ["it said nothing"])[-1].removeprefix("error: ")
    ended = f"exit code {code}"
    if code < 0:
        ended = f"killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            ended += " (out of memory?)"
    return f"{ended}: {last[:300]}"


_RECORDED = {"run", "peak_memory_bytes"}


def read_attempts(workdir: Path) -> dict[str, list[dict[str, Any]]]:
    """All attempts of every run by its name; a line cut short by a crash is dropped."""
    path, attempts = workdir / "attempts.jsonl", {}
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else ():
        try:
            attempt = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(attempt, dict) or not set(attempt) >= _RECORDED:
            continue
        attempts.setdefault(attempt["run"], []).append(attempt)
    return attempts


@contextlib.contextmanager
def _locked(workdir: Path):
    """Holds WORKDIR/study.lock; yields its file descriptor, which the runs inherit."""
    busy = (
        "another study, or a run that one left behind, works in {folder}; wait for it, stop it, or "
        "use another --workdir"
    )
    with locks.held(workdir, name="study.lock", busy=busy) as file:
        yield file.fileno()

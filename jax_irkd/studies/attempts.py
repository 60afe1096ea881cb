"""One attempt at a run: its process, what became of it, what it took; the record of them all."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax_irkd.errors import UserError
from jax_irkd.host.interrupts import INTERRUPTED
from jax_irkd.runs.results import finished, is_finished
from jax_irkd.studies.planning import PlannedRun

WAITING, QUEUED, RUNNING = "waiting", "queued", "running"
DONE, FAILED, STOPPED = "done", "failed", "stopped"
Key = tuple[int, str]
Attempt = dict[str, Any]


class Status(NamedTuple):
    """How it stands with a task, and the reason when it failed."""

    state: str
    reason: str = ""


class Child(NamedTuple):
    """A run's process."""

    task: PlannedRun
    process: subprocess.Popen
    started: float


def is_done(task: PlannedRun) -> bool:
    return has_all(task.folder, task.detection)


def has_all(folder: Path, detection: Mapping[str, Any] | None) -> bool:
    """Whether the run in `folder` has its results, with those of `detection` where asked for."""
    if not is_finished(folder) or not detection:
        return is_finished(folder)
    with contextlib.suppress(UserError):  # which the run itself will say
        return finished(folder).get("detection", {}).get("settings") == detection
    return False


def log_path(task: PlannedRun) -> Path:
    """What a run prints, of all its attempts."""
    return task.folder.with_name(f"{task.method}.log")


def start(
    task: PlannedRun,
    environment: Mapping[str, str] | None = None,
    inherited: tuple[int, ...] = (),
    folder: str | None = None,
) -> Child:
    """Start a run in `folder` (None: here); it inherits the file descriptors `inherited`."""
    path = log_path(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        process = subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
            # Ctrl-C of a terminal reaches the study alone, which passes it on once.
            start_new_session=True,
            pass_fds=inherited,
        )
    return Child(task, process, time.monotonic())


def tell(child: Child, number: int) -> None:
    """Send the signal `number` to a run that lives."""
    if child.process.returncode is None:
        os.kill(child.process.pid, number)


def ended(child: Child, asked: bool) -> Attempt | None:
    """What a run took and what became of it; None while it lives.

    `asked`: whether it was told to stop.
    """
    pid, code, usage = os.wait4(child.process.pid, os.WNOHANG)
    if not pid:
        return None
    child.process.returncode = code = os.waitstatus_to_exitcode(code)
    task, reason = child.task, ""
    if code == 0 and is_done(task):
        state = DONE
    elif code == INTERRUPTED or (asked and code == -signal.SIGTERM):  # before it could listen
        state = STOPPED
    else:
        state, reason = FAILED, _reason(task, code)
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "run": task.name,
        "exit_code": code,
        "state": state,
        "reason": reason,
        "wall_time_s": time.monotonic() - child.started,
        "cpu_time_s": usage.ru_utime + usage.ru_stime,
        "peak_memory_bytes": usage.ru_maxrss * scale,
        "ended": _now(),
    }


def lost(task: PlannedRun, reason: str, seconds: float) -> Attempt:
    """An attempt that ended with the job around it: what the run took is not known."""
    nothing = {"exit_code": None, "cpu_time_s": 0.0, "peak_memory_bytes": 0}
    said = f"{reason}: {last_words(task)}"
    found = {"run": task.name, "state": FAILED, "reason": said, "wall_time_s": seconds}
    return found | nothing | {"ended": _now()}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _reason(task: PlannedRun, code: int) -> str:
    """The line that says why: the message of a user's mistake, or the last one there is."""
    ended = f"exit code {code}"
    if code < 0:
        ended = f"killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            ended += " (out of memory?)"
    return f"{ended}: {last_words(task, code)}"


def last_words(task: PlannedRun, code: int = 1) -> str:
    """The last line of a run's log, or the mistake that it names."""
    path = log_path(task)
    text = path.read_text("utf-8", errors="replace")[-8000:] if path.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] if code == 2 else []
    return (said or lines or ["it said nothing"])[-1].removeprefix("error: ")[:300]


def record(workdir: Path, attempt: Attempt) -> None:
    """Append one attempt to WORKDIR/attempts.jsonl."""
    with (workdir / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(attempt) + "\n")


_RECORDED = {"run", "peak_memory_bytes"}


def read_attempts(workdir: Path) -> dict[str, list[Attempt]]:
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

"""The runs of a study in their order: started, watched, stopped and never left behind.

Where a run is carried out is a launcher's business: here, in processes of this host (`Local`), or
on a cluster (`studies.clusters`). A run that crashes or leaks takes nothing with it.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jax_irkd.host import locks, room
from jax_irkd.host.interrupts import StopRequest
from jax_irkd.studies import attempts
from jax_irkd.studies.attempts import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    WAITING,
    Attempt,
    Child,
    Key,
    Status,
    is_done,
    read_attempts,
)
from jax_irkd.studies.planning import PlannedRun


class Launcher(Protocol):
    """Carries runs out. A handle is whatever it knows a started run by."""

    poll_s: float  # between two looks at the runs

    def begin(self, tasks: Sequence[PlannedRun], workdir: Path, lock: int) -> dict[Key, Any]:
        """The study begins and holds the file descriptor `lock`; handles of runs still at work."""

    def start(self, ready: Sequence[PlannedRun], running: Mapping[Key, Any]) -> dict[Key, Any]:
        """Start as many of `ready`, in their order, as there is room for beside `running`."""

    def state(self, handle: Any) -> str:
        """RUNNING, or QUEUED."""

    def ended(self, handle: Any, asked: bool) -> list[Attempt] | None:
        """The attempts at a run that has ended, else None; `asked`: whether it was told to stop."""

    def stop(self, handles: Iterable[Any]) -> str:
        """Tell runs to save and stop. Where they go on without us: the words that say so."""

    def kill(self, handles: Iterable[Any]) -> None:
        """End runs at once: an error or a second Ctrl-C."""


class Local:
    """Processes of this host, up to `jobs` side by side, as far as its memory allows."""

    poll_s = 0.2

    def __init__(self, jobs: int = 1):
        self._jobs = jobs

    def begin(self, tasks: Sequence[PlannedRun], workdir: Path, lock: int) -> dict[Key, Child]:
        self._workdir, self._lock = workdir, lock
        return {}

    def start(self, ready: Sequence[PlannedRun], running: Mapping[Key, Child]) -> dict[Key, Child]:
        started: dict[Key, Child] = {}
        environment = dict(os.environ)
        if self._jobs > 1:  # several processes share a GPU's memory
            environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        for task in ready:
            beside = [*running.values(), *started.values()]
            peak = room.largest_peak(read_attempts(self._workdir))
            if len(beside) >= self._jobs or not room.room(peak, (c.process.pid for c in beside)):
                break
            # As long as a run lives, so does the lock, should the study be killed.
            started[task.key] = attempts.start(task, environment, (self._lock,))
        return started

    def state(self, handle: Child) -> str:
        return RUNNING

    def ended(self, handle: Child, asked: bool) -> list[Attempt] | None:
        attempt = attempts.ended(handle, asked)
        return None if attempt is None else [attempt]

    def stop(self, handles: Iterable[Child]) -> str:
        for child in handles:
            attempts.tell(child, signal.SIGTERM)
        return ""

    def kill(self, handles: Iterable[Child]) -> None:
        for child in handles:
            attempts.tell(child, signal.SIGKILL)
            child.process.wait()


def run_tasks(
    tasks: Sequence[PlannedRun],
    workdir: Path,
    launcher: Launcher,
    watch: Callable[[Mapping[Key, Status]], None],
    poll: float | None = None,
    begun: Callable[[], None] = lambda: None,
) -> dict[Key, Status]:
    """Carry out `tasks`; the final state of each.

    What has its results is done. A failed task does not stop the others, except those that
    need it. SIGTERM, SIGINT and SIGUSR1 are passed on: the runs save and stop, and so do we, but
    for a launcher whose runs go on without us. A second SIGINT ends them at once and raises
    KeyboardInterrupt. `begun` is called once, when nothing stands in the way
    any more, `watch` at every look at the runs, `poll` seconds apart (None: as the launcher has
    it).

    Raises UserError when another study works in `workdir`, or a run that one has left behind.
    """
    status = {task.key: Status(DONE if is_done(task) else WAITING) for task in tasks}
    with _locked(workdir) as lock, StopRequest() as stop:
        running = launcher.begin([t for t in tasks if not is_done(t)], workdir, lock)
        try:
            begun()
            told = False
            while True:
                asked = stop.requested is not None
                _collect(launcher, running, status, workdir, asked)
                if asked and not told:
                    told, left = True, launcher.stop(running.values())
                    if left:
                        status |= {key: Status(STOPPED, left) for key in running}
                        running = {}
                if not asked:
                    _release(tasks, status)
                    running |= launcher.start(_ready(tasks, status, running), running)
                status |= {k: Status(launcher.state(handle)) for k, handle in running.items()}
                watch(status)
                if not running:
                    return status
                time.sleep(launcher.poll_s if poll is None else poll)
        finally:
            launcher.kill(running.values())


def _collect(
    launcher: Launcher,
    running: dict[Key, Any],
    status: dict[Key, Status],
    workdir: Path,
    asked: bool,
) -> None:
    """Take down what became of the runs that have ended."""
    for key, handle in list(running.items()):
        found = launcher.ended(handle, asked)
        if found is None:
            continue
        del running[key]
        for attempt in found:
            attempts.record(workdir, attempt)
        status[key] = Status(found[-1]["state"], found[-1]["reason"])


def _ready(
    tasks: Sequence[PlannedRun], status: Mapping[Key, Status], running: Mapping[Key, Any]
) -> list[PlannedRun]:
    """What waits for nothing any more."""
    return [
        task
        for task in tasks
        if status[task.key].state == WAITING
        and task.key not in running
        and (task.needs is None or status[task.needs].state == DONE)
    ]


def _release(tasks: Sequence[PlannedRun], status: dict[Key, Status]) -> None:
    """Give up tasks whose teacher has failed or was stopped."""
    for task in tasks:
        before = status[task.needs] if task.needs else None
        if status[task.key].state == WAITING and before and before.state in (FAILED, STOPPED):
            reason = f"its teacher {before.state}" + (f": {before.reason}" if before.reason else "")
            status[task.key] = Status(before.state, reason)


@contextlib.contextmanager
def _locked(workdir: Path):
    """Holds WORKDIR/study.lock; yields its file descriptor, which the runs inherit."""
    busy = (
        "another study, or a run that one left behind, works in {folder}; wait for it, stop it, or "
        "use another --workdir"
    )
    with locks.held(workdir, name="study.lock", busy=busy) as file:
        yield file.fileno()

"""The live table of a study: what each run is at, method by seed."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from jax_irkd.errors import UserError
from jax_irkd.reporting.wording import percent
from jax_irkd.runs.results import finished, number, title_of
from jax_irkd.studies.attempts import DONE, FAILED, QUEUED, RUNNING, STOPPED, Key, Status
from jax_irkd.studies.planning import PlannedRun
from jax_irkd.training.logs import read_log

_STYLES = {DONE: "green", RUNNING: "bold", QUEUED: "cyan", FAILED: "red", STOPPED: "yellow"}


class StatusTable:
    """A table drawn over itself on a terminal; elsewhere a line for each change of a state."""

    def __init__(self, tasks: Sequence[PlannedRun], console: Console):
        self.tasks, self.console = tasks, console
        self._shown: dict[Key, str] = {}
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._calls = 0

    def __enter__(self) -> "StatusTable":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, status: Mapping[Key, Status]) -> None:
        """Show `status`; reads the logs of the runs every tenth call only."""
        changed = [
            task for task in self.tasks if self._shown.get(task.key) != status[task.key].state
        ]
        for task in changed:
            before = self._shown.get(task.key)
            self._shown[task.key] = status[task.key].state
            if not self._live and not (before is None and status[task.key].state == "waiting"):
                line = f"{task.name}: {describe(task, status[task.key])}"
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._calls += 1
        if self._live and (changed or self._calls % 10 == 0):
            self._live.update(table(self.tasks, status), refresh=True)


def table(tasks: Sequence[PlannedRun], status: Mapping[Key, Status]) -> Table:
    """State, step and top-1 of every run: a row a method, a column a seed."""
    seeds = list(dict.fromkeys(task.seed for task in tasks))
    methods = list(dict.fromkeys(task.method for task in tasks))
    found = {task.key: task for task in tasks}
    made = Table(box=box.SIMPLE)
    made.add_column("method", no_wrap=True)
    for seed in seeds:
        made.add_column(f"seed {seed}", no_wrap=True)
    for method in methods:
        cells = []
        for seed in seeds:
            task = found.get((seed, method))
            if task is None:
                cells.append("")
                continue
            style = _STYLES.get(status[task.key].state, "dim")
            cells.append(f"[{style}]{describe(task, status[task.key], brief=True)}[/{style}]")
        made.add_row(title_of(method), *cells)
    return made


def describe(task: PlannedRun, status: Status, brief: bool = False) -> str:
    """State, step and top-1 in a few words; unless `brief`, why a run failed."""
    parts = [status.state]
    step, top1 = progress(task.folder)
    if step:
        parts.append(f"step {step}")
    if top1 is not None:
        parts.append(percent(top1))
    if status.reason and not brief:
        parts.append(status.reason)
    return " · ".join(parts)


def progress(folder: Path) -> tuple[int, float | None]:
    """The last step of a run and its top-1, the latest if it has not ended."""
    with contextlib.suppress(UserError):  # the study says at its end which run is damaged
        if results := finished(folder):
            return results.get("steps", 0), number(results.get("metrics", {}).get("top1"))
    log = read_log(folder)
    top1 = [line["top1"] for line in log if line.get("top1") is not None]
    return max((line["step"] for line in log), default=0), number(top1[-1]) if top1 else None

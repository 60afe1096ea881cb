"""The terminal: one console and one progress bar for all commands."""

import errno
import functools
import os
import sys
import time

import rich.progress
from rich.console import Console
from rich.table import Column


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `host.commands` how a command ends whose output nobody reads."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def make_console(width: int) -> Console:
    """A console on stdout, as wide as the terminal; `width` columns where there is none."""
    return _Console(width=None if sys.stdout.isatty() else width)


console = _Console()


class Progress:
    """A bar with rate, ETA and the latest numbers; without a terminal a line every ten seconds.

    The first update only starts the clock: what came before it was compilation.
    """

    def __init__(
        self, title: str, total: int, first: int = 0, unit: str = "steps", quiet: bool = False
    ):
        self._title, self._total, self._unit, self._quiet = title, total, unit, quiet
        self._printed, self._since = time.monotonic(), None
        self._bar = None
        if console.is_terminal and not quiet:
            self._bar = rich.progress.Progress(*_columns(), console=console, expand=True)
            self._bar.start()
            fields = {"rate": "", "eta": "", "text": ""}
            self._task = self._bar.add_task(title, total=total, completed=first, **fields)

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` of the total are done, with `text` behind."""
        now = time.monotonic()
        self._since = self._since or (done, now)
        before, start = self._since
        speed = (done - before) / max(now - start, 1e-9)
        rate = f"{speed:.3g} {self._unit}/s" if speed else ""
        eta = f"ETA {_clock((self._total - done) / speed)}" if speed else ""
        if self._bar:
            self._bar.update(self._task, completed=done, rate=rate, eta=eta, text=text)
        elif not self._quiet and (now - self._printed > 10 or done == self._total):
            self._printed = now
            parts = (f"{self._title}: {done}/{self._total}", rate, eta, text)
            print("  ".join(part for part in parts if part), flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self._bar:
            self._bar.stop()


def _columns() -> list[rich.progress.ProgressColumn]:
    """What cannot be missed keeps its width; the numbers behind take what is left of the line."""
    whole = functools.partial(Column, no_wrap=True)
    text = functools.partial(rich.progress.TextColumn, markup=False)
    return [
        text("{task.description}", table_column=whole()),
        rich.progress.BarColumn(bar_width=24 if console.width >= 140 else 8),
        rich.progress.MofNCompleteColumn(table_column=whole()),
        text("{task.fields[rate]}", table_column=whole()),
        text("{task.fields[eta]}", table_column=whole()),
        text("{task.fields[text]}", table_column=whole(overflow="ellipsis", ratio=1)),
    ]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

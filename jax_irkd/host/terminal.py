"""The terminal: one console and one progress bar for all commands."""

import errno
import os
import sys
import time

import rich.progress
from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `host.commands` how a command ends whose output nobody reads."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def make_console(width: int) -> Console:
    """A console on stdout, as wide as the terminal; `width` columns where there is none."""
    return _Console(width=None if sys.stdout.isatty() else width)


console = _Console()


class Progress:
    """A bar with rate, ETA and the latest numbers; without a terminal a line every ten seconds."""

    def __init__(
        self, title: str, total: int, first: int = 0, unit: str = "steps", quiet: bool = False
    ):
        self._title, self._total, self._unit, self._quiet = title, total, unit, quiet
        self._first, self._start, self._printed = first, time.monotonic(), time.monotonic()
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[text]}"),
        )
        self._bar = (
            rich.progress.Progress(*columns, console=console)
            if console.is_terminal and not quiet
            else None
        )
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, completed=first, rate="", text="")

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` of the total are done, with `text` behind."""
        now = time.monotonic()
        speed = (done - self._first) / max(now - self._start, 1e-9)
        rate = f"{speed:.3g} {self._unit}/s"
        if self._bar:
            self._bar.update(self._task, completed=done, rate=rate, text=text)
        elif not self._quiet and (now - self._printed > 10 or done == self._total):
            self._printed = now
            left = (self._total - done) / max(speed, 1e-9)
            eta = f"{left // 60:.0f}:{left % 60:02.0f}"
            print(f"{self._title}: {done}/{self._total}  {rate}  ETA {eta}  {text}", flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self._bar:
            self._bar.stop()

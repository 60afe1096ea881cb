"""SIGTERM, SIGINT and SIGUSR1 ask a run to save and stop; a second SIGINT ends it at once."""

import contextlib
import signal
import sys
from collections.abc import Iterator

INTERRUPTED = 75  # exit code: the state is saved, the same command continues (EX_TEMPFAIL)


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


class StopRequest:
    """While active, remembers the first signal that asks to stop (`requested`, else None)."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self):
        self.requested: str | None = None
        self._previous: dict = {}

    def __enter__(self) -> "StopRequest":
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame) -> None:
        if number == signal.SIGINT and self.requested == "SIGINT":
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        print(f"\n{self.requested}: finishing the step and saving", file=sys.stderr, flush=True)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started in this block do not hear Ctrl-C, which reaches all of a terminal's.

    It is for their parent to end them; by themselves each would end with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""Signals that ask a run to stop: SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGINT.

In the loop (`StopRequest`) the step is finished and saved first; a second SIGINT ends it at once.
Anywhere else (`listening`) all but the last end the command where it is, with the same exit code:
what is on disk is whole, and the same command continues. Outside the main thread, where Python
delivers no signals, nothing is listened to.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

INTERRUPTED = 75  # exit code: the state is saved, the same command continues (EX_TEMPFAIL)
_MOMENT = 0.05  # seconds
_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # as far as the system has them
ENDING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class Interrupted(Exception):
    """The run was asked to stop and has saved its state."""


class Ended(BaseException):
    """A signal outside the loop. No `except Exception` of a library may hold it up."""

    def __init__(self, number: int):
        name = signal.Signals(number).name
        super().__init__(f"{name}: stopped; run the same command again to continue")
        self.number = number


@contextlib.contextmanager
def sent_again() -> Iterator[None]:
    """Until the block ends, an exception of a signal that Python drops comes once more.

    It drops what is raised in a finaliser or in a callback of the garbage collector, as JAX has
    one. The signal is sent again a moment later, when the main thread is elsewhere, but not after
    the block: what it would have stopped is done then.
    """
    before, main = sys.unraisablehook, threading.main_thread().ident
    timers = []

    def hook(dropped) -> None:
        number = _number_of(dropped.exc_value)
        if number is None:
            return before(dropped)
        timers.append(threading.Timer(_MOMENT, signal.pthread_kill, [main, number]))  # wakes it
        timers[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()


def _number_of(error: BaseException | None) -> int | None:
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    return error.number if isinstance(error, Ended) else None


class StopRequest:
    """While active, remembers the first signal that asks to stop (`requested`, else None)."""

    SIGNALS = (*ENDING, signal.SIGINT)

    def __init__(self):
        self.requested: str | None = None
        self._previous: dict = {}

    def __enter__(self) -> "StopRequest":
        self._previous = _handle(self.SIGNALS, self._remember)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def is_asked(self) -> bool:
        return self.requested is not None

    def _remember(self, number: int, frame) -> None:
        if number == signal.SIGINT and self.requested == "SIGINT":
            signal.signal(number, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
        # A terminal that hung up; or the signal came in the middle of a write to this stream.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            print(f"\n{self.requested}: finishing the step and saving", file=sys.stderr, flush=True)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Until the block ends, a signal of `ENDING` raises `Ended` where the main thread is."""

    def end(number: int, frame) -> None:
        raise Ended(number)

    with _handled(end):
        yield


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Until the block ends, a signal of `ENDING` ends the process: nothing is there to be saved."""

    def leave(number: int, frame) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{Ended(number)}\n".encode())
        os._exit(INTERRUPTED)

    with _handled(leave):
        yield


@contextlib.contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Until the block ends, a signal of `ENDING` is a KeyboardInterrupt where the main thread is:
    for what has no state to save, but an end to be carried out, as a stream that is recorded."""

    def end(number: int, frame) -> None:
        raise KeyboardInterrupt

    with _handled(end):
        yield


@contextlib.contextmanager
def _handled(handler) -> Iterator[None]:
    before = _handle(ENDING, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _handle(numbers, handler) -> dict:
    """Let `handler` hear `numbers`, but for those that are ignored (nohup); what heard them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in numbers}
    heard = {n: h for n, h in before.items() if h not in (signal.SIG_IGN, None)}
    for number in heard:
        signal.signal(number, handler)
    return heard


def leave_with(code: int) -> None:
    """From now on, as all is done, a signal of `ENDING` ends the process with `code`."""
    _handle(ENDING, lambda number, frame: os._exit(code))


def hear_again() -> None:
    """Give the signals back to whom they belonged in Python, after a library has taken them.

    JAX takes SIGTERM when it joins processes, for a service of its own that nobody here asks.
    """
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if (handler := signal.getsignal(number)) is not None:
                signal.signal(number, handler)


def end_with_parent(told: Callable[[], bool] = lambda: False) -> None:
    """This process ends with the one that started it, however that ends, or when it is `told` to.

    A pool alone would leave its workers waiting for ever.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        while parent.is_alive() and not told():
            parent.join(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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

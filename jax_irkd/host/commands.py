"""How every command starts and ends: its exit code, its last words, and Ctrl-C at any moment.

| exit code | |
| --- | --- |
| 0 | done |
| 1 | a part failed; with a traceback: a fault of this package |
| 2 | a mistake of the user, or a full disk: one line says which |
| 75 | interrupted and saved, or another of several processes is gone: the same command continues |
| 130 | interrupted by Ctrl-C |
| 141 | whoever read the output has gone (`… | head`) |

Nothing heavy is imported here: a command's file needs only this, so that `--help` is quick.
"""

import atexit
import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from jax_irkd.errors import FULL, UserError
from jax_irkd.host import peers
from jax_irkd.host.interrupts import (
    ENDING,
    INTERRUPTED,
    Ended,
    Interrupted,
    leave_with,
    leaving_at_once,
    listening,
    sent_again,
)

MISTAKE, CTRL_C, NOBODY_READS = 2, 130, 141
# What a disk or a network answers at a write, where Python does not know the file's name.
_OF_DISKS = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENAMETOOLONG, errno.ENODEV)
AGAIN = "run the same command again to continue"


def run(
    body: Callable[[list[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    resumes: bool = False,
) -> int:
    """Carry out `body(argv)`; the exit code, after one line on stderr if it did not go well.

    `argv` is without the program's name; None takes the process's. `resumes` says that the same
    command goes on where it was stopped. Errors that no user can cause pass through.
    """
    pressed = _CtrlC()
    _speak_plainly()
    try:
        ending = listening() if resumes else contextlib.nullcontext()
        with sent_again(), pressed.heard(), ending:
            code = _carry_out(body, sys.argv[1:] if argv is None else list(argv))
    except BaseException as error:
        code = _last_words(error, pressed.seen, f"; {AGAIN}" if resumes else "")
        if argv is None and isinstance(error, Ended):  # wherever it was: XLA may be at work
            _leave_now(code)
        if code is None:
            others = peers.settle()
            if argv is None and (others or _left_behind()):
                traceback.print_exc()
                _leave_threads(1) if not others else _leave_now(1)
            raise
    if argv is None:  # the process ends now, and nothing is left to be saved
        leave_with(code)
        peers.farewell(code)
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if _left_behind():
            _leave_threads(code)
    return code


def _left_behind() -> bool:
    """Whether threads of Orbax still wait, up to minutes, for a save that failed as it began.

    Python would wait for them.
    """
    return any(
        type(thread).__module__.startswith("orbax.") and not thread.daemon
        for thread in threading.enumerate()
    )


def _leave_threads(code: int) -> None:
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    _leave_now(code)


def _leave_now(code: int) -> None:
    peers.farewell(code, at_once=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _carry_out(body: Callable[[list[str]], int | None], argv: list[str]) -> int:
    main = sys.modules["__main__"]
    started = os.path.abspath(getattr(main, "__file__", None) or "")
    if getattr(main, "__spec__", None) is None and os.path.dirname(started) == _PACKAGE:
        name = os.path.basename(started).removesuffix(".py")
        raise UserError(f"start python -m jax_irkd.{name}, not the file {main.__file__}")
    if "--version" in argv:
        print(version())
        return 0
    code = body(argv) or 0
    sys.stdout.flush()
    return code


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def version() -> str:
    """The versions of this package, of JAX and of Python, in one line."""
    import importlib.metadata
    import platform

    import jax_irkd

    try:
        jax = importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        jax = "is missing"
    return f"jax_irkd {jax_irkd.__version__}, jax {jax}, Python {platform.python_version()}"


def _last_words(error: BaseException, interrupted: bool, again: str) -> int | None:
    """Say why a command ended; its exit code, None for what no user can cause."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    if isinstance(error, Interrupted | Ended):
        _say(str(error))
        return INTERRUPTED
    if isinstance(error, UserError):
        _say(f"error: {error}")
        return MISTAKE
    if isinstance(error, KeyboardInterrupt) or interrupted:  # some libraries make it another error
        _say(f"interrupted{again}")
        return CTRL_C
    if isinstance(error, BrokenPipeError):
        _leave_output()
        return NOBODY_READS
    if isinstance(error, OSError) and error.errno in FULL:
        _leave_output()
        where = f" ({error.filename})" if error.filename else ""
        _say(f"error: the disk is full{where}; free space{again or ' and try again'}")
        return MISTAKE
    if isinstance(error, OSError) and error.filename:
        _say(f"error: {error.filename}: {error.strerror or error}")
        return MISTAKE
    if isinstance(error, OSError) and error.errno in _OF_DISKS:
        _say(f"error: {error.strerror}; check the disk{again or ' and try again'}")
        return MISTAKE
    if isinstance(error, ModuleNotFoundError) and not f"{error.name}.".startswith("jax_irkd."):
        _say(
            f"error: the module {error.name} is not installed; pip install 'jax-irkd' brings what "
            "the commands need, python -m jax_irkd.doctor says what is missing"
        )
        return MISTAKE
    if isinstance(error, RuntimeError):
        from jax_irkd.host import failures  # where JAX has failed, nothing is to be quick

        if told := failures.in_words(error):
            _say(f"error: {told}")
            return MISTAKE
    return None


def _speak_plainly() -> None:
    """Let a terminal that is not of UTF-8 show what it can instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="replace")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _leave_output() -> None:
    """Let what is still buffered go nowhere: else Python complains once more when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _CtrlC:
    """SIGINT as KeyboardInterrupt, and whether it came (`seen`)."""

    def __init__(self):
        self.seen = False

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Until the block ends; where SIGINT is somebody else's or ignored it stays so."""
        before = signal.getsignal(signal.SIGINT)
        ours = before is signal.default_int_handler and _in_main_thread()
        if ours:
            signal.signal(signal.SIGINT, self._raise)
        try:
            yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around a command's imports: Ctrl-C then ends the process at once, and absl is quiet.

    Nothing is there yet to be saved, and a library whose import is broken off says anything.
    """
    before = signal.getsignal(signal.SIGINT)
    ours = callable(before) and _in_main_thread()
    # Only in a command that goes on where it was stopped: the others end as any process does.
    resumes = _in_main_thread() and callable(signal.getsignal(ENDING[0]))
    if ours:
        signal.signal(signal.SIGINT, _leave)
    try:
        with leaving_at_once() if resumes else contextlib.nullcontext():
            yield
        from absl import logging

        logging.set_verbosity(logging.ERROR)  # Orbax and TFDS remark on the usual
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _leave(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(CTRL_C)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()

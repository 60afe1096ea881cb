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
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from jax_irkd.errors import FULL, UserError, nearest
from jax_irkd.host import peers
from jax_irkd.host.interrupts import (
    ENDING,
    INTERRUPTED,
    Ended,
    Interrupted,
    leave_with,
    leaving_at_once,
    listening,
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
        with pressed.heard(), listening() if resumes else contextlib.nullcontext():
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


def fitted(text: str) -> str:
    """A docstring as wide as the terminal, 100 columns at most.

    Paragraphs are set anew; commands, tables and what is indented keep their lines.
    """
    text = re.sub(r"\n +(?=\[|--)", " ", text.strip())  # a command's options, wherever they fit
    blocks = [block.splitlines() for block in text.split("\n\n")]
    blocks = [b if any(map(_LINES.match, b)) else [" ".join(b)] for b in blocks]
    return "\n\n".join("\n".join(map(fitted_line, block)) for block in blocks)


_LINES = re.compile(r"\s|python -m|\S+ {2,}\S")


def fitted_line(line: str) -> str:
    """`line` as wide as the terminal; it goes on below its beginning, or its second column."""
    import shutil
    import textwrap

    begin = re.match(r"\s*(\S+ {2,})?", line)[0]
    return textwrap.fill(
        line[len(begin) :],
        min(shutil.get_terminal_size().columns, 100),
        initial_indent=begin,
        subsequent_indent=" " * (len(begin) + 4 * line.lstrip().startswith("python -m")),
        break_long_words=False,
        break_on_hyphens=False,
    )


def parser(module: str, text: str):
    """An argparse parser for the command `module`, described by its docstring `text`.

    It raises UserError for wrong arguments and names the nearest option for an unknown one. The
    help tells every default. In values that begin with ~ it stands for the home folder: a shell
    leaves it alone behind an equals sign.
    """
    import argparse
    import itertools

    from jax_irkd.host.files import at_home

    class Formatter(argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str:
            said, default = action.help or "", action.default
            silent = default is None or default in ("", argparse.SUPPRESS) or action.nargs == 0
            if silent or not action.option_strings or "default" in said:
                return said
            return f"{said} (default: {str(default).replace('%', '%%')})".lstrip()

    class Parser(argparse.ArgumentParser):
        def error(self, message: str):
            message = re.sub("argument (--.*): expected .*argument.*", r"\1 has no value", message)
            raise UserError(f"{message}; --help lists what there is")

        def parse_args(self, args=None, namespace=None):
            self._check_names(args or ())
            found, rest = self.parse_known_args(args, namespace)
            if rest:
                raise UserError(f"{rest[0]!r} is one word too many; --help shows what comes where")
            for name, value in vars(found).items():
                setattr(found, name, at_home(value))
            return found

        def _check_names(self, args: Sequence[str]) -> None:
            """Before what is missing is told: it may be what was misspelt."""
            known = self._option_string_actions
            given = itertools.takewhile(lambda arg: arg != "--", args)
            names = [arg.partition("=")[0] for arg in given if re.match("--?[a-zA-Z]", arg)]
            wrong = [name for name in names if name not in known]
            if wrong and not {"-h", "--help"} & set(names):
                shown = sorted(name for name in known if name.startswith("--"))
                raise UserError(f"unknown option {wrong[0]}{nearest(wrong[0], shown)}")

    return Parser(
        prog=f"python -m {module}",
        description=fitted(text),
        formatter_class=Formatter,
        allow_abbrev=False,
    )

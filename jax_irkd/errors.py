"""The one exception for what a user can cause and correct, and how it is put in words."""

import difflib
import errno
import functools
import sys
from collections.abc import Iterable

# Of an OSError: the disk, the user's part of it, or the largest file allowed, is full.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """A mistake in the input. The message names the value, the choices and the next step.

    Commands print it as one line and exit with code 2, without a traceback.
    """


def one_line(error: BaseException) -> str:
    """What `error` says, in one line; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


@functools.cache
def once(text: str) -> None:
    """Say on stderr that something optional is missing and what is done without it, once."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def plural(count: int, one: str, many: str = "") -> str:
    """`1 step`, `2 steps`; `many` where it is not `one` with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of a message on an unknown `name`: `; did you mean 'ours'? choose from …`."""
    known = [str(choice) for choice in choices]
    lower = {choice.lower(): choice for choice in reversed(known)}
    close = [lower[c] for c in difflib.get_close_matches(str(name).lower(), lower, n=3)]
    said = f"; did you mean {' or '.join(map(repr, close))}? Choose" if close else "; choose"
    return f"{said} from {', '.join(known)}" if known else "; there is nothing to choose from"

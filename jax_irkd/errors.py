"""The one exception for what a user can cause and correct."""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)  # of an OSError: the disk, or the user's part of it, is full


class UserError(Exception):
    """A mistake in the input. The message names the value, the choices and the next step.

    Commands print it as one line and exit with code 2, without a traceback.
    """


def one_line(error: BaseException) -> str:
    """What `error` says, in one line; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__

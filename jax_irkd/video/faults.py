"""A film that cannot be read as it should: one error that names the file and the reason."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator

import av

from jax_irkd.errors import UserError
from jax_irkd.video.archives import Source, name_of, words

# What a decoder or a file system raises for a file that is not as it should be.
FAULTS = (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError)


class VideoError(UserError):
    """A video that cannot be read as it should. The message names the file and the reason."""

    def __init__(self, source: Source, reason: str):
        super().__init__(f"{name_of(source)}: {reason}")
        self.name, self.reason = name_of(source), reason

    def __reduce__(self):  # Exceptions travel between processes by their arguments.
        return VideoError, (self.name, self.reason)


@contextlib.contextmanager
def named_faults(
    source: Source, reason: Callable[[], str] = lambda: "cannot be read"
) -> Iterator[None]:
    """Puts the file's name and a reason on whatever the decoder or the file system raises."""
    try:
        yield
    except FAULTS as error:
        raise named(source, error, reason()) from error


def named(source: Source, error: Exception, reason: str = "cannot be read") -> "VideoError":
    """`error` as a VideoError of `source`; one that is so already stays."""
    if isinstance(error, VideoError):
        return error
    return VideoError(source, f"{reason} ({words(error)})")


def refuse_no_file(path: str | os.PathLike) -> None:
    """Raises VideoError unless `path` is a file with content; pipes and devices would hang."""
    try:
        status = os.stat(path)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        reason = "does not exist; check the path" if gone else f"cannot be read ({words(error)})"
        raise VideoError(path, reason) from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(path, "is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(path, "is a pipe, a socket or a device, no file")
    if not status.st_size:
        raise VideoError(path, "is empty (0 bytes); copy it again")

"""One process at a time in a folder: a lock that ends with the process that holds it."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import IO

from jax_irkd.errors import UserError, once

LOCK = ".lock"
POLL_S = 0.5
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def held(
    folder: Path, *, name: str = LOCK, wait: bool = False, busy: str = "", waiting: str = ""
) -> Iterator[IO[str]]:
    """Holds the lock of `folder`, which is made if need be; gives the open file.

    Where another process holds it: waits, after saying `waiting`, or raises UserError with the
    words `busy`. A file system that has no locks is named once, and nothing is locked. Raises
    UserError when the folder cannot be written.
    """
    file = _acquire(Path(folder) / name, wait, busy, waiting)
    try:
        yield file
    finally:
        file.close()


def _acquire(path: Path, wait: bool, busy: str, waiting: str) -> IO[str]:
    said = False
    while True:
        file = _opened(path)
        try:
            free = _locked(file, path.parent)
        except BaseException:
            file.close()
            raise
        # Whoever held it may have deleted the folder meanwhile: only the file that is there counts.
        if free and _is_still(path, file):
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            return file
        holder = "" if free else file.read(200).strip()
        file.close()
        if free:
            continue
        by = f"another command (process {holder})" if holder else "another command"
        if not wait:
            raise UserError(busy.format(by=by, folder=path.parent))
        if not said:
            said = True
            print(waiting.format(by=by, folder=path.parent), flush=True)
        sleep(POLL_S)


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
    except OSError as error:
        raise UserError(
            f"cannot write to {path.parent}: {error.strerror}; use another folder"
        ) from error


def _locked(file: IO[str], folder: Path) -> bool:
    """Whether the lock is ours now, or there are none here; False where another process has it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        once(f"this system has no file locks: let one command at a time work in {folder}")
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        once(
            f"{folder} lies on a file system without locks ({error.strerror}): let one command at "
            "a time work there"
        )
    return True


def _is_still(path: Path, file: IO[str]) -> bool:
    with contextlib.suppress(OSError):
        there, ours = os.stat(path), os.fstat(file.fileno())
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
    return False

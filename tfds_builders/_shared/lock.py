"""One build at a time in a folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from jax_irkd.errors import UserError


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which ends with the process. Raises UserError when it is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".build.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another build is writing to {folder}; wait until it ends, or stop it"
            ) from error
        yield

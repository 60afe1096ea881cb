"""One build at a time in a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jax_irkd.host import locks

BUSY = "another build is writing to {folder}; wait until it ends, or stop it"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock, which ends with the process. Raises UserError when it is taken."""
    with locks.held(folder, name=".build.lock", busy=BUSY):
        yield

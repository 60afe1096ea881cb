"""One build at a time in a folder."""

import contextlib
from pathlib import Path

from jax_irkd.host import locks

BUSY = "another build is writing to {folder} ({by}); wait until it ends, or stop it"


def locked(folder: Path) -> contextlib.AbstractContextManager:
    """Holds the folder's lock, which ends with the process. Raises UserError when it is taken."""
    return locks.held(folder, name=".build.lock", busy=BUSY)

"""Files that are whole or not there, and JSON files that say what is wrong with them."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from jax_irkd.errors import UserError, one_line


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write `path` so that it holds the old content or all of the new one at every moment.

    Several processes may write the same file at the same time; the last one's content stays. An
    OSError has the name of `path`, not of the file that is moved there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    return path


def expanded(path: str | Path) -> Path:
    """`path` with ~ replaced. Raises UserError where a user has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: no home folder is known here; give a full path") from error


def at_home(value: Any) -> Any:
    """A text, or each of a list of them, with a ~ that it begins with replaced; others as is."""
    if isinstance(value, list):
        return [at_home(part) for part in value]
    starts = isinstance(value, str) and value.startswith("~")
    return str(expanded(value)) if starts else value


def read_json(path: str | Path, remedy: str = "train the run again") -> Any:
    """What the JSON file `path` holds. Raises UserError with `remedy` when it cannot be read."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({one_line(error)}); {remedy}") from error

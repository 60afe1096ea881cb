"""A run's folder belongs to one configuration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jax_irkd.errors import UserError


def claim(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Make `folder` hold runs of the configuration `wanted` only.

    Raises UserError, naming the fields, when it holds another, and when it cannot be written.
    """
    path = folder / "config.json"
    if path.exists():
        held = json.loads(path.read_text())
        names = [k for k in sorted(set(held) | set(wanted)) if held.get(k) != wanted.get(k)]
        if names:
            shown = [f"{k} is {held.get(k)!r}, asked for {wanted.get(k)!r}" for k in names[:3]]
            raise UserError(
                f"{folder} holds a run with another configuration ({len(names)} fields: "
                f"{'; '.join(shown)}); use another --workdir, or --restart to begin it anew"
            )
        return
    if jax.process_index() != 0:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=1, sort_keys=True))
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; use another --workdir"
        ) from error

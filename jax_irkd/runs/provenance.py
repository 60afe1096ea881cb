"""Where a result comes from: versions, devices, commit and command."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "jax-irkd")


def provenance() -> dict[str, Any]:
    """Versions, devices, commit and command of this process."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    root = Path(__file__).parents[2]
    git = subprocess.run(
        ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "versions": versions | {"python": platform.python_version()},
        "devices": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "processes": jax.process_count(),
            "total": jax.device_count(),
        },
        "git_commit": git.stdout.strip() or None,
        "command": "python -m jax_irkd.main " + shlex.join(sys.argv[1:]),
    }

"""Where a result comes from: versions, devices, commit and command."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

import jax_irkd
from jax_irkd.errors import once
from jax_irkd.host import processor

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "jax-irkd")


def provenance() -> dict[str, Any]:
    """Versions, machine, commit and command of this process, as far as they can be told."""
    return {
        "processor": f"{processor.name()}, {processor.cores()} cores",
        "versions": {name: _version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "devices": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "processes": jax.process_count(),
            "total": jax.device_count(),
        },
        "git_commit": _commit(),
        "command": "python -m jax_irkd.main " + shlex.join(sys.argv[1:]),
    }


def used() -> dict[str, float]:
    """Processor time of this process so far, in seconds, and the most memory that it has held."""
    found = {"cpu_time_s": time.process_time()}
    try:
        import resource
    except ImportError:  # not on Windows
        return found
    scale = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return found | {"peak_memory_bytes": peak}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # a clone that is not installed
        return jax_irkd.__version__ if name == "jax-irkd" else "unknown"


def _commit() -> str | None:
    """What git calls the code of this package; None without git, or outside a clone of it."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None  # installed: a repository around it would be another project's
    command = ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.SubprocessError):
        once("git cannot be started: the results do not say of which commit they are")
        return None
    return said.stdout.strip() or None

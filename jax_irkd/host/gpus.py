"""NVIDIA's GPUs: whether one is to be expected, and which of them are this process's."""

import contextlib
import importlib.util
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from jax_irkd.errors import one_line

INSTALL = "pip install 'jax-irkd[cuda12]' (or cuda13)"


def has_driver() -> bool:
    """Whether a driver for NVIDIA GPUs is installed."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def has_wheels() -> bool:
    """Whether JAX's wheels for NVIDIA GPUs are installed."""
    return any(importlib.util.find_spec(f"jax_cuda{n}_plugin") is not None for n in (12, 13))


def expected() -> tuple[str, str] | None:
    """Why JAX should compute on a GPU, and what helps where it does not; None where it should not.

    A driver tells of a GPU, and so do wheels, which somebody installed for one: a container that
    was started without the GPU has no driver either.
    """
    if has_driver():
        reason = f" ({said()})" if said() and has_wheels() else ""
        return f"an NVIDIA GPU is there{reason}", f"{INSTALL}, or update the driver"
    if has_wheels() and not jax.config.jax_platforms:
        why = f"JAX's CUDA wheels are installed ({said() or 'no driver is there'})"
        return why, "start the container with --gpus all, or install the GPU's driver"
    return None


class _Ear(logging.Filter):
    """Keeps the last line of what JAX logs of its search, often pages, in `said`."""

    said = ""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        cause = record.exc_info and record.exc_info[1]
        if cause:
            self.said = one_line(cause)[:200]
        elif not self.said:  # a plugin's error says more than that its GPU is not used
            self.said = " ".join(record.getMessage().split())[:200]
        return False


_ear = _Ear()


def said() -> str:
    """What JAX logged of its search for devices, in a line; empty where it had nothing to say."""
    return _ear.said


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Keep for `said` what JAX logs inside the block, which looks for devices."""
    logger = logging.getLogger("jax._src.xla_bridge")
    logger.addFilter(_ear)
    try:
        yield
    finally:
        logger.removeFilter(_ear)


def of_this_process(environ: Mapping[str, str]) -> list[int] | None:
    """Which of the GPUs it sees this process takes, by their places; None leaves it to JAX.

    An empty list means all. By itself JAX gives a task of SLURM the GPU of the task's number on its
    host, which is right only where all tasks of a host see all of its GPUs and each takes one: a
    task alone on its host would leave the others idle, one that sees its own GPU only would ask for
    a GPU it does not see.
    """
    if environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    visible = [name for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    hosts, a_task = environ.get("SLURM_STEP_NUM_NODES"), environ.get("SLURM_GPUS_PER_TASK", "")
    alone = hosts is not None and hosts == environ.get("SLURM_NTASKS")
    own = a_task.rpartition(":")[2] == str(len(visible))  # of 2 or a100:2
    return list(range(len(visible))) if alone or own or len(visible) == 1 else None

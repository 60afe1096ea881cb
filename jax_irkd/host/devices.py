"""Devices and processes: what has to be set before JAX is first used."""

import os
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from jax_irkd.errors import UserError
from jax_irkd.host.memory import keep_freed_memory

_PLAIN = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")


def start(distributed: str = "auto", deterministic: bool = False) -> None:
    """Join the other processes, if there are any, and turn on the compilation cache.

    `distributed` is auto (join when SLURM started several tasks or all of COORDINATOR_ADDRESS,
    NUM_PROCESSES and PROCESS_ID are set), on (join or fail) or off. Raises UserError when joining
    fails.
    """
    keep_freed_memory()
    if deterministic:
        options = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{options} --xla_gpu_deterministic_ops=true".strip()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # else its owner decides
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "jax_irkd" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        # Not only what takes JAX's whole second: starting compiles dozens of smaller programs.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    plain = all(name in os.environ for name in _PLAIN)
    slurm = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    if distributed == "off" or (distributed == "auto" and not (plain or slurm)):
        return
    address, count, index = (os.environ.get(name) for name in _PLAIN)
    try:
        if plain:
            jax.distributed.initialize(address, int(count), int(index))
        else:
            jax.distributed.initialize()
    except Exception as error:
        raise UserError(
            f"cannot join the other processes ({type(error).__name__}: {error}); set "
            f"{', '.join(_PLAIN)} for each process, start them with srun, or use --distributed=off"
        ) from error


def barrier(name: str) -> None:
    """Wait until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

"""Devices and processes: what has to be set before JAX is first used."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jax_irkd.errors import UserError, once, one_line
from jax_irkd.host import gpus, interrupts, peers
from jax_irkd.host.memory import keep_freed_memory

# JAX's own end for a process that is gone, where `peers` cannot see it.
_LOST = {"heartbeat_timeout_seconds": 50, "shutdown_timeout_seconds": 60}
NO_DEVICE = (
    f"check the driver with nvidia-smi and the wheels with {gpus.INSTALL}, or compute on the CPU "
    "with JAX_PLATFORMS=cpu"
)
_ROOM = 4096  # bytes of what the first process tells the others
_PLAIN = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")


def start(distributed: str = "auto", deterministic: bool = False) -> None:
    """Join the other processes, if there are any, and turn on the compilation cache.

    `distributed` is auto (join when SLURM started several tasks or all of COORDINATOR_ADDRESS,
    NUM_PROCESSES and PROCESS_ID are set), on (join or fail) or off. Raises UserError when joining
    fails or JAX finds no device. A note says when an NVIDIA GPU is to be expected and not used.
    """
    keep_freed_memory(share=not _expects_gpu())
    if deterministic:
        options = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{options} --xla_gpu_deterministic_ops=true".strip()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # else its owner decides
        cache = cache_folder()
        if cache is not None:
            jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
        # Not only what takes JAX's whole second: starting compiles dozens of smaller programs.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    _join(distributed)
    local()
    peers.watch(jax.process_index(), jax.process_count(), _of_the_first, _coordinator())
    left_out = jax.default_backend() == "cpu" and not jax.config.jax_platforms and gpus.expected()
    if left_out:
        why, remedy = left_out
        once(
            f"computing on the CPU, though {why}: {remedy}; python -m jax_irkd.doctor says more, "
            "JAX_PLATFORMS=cpu that the CPU is meant"
        )
    elif gpus.said():
        once(f"JAX says of the devices: {gpus.said()}")


def _join(distributed: str) -> None:
    plain = all(name in os.environ for name in _PLAIN)
    slurm = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    if distributed == "off" or (distributed == "auto" and not (plain or slurm)):
        return
    address, count, index = (os.environ.get(name) for name in _PLAIN)
    options = {"local_device_ids": gpus.of_this_process(os.environ), **_LOST}
    try:
        if plain:
            jax.distributed.initialize(address, int(count), int(index), **options)
        else:
            jax.distributed.initialize(**options)
    except Exception as error:
        raise UserError(
            f"cannot join the other processes ({type(error).__name__}: {error}); set "
            f"{', '.join(_PLAIN)} for each process, start them with srun, or use --distributed=off"
        ) from error
    interrupts.hear_again()


def _coordinator() -> str:
    """The host that was given for the first process; empty where JAX found it by itself."""
    plain = all(name in os.environ for name in _PLAIN)
    return os.environ[_PLAIN[0]].rpartition(":")[0].strip("[]") if plain else ""


def _of_the_first(given: bytes) -> bytes:
    """What the first process gave, in all of them."""
    room = np.zeros(_ROOM, np.uint8)
    room[: len(given)] = np.frombuffer(given, np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(room))
    return sent.tobytes().rstrip(b"\0")


def local() -> list[jax.Device]:
    """This process's devices. Raises UserError where JAX finds none."""
    with gpus.heard():
        try:
            return jax.local_devices()
        except (RuntimeError, AssertionError) as error:  # JAX asserts that a search finds one
            said = gpus.said() or one_line(error)[:200]  # why a plugin failed, or that none is left
            raise UserError(f"JAX finds no device ({said}); {NO_DEVICE}") from error


def _expects_gpu() -> bool:
    """Known before JAX looks at the devices, which starts threads.

    The memory of a step lies on the GPU then, and a compiler's threads, one a core, would wait for
    the one arena that `keep_freed_memory` lets them share. Clips are still read on the CPU: with
    blocks that the kernel clears at every use that took twice as long.
    """
    return gpus.has_driver() and not (jax.config.jax_platforms or "").startswith("cpu")


def cache_folder() -> Path | None:
    """Where this package keeps what it may lose: XDG_CACHE_HOME or ~/.cache; None without a home.

    An empty XDG_CACHE_HOME counts as none, and so does a relative one, as the standard has it.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(chosen) if os.path.isabs(chosen) else Path("~/.cache").expanduser()
    except RuntimeError:
        once(
            "this user has no home folder: compiled programs are not kept; set XDG_CACHE_HOME to a "
            "folder that is"
        )
        return None
    return base / "jax_irkd"


def agree(what: str, value: object) -> None:
    """Raises UserError in every process when `value` (JSON) is not the same in all."""
    if jax.process_count() == 1:
        return
    own = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    everyones = multihost_utils.process_allgather(np.frombuffer(own, np.uint8))
    others = [i for i, row in enumerate(np.asarray(everyones)) if bytes(row) != bytes(everyones[0])]
    if others:
        raise UserError(
            f"the processes do not agree on {what}: {', '.join(map(str, others))} differ from "
            "process 0; start all with the same command and the same data"
        )


def first_does(action: Callable[[], None]) -> None:
    """`action` in the first process; what it raises as UserError is raised in all."""
    said = ""
    if jax.process_index() == 0:
        try:
            action()
        except UserError as error:
            said = str(error) or "it failed"
    if jax.process_count() > 1:
        said = _of_the_first(said.encode()[:_ROOM]).decode(errors="replace")
    if said:
        raise UserError(said)


def barrier(name: str) -> None:
    """Wait until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)

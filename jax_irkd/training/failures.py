"""What to do when a device's compiler or memory fails, in words a user can follow."""

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from jax_irkd.host.terminal import console

# What an error of XLA says, and what helps. The first that fits counts.
_REMEDIES = {
    r"RESOURCE_EXHAUSTED|[Oo]ut of memory": (
        "the device has too little memory for {clips} clips at once; take fewer with "
        "--config.{role}_training.batch_size, cut the batch into parts with "
        "--config.{role}_training.accumulation=4, or compute the maps twice instead of keeping "
        "them with --config.{role}_model.remat=True"
    ),
    r"no kernel image|compute capability|not a recognized processor": (
        "these CUDA wheels do not know this GPU; take newer ones, pip install --upgrade "
        "'jax-irkd[cuda12]' (or cuda13), or train on the CPU with JAX_PLATFORMS=cpu"
    ),
    r"driver version is insufficient|UNSUPPORTED_PTX|unsupported toolchain": (
        "the GPU's driver is too old for these CUDA wheels; update it (nvidia-smi shows which it "
        "is), or install the extra cuda12 in place of cuda13"
    ),
    r"tile sizes|[Tt]riton|GemmFusion|tiling": (
        "a matrix product cannot be compiled; put XLA_FLAGS=--xla_gpu_enable_triton_gemm=false in "
        "front of the command"
    ),
    r"CUDNN|cudnn|DNN library|convolution": (
        "the convolutions cannot be set up; unset LD_LIBRARY_PATH, so that cuDNN is the one JAX "
        "brought, or put XLA_FLAGS=--xla_gpu_strict_conv_algorithm_picker=false in front of the "
        "command"
    ),
    r"[Aa]utotun": (
        "trying out kernels fails; put XLA_FLAGS=--xla_gpu_autotune_level=0 in front of the command"
    ),
}
_MARK = "compiling"
PATIENCE = 10.0  # seconds
_NOTICE = (
    "compiling the update; the first time this can take some minutes, the next start finds it in "
    "the cache"
)


def remedy(text: str, role: str = "student", clips: int = 0) -> str | None:
    """What helps against an error that says `text`; None for an error nothing is known about."""
    for pattern, words in _REMEDIES.items():
        if re.search(pattern, text):
            return words.format(role=role, clips=clips or "so many")
    return None


def first_line(error: Exception, length: int = 200) -> str:
    """The beginning of what an error says: XLA's go on for pages."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text if len(text) <= length else text[: length - 1] + "…"


@contextlib.contextmanager
def compiling(folder: Path, watched: bool) -> Iterator[None]:
    """Leave a mark while a program is compiled: where XLA cannot, it may end the process.

    And say what is going on where it takes long: on GPUs XLA tries out many kernels.
    """
    if not watched:
        yield
        return
    mark = folder / _MARK
    mark.touch()
    notice = threading.Timer(PATIENCE, console.print, (_NOTICE,), {"highlight": False})
    notice.daemon = True
    notice.start()
    try:
        yield
    finally:
        notice.cancel()
    mark.unlink(missing_ok=True)


def last_time(folder: Path) -> str | None:
    """What to tell whoever starts again after a process that ended while it compiled."""
    mark = folder / _MARK
    if not mark.exists():
        return None
    mark.unlink()
    return (
        "the last start ended while XLA compiled the first step; if it said 'Check failed', put "
        "XLA_FLAGS=--xla_gpu_enable_triton_gemm=false in front of the command"
    )

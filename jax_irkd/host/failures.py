"""What to do when a device's compiler or memory fails, in words a user can follow."""

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from jax_irkd.errors import UserError, plural
from jax_irkd.host.terminal import console

_MEMORY = r"RESOURCE_EXHAUSTED|[Oo]ut of memory|OUT_OF_MEMORY"
_TOO_LITTLE = "the device has too little memory"
OF_A_COMMAND = (
    f"{_TOO_LITTLE}; end what else runs there (nvidia-smi), take fewer clips at once "
    "(--batch, --config.input.eval_batch_size), or compute on the CPU with JAX_PLATFORMS=cpu"
)
OF_AN_EVALUATION = (
    f"{_TOO_LITTLE} to evaluate so many clips at once; take fewer with "
    "--config.input.eval_batch_size, or end what else runs there (nvidia-smi)"
)
# What an error of XLA says, and what helps. The first that fits counts.
_REMEDIES = {
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


def of_updates(role: str, clips: int, parts: int | None = None) -> str:
    """What helps where the updates of `role` need too much memory.

    A device holds so many `clips` at once; `parts` is the accumulation to offer, None for none.
    """
    cut = f"cut the batch into parts with --config.{role}_training.accumulation={parts}, "
    return (
        f"{_TOO_LITTLE} for {plural(clips, 'clip')} at once; take fewer with "
        f"--config.{role}_training.batch_size, {cut if parts else ''}or compute the maps twice "
        f"instead of keeping them with --config.{role}_model.remat=True"
    )


def remedy(text: str, memory: str = OF_A_COMMAND) -> str | None:
    """What helps against an error that says `text`; None for an error nothing is known about.

    `memory` is what helps against too little of it.
    """
    if re.search(_MEMORY, text):
        return memory
    return next((words for said, words in _REMEDIES.items() if re.search(said, text)), None)


def in_words(error: Exception, memory: str = OF_A_COMMAND) -> UserError | None:
    """The error of a device as one that says what helps; None for every other."""
    if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError"):
        return None
    words = remedy(str(error), memory)
    return words and UserError(f"{words} ({first_line(error)})")


@contextlib.contextmanager
def told(memory: str) -> Iterator[None]:
    """Errors of the device inside the block come out `in_words`, where something helps."""
    try:
        yield
    except Exception as error:
        if (told := in_words(error, memory)) is None:
            raise
        raise told from error


def first_line(error: Exception, length: int = 200) -> str:
    """The beginning of what an error says: XLA's go on for pages."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text if len(text) <= length else text[: length - 1] + "…"


@contextlib.contextmanager
def compiling(folder: Path, watched: bool, speaks: bool = True) -> Iterator[None]:
    """Leave a mark while a program is compiled: where XLA cannot, it may end the process.

    And say (`speaks`) what is going on where it takes long: on GPUs XLA tries out many kernels.
    """
    if not watched:
        yield
        return
    mark = folder / _MARK
    mark.touch()
    notice = threading.Timer(PATIENCE, console.print, (_NOTICE,), {"highlight": False})
    notice.daemon = True
    if speaks:
        notice.start()
    try:
        yield
    except Exception:  # says by itself what is wrong
        mark.unlink(missing_ok=True)
        raise
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
        "the last start ended while a program was compiled; if it said 'Check failed', put "
        "XLA_FLAGS=--xla_gpu_enable_triton_gemm=false in front of the command"
    )

"""The accelerators that programs are compiled for, and what their makers say they can do.

XLA reads `gpu_targets/NAME.txtpb`; memory and bandwidth are taken from there. Operations a second
are those of dense matrices, without structured sparsity, from the same sources.
"""

import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "gpu_targets"
PREALLOCATED = 0.75  # of a GPU's memory: what JAX takes when it starts, unless told otherwise


class Card(NamedTuple):
    """`flops` is by arithmetic: bfloat16 on tensor cores, tf32 likewise, float32 without them."""

    name: str
    title: str
    platform: str
    target: str  # the text XLA reads, or the name of a TPU's topology
    flops: dict[str, float]
    bandwidth: float  # bytes a second
    memory: float  # bytes that a program may use

    def seconds(self, flops: dict[str, float], moved: float) -> float:
        """The least time of a kernel: its operations or its bytes, whichever take longer."""
        return max(sum(n / self.flops[kind] for kind, n in flops.items()), moved / self.bandwidth)


# 1e12 operations a second: bfloat16, tf32, float32. Orin: a quarter and an eighth of its published
# 170 sparse INT8 operations; its GPU's float32 as published.
_PEAKS = {
    "a100": (312, 156, 19.5),
    "h100": (989, 494, 66.9),
    "h200": (989, 494, 66.9),
    "rtx4090": (165, 82.6, 82.6),
    "orin": (42.5, 21.2, 5.3),
}
# Google Cloud's documentation of TPU v5e: one chip. It multiplies in bfloat16 only: float32
# products take six passes, default ones a single one.
_V5E = Card(
    "v5e",
    "Google TPU v5e, 16 GB",
    "tpu",
    "v5e:2x2",
    {"bfloat16": 197e12, "tf32": 197e12, "float32": 197e12 / 6},
    819e9,
    16e9,
)
NAMES = (*_PEAKS, _V5E.name)


def card(name: str) -> Card:
    """Raises ValueError that names the choices."""
    if name == _V5E.name:
        return _V5E
    if name not in _PEAKS:
        raise ValueError(
            f"unknown card {name!r}; choose one of {list(NAMES)}, or describe it as one of "
            f"benchmarks/gpu_targets and put its rates into benchmarks/gpu_cards.py"
        )
    text = (FOLDER / f"{name}.txtpb").read_text()
    bandwidth, memory = (
        float(re.search(rf"{field}: (\d+)", text).group(1))
        for field in ("memory_bandwidth", "device_memory_size")
    )
    title = re.search(r'device_description_str: "(.*)"', text).group(1)
    kinds = ("bfloat16", "tf32", "float32")
    flops = {kind: 1e12 * peak for kind, peak in zip(kinds, _PEAKS[name])}
    return Card(name, title, "cuda", text, flops, bandwidth, PREALLOCATED * memory)

"""The processor: how many cores this process may use, and what arithmetic it has."""

import functools
import os
import platform
from pathlib import Path

# Instructions by the names that the processor's flags have, on x86-64 and on ARM.
FEATURES = {
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}


def cores() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(asked: int = 0) -> int:
    """How many read clips: as many as asked for, or with 0 one a core, but no more than 16."""
    return asked or min(cores(), 16)


@functools.cache
def _info() -> dict[str, str]:
    """The first processor's entries in /proc/cpuinfo; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def name() -> str:
    return _info().get("model name") or platform.processor() or platform.machine()


def features(precision: str) -> list[str] | None:
    """The instructions for int8, bf16 or fp16 that it has; None where that cannot be known."""
    info = _info()
    flags = info.get("flags", info.get("Features"))
    if flags is None:
        return None
    return [flag for flag in FEATURES[precision] if flag in flags.split()]

"""Whether the host's memory allows one more run beside those at work (Linux; elsewhere always)."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def largest_peak(attempts: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """The largest peak of any finished attempt, in bytes; 0 while there is none."""
    return max((t["peak_memory_bytes"] for tries in attempts.values() for t in tries), default=0)


def fits(available: float, peak: float, resident: Sequence[float]) -> bool:
    """Whether another run of `peak` bytes fits into what is left when all have grown to theirs.

    `resident` is what the runs at work hold now: they still need peak - resident each.
    """
    return available >= peak + sum(max(peak - held, 0) for held in resident)


def room(peak: int, pids: Iterable[int]) -> bool:
    """`fits` for this host and the processes `pids`. The first run always has room."""
    pids = list(pids)
    return not pids or fits(available(), peak, [resident(pid) for pid in pids])


def available() -> float:
    """Bytes that the host can still give; inf where that cannot be told."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return float("inf")


def resident(pid: int) -> int:
    """Bytes of memory that the process holds; 0 once it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0

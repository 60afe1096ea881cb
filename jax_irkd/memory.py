"""How this process's memory is kept; nothing heavy is imported."""

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks: handed back, the kernel clears them again at every use."""
    trim_threshold, mmap_max = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 1 << 30)


def hand_back() -> None:
    """Return what glibc holds free to the kernel, once: a compiler leaves hundreds of megabytes."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)

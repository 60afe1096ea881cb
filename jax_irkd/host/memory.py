"""How this process's memory is kept; nothing heavy is imported."""

import contextlib
import ctypes


def keep_freed_memory(share: bool = True) -> None:
    """Let glibc reuse large blocks: handed back, the kernel clears them again at every use.

    A step of training on a CPU takes and frees a gigabyte or more. Only the first arena can keep
    blocks above 64 MB, so all threads share it; to be called before they are started. Without
    `share` each keeps an arena of its own and smaller blocks.
    """
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # of malloc.h, with M_ before them
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if share:
            libc.mallopt(arena_max, 1)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)  # never by itself


def hand_back() -> None:
    """Return what glibc holds free to the kernel, once: a compiler leaves hundreds of megabytes."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)

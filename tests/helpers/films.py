"""Frames of films by `decoding.Film`, in the ways that tests ask for them."""

from collections.abc import Iterable, Iterator

import numpy as np

from jax_irkd.video.archives import Source
from jax_irkd.video.decoding import Film
from jax_irkd.video.faults import VideoError


def iterate_frames(
    source: Source, *, threads: int = 1, only: Iterable[int] | None = None
) -> Iterator[np.ndarray | None]:
    """All frames in order of display, upright, one at a time: RGB uint8 `h w 3`, or one channel of
    more than eight bits.

    With `only`, frames at other indices are decoded but not converted, and come as None. Raises
    VideoError when the file is unreadable, has no picture, is damaged or ends early; what could be
    read has been yielded then.
    """
    wanted = None if only is None else set(only)
    for shot in Film(source, threads=threads).shots():
        yield shot.image() if wanted is None or shot.index in wanted else None


def count_frames(source: Source) -> int:
    """The number of frames the decoder returns. Decodes everything; raises VideoError."""
    return sum(1 for _ in Film(source, threads=0).shots())


def read_frames(
    source: Source, indices: Iterable[int], *, short_side: int = 0, threads: int = 1
) -> list[np.ndarray]:
    """The frames at `indices` (order of display, repeats allowed), as `iterate_frames` has them.

    Only these are converted and, with `short_side`, resized. Decoding stops after the last one.
    Raises VideoError as `iterate_frames` does, and when an index lies past the end.
    """
    indices = list(indices)
    if not indices:
        return []
    if min(indices) < 0:
        raise ValueError(f"frame index {min(indices)} is negative; count from 0")
    wanted, found, last = set(indices), {}, -1
    for shot in Film(source, threads=threads).shots():
        last = shot.index
        if last in wanted:
            found[last] = shot.image(short_side)
            if len(found) == len(wanted):
                return [found[index] for index in indices]
    raise VideoError(source, f"has no frame {max(indices)}; counting from 0 the last is {last}")

"""Untrimmed videos as sliding windows of segments: every frame decoded once, memory bounded."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jax_irkd.data.frames import fit
from jax_irkd.data.sampling import frame_indices, segment_positions
from jax_irkd.video.archives import Source
from jax_irkd.video.decoding import Film
from jax_irkd.video.depth import Range
from jax_irkd.video.faults import VideoError


class Window(NamedTuple):
    """Frames `start` to `stop` of a video, counted from 0, `stop` not included.

    `frames` is uint8 `t h w c`, the centres of t equal segments; `indices` are their numbers.
    """

    start: int
    stop: int
    frames: np.ndarray
    indices: tuple[int, ...] = ()


def spans(total: int, length: int, stride: int) -> list[tuple[int, int]]:
    """Windows of `length` frames every `stride`, the last one ending with the video.

    One window as long as the video when that is shorter than `length`.
    """
    if length < 1 or stride < 1:
        raise ValueError(f"length and stride must be positive, not {length} and {stride}")
    if total < 1:
        return []
    last = max(0, total - length)
    starts = sorted({*range(0, last + 1, stride), last})
    return [(start, min(start + length, total)) for start in starts]


def windows(
    source: Source,
    *,
    infrared: bool,
    size: tuple[int, int],
    length: int = 64,
    stride: int = 16,
    num_segments: int = 8,
    short_side: int = 256,
    threads: int = 1,
    levels: Range = Range(),  # noqa: B008 (a tuple)
) -> Iterator[Window]:
    """Walks a video once, in order, and yields its overlapping windows.

    Frames are shrunk to `short_side` as the builders do, then fitted to `size` (height, width) as
    the training data is; infrared has one channel. `levels` brings more than eight bits down. Only
    frames that a window needs are converted, and they are dropped with the last window that needs
    them, so memory does not grow with the video. Raises VideoError when the video is damaged:
    windows before the fault come first.
    """
    # Placeholder packets may make this a frame or two more than there are: see `_finish`.
    film = Film(source, threads=threads)
    planned = spans(len(film.timing.times), length, stride)
    positions = segment_positions(num_segments)
    needed = [start + frame_indices(positions, stop - start) for start, stop in planned]
    wanted = sorted({int(index) for indices in needed for index in indices})
    chosen = set(wanted)
    kept: dict[int, np.ndarray] = {}
    position, current, total = 0, 0, 0

    def made(span: tuple[int, int], indices) -> Window:
        indices = tuple(map(int, indices))
        frames = levels.levels(np.stack([kept[index] for index in indices]))
        frames = frames if infrared else np.repeat(frames, 3 // frames.shape[-1], axis=-1)
        return Window(*span, frames, indices)

    for shot in film.shots():
        total = shot.index + 1
        if shot.index in chosen:
            image = shot.image(short_side, grey=infrared)
            kept[shot.index] = fit(image, size).reshape(*size, -1)
        while current < len(planned) and needed[current][-1] < total:
            yield made(planned[current], needed[current])
            current += 1
            oldest = planned[current][0] if current < len(planned) else total
            while position < len(wanted) and wanted[position] < oldest:
                kept.pop(wanted[position], None)
                position += 1
    # Windows that reach into placeholder packets at the end are cut off at the last real frame.
    for (start, stop), indices in zip(planned[current:], needed[current:]):
        indices = [index for index in indices if index in kept]
        if stop - total > 2 or not indices:
            raise VideoError(source, f"ends at frame {total}, {stop} were announced")
        indices += [indices[-1]] * (num_segments - len(indices))
        yield made((start, total), indices)

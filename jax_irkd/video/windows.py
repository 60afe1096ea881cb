"""Untrimmed videos as sliding windows of segments: every frame decoded once, memory bounded."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jax_irkd.data.frames import fit
from jax_irkd.data.sampling import frame_indices, segment_positions
from jax_irkd.video.archives import Source
from jax_irkd.video.decoding import Film, Shot
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
    film = Film(source, threads=threads)
    # Placeholder packets may make this a frame or two more than there are.
    planned = spans(len(film.timing.times), length, stride)
    positions = segment_positions(num_segments)

    def centres(start: int, stop: int) -> list[int]:
        return (start + frame_indices(positions, stop - start)).tolist()

    def join(frames: list[np.ndarray]) -> np.ndarray:
        return clip_of(frames, 1 if infrared else 3, levels)

    def prepared(shot: Shot) -> np.ndarray:
        return fit(shot.image(short_side, grey=infrared), size).reshape(*size, -1)

    needed = [centres(*span) for span in planned]
    wanted = {index for indices in needed for index in indices}
    images = ((s.index, prepared(s) if s.index in wanted else None) for s in film.shots())
    rest = yield from walk(images, planned, needed, join)
    if rest.planned:
        announced = rest.planned[-1][1]
        if announced - rest.seen > 2 or not rest.kept:
            raise VideoError(source, f"ends at frame {rest.seen}, {announced} were announced")
        yield from rest.cut_off(rest.seen, centres, join)


def clip_of(frames: Sequence[np.ndarray], channels: int, levels: Range) -> np.ndarray:
    """Prepared frames as the uint8 clip `t h w c` that a network of so many channels reads."""
    clip = levels.levels(np.stack(frames))
    return np.repeat(clip, channels // clip.shape[-1], axis=-1)


Join = Callable[[list[np.ndarray]], np.ndarray]


class Rest(NamedTuple):
    """What a walk leaves: windows that lack frames, frames still kept, and how many went by."""

    planned: Sequence[tuple[int, int]]
    kept: dict[int, np.ndarray]
    seen: int

    def cut_off(
        self, total: int, frames_of: Callable[[int, int], Sequence[int]], join: Join
    ) -> Iterator[Window]:
        """The first of the windows, if it has begun, ending with the last of `total` frames."""
        if self.planned and self.planned[0][0] < total and self.kept:
            span = self.planned[0][0], total
            yield _window(span, frames_of(*span), self.kept, join)


def walk(
    images: Iterable[tuple[int, np.ndarray | None]],
    planned: Sequence[tuple[int, int]],
    needed: Sequence[Sequence[int]],
    join: Join,
) -> Generator[Window, None, Rest]:
    """Yields the windows `planned` as soon as the last of the frames `needed` has come.

    `images` are numbered, in order; those that no window needs may be missing or None. Each is kept
    until the last window that needs it, so memory does not grow with the video. `join` makes the
    frames of a window from its images.
    """
    kept: dict[int, np.ndarray] = {}
    done, seen = 0, 0
    for index, image in images:
        seen = index + 1
        if image is not None:
            kept[index] = image
        while done < len(planned) and needed[done][-1] <= index:
            yield _window(planned[done], needed[done], kept, join)
            done += 1
            oldest = planned[done][0] if done < len(planned) else seen
            for old in [old for old in kept if old < oldest]:
                del kept[old]
    return Rest(planned[done:], kept, seen)


def _window(
    span: tuple[int, int], indices: Sequence[int], kept: dict[int, np.ndarray], join: Join
) -> Window:
    held = np.array(list(kept))
    nearest = tuple(int(held[np.abs(held - index).argmin()]) for index in indices)
    return Window(*span, join([kept[index] for index in nearest]), nearest)

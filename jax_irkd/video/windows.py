"""Untrimmed videos as sliding windows of segments: every frame decoded once, memory bounded."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jax_irkd.data.frames import fit
from jax_irkd.video import grid, timing
from jax_irkd.video.archives import Source
from jax_irkd.video.decoding import Film, Shot
from jax_irkd.video.depth import Range
from jax_irkd.video.faults import VideoError
from jax_irkd.video.grid import PlannedWindow


class Window(NamedTuple):
    """Frames `start` to `stop` of a video, counted from 0, `stop` not included.

    `frames` is uint8 `t h w c`, the centres of t equal segments; `indices` are their numbers. Where
    a frame cannot be read the nearest one kept stands in; `apart` is how many segments the farthest
    of these is away.
    `lane` is that of the grid (`grid`). `shared`: in every window a frame has the same pixels; not
    so where each window's own percentiles bring more than eight bits down.
    """

    start: int
    stop: int
    frames: np.ndarray
    indices: tuple[int, ...] = ()
    lane: int = 0
    shared: bool = True
    apart: float = 0.0


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

    `length` and `stride` are in frames; the last window ends with the video. Frames are shrunk to
    `short_side` as the builders do, then fitted to `size` (height, width) as the training data is;
    infrared has one channel. `levels` brings more than eight bits down. Only frames that a window
    needs are converted, and they are dropped with the last window that needs them, so memory does
    not grow with the video. Raises VideoError when the video is damaged: windows before the fault
    come first.
    """
    film = Film(source, threads=threads)
    # Placeholder packets may make this a frame or two more than there are.
    counted = timing.steady(len(film.timing.times), 1.0)
    planned = grid.plan(counted, length, stride, num_segments, slack=0)

    def prepared(shot: Shot) -> np.ndarray:
        return fit(shot.image(short_side, grey=infrared), size).reshape(*size, -1)

    wanted = {index for place in planned for index in place.frames}
    images = ((s.index, prepared(s) if s.index in wanted else None) for s in film.shots())
    rest = yield from walk(images, planned, 1 if infrared else 3, levels)
    if rest.planned:
        announced = rest.planned[-1].stop
        if announced - rest.seen > 2 or not rest.kept:
            raise VideoError(source, f"ends at frame {rest.seen}, {announced} were announced")
        yield from rest.cut_off(counted, rest.seen)


def clip_of(frames: Sequence[np.ndarray], channels: int, levels: Range) -> np.ndarray:
    """Prepared frames as the uint8 clip `t h w c` that a network of so many channels reads."""
    clip = levels.levels(np.stack(frames))
    return np.repeat(clip, channels // clip.shape[-1], axis=-1)


class Rest(NamedTuple):
    """What a walk leaves: windows that lack frames, frames still kept, and how many went by."""

    planned: Sequence[PlannedWindow]
    kept: dict[int, np.ndarray]
    seen: int
    channels: int
    levels: Range

    def cut_off(self, whole: timing.Timing, total: int) -> Iterator[Window]:
        """The first of the windows, if it has begun, ending with the last of `total` frames."""
        place = self.planned[0] if self.planned else None
        kept = {index: self.kept[index] for index in self.kept if place and index in place.frames}
        if kept:
            frames = grid.frames_of(whole, place.start, total, len(place.frames))
            begun = self._replace(kept=kept)
            segment = (place.stop - place.start) / len(frames)
            yield begun._window(place._replace(stop=total, frames=frames), segment)

    def _window(self, place: PlannedWindow, segment: float = 0.0) -> Window:
        """`place` with its frames or their nearest; `segment` frames long, unless 0: as planned."""
        segment = segment or (place.stop - place.start) / len(place.frames)
        held = np.array(list(self.kept))
        distance = np.abs(held[:, None] - place.frames)
        nearest = tuple(held[distance.argmin(axis=0)].tolist())
        frames = [self.kept[index] for index in nearest]
        clip, shared = clip_of(frames, self.channels, self.levels), self.levels.is_fixed(frames)
        apart = float(distance.min(axis=0).max() / segment)
        return Window(place.start, place.stop, clip, nearest, place.lane, shared, apart)


def walk(
    images: Iterable[tuple[int, np.ndarray | None]],
    planned: Sequence[PlannedWindow],
    channels: int,
    levels: Range,
) -> Generator[Window, None, Rest]:
    """Yields the windows `planned` as soon as the last of their frames has come.

    `images` are numbered, in order; those that no window needs may be missing or None. Each is kept
    until the last window that needs it, so memory does not grow with the video.
    """
    kept: dict[int, np.ndarray] = {}
    done, seen = 0, 0
    for index, image in images:
        seen = index + 1
        if image is not None:
            kept[index] = image
        while done < len(planned) and planned[done].frames[-1] <= index:
            yield Rest(planned, kept, seen, channels, levels)._window(planned[done])
            done += 1
            oldest = planned[done].frames[0] if done < len(planned) else seen
            for old in [old for old in kept if old < oldest]:
                del kept[old]
    return Rest(planned[done:], kept, seen, channels, levels)

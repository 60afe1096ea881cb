"""Which frames windows look at: a grid that neighbouring windows share.

A window has T segments and takes the frame in the middle of each. Where the time from a window to
the next is a multiple of the time from a segment to the next, windows take the same frames over and
over, and each has to be computed only once. So the frames of a film or stream lie on a grid:

    frame n at (n + m/2) step,  window w: frames w p + j m,  j = 0 ... T - 1

p steps are the stride. m steps are the spacing of the segments, and with m > 1 windows fall into m
lanes, which have no frame in common. With 30 frames per second, windows of about 2 s, T = 8 and a
stride of 16 frames the step is 8 frames, p = 2, m = 1: two new frames a window in place of eight.
"""

import fractions
import math
from typing import NamedTuple

import numpy as np

from jax_irkd.data.sampling import segment_positions
from jax_irkd.video.timing import Timing

SLACK = 1 / 6  # of its length, by which a window may differ from what was asked for, to share more


class Grid(NamedTuple):
    """`step` is in the unit of the stride, `windows` and `segments` are p and m: in steps."""

    step: float
    windows: int
    segments: int
    count: int

    @property
    def length(self) -> float:
        """Of a window, in the unit of the stride."""
        return self.count * self.segments * self.step

    @property
    def cost(self) -> int:
        """New frames of a window."""
        return min(self.windows, self.count)


def lay(length: float, stride: float, count: int, slack: float = SLACK) -> Grid:
    """The coarsest grid for windows of about `length` every `stride`, of `count` segments.

    The windows' length may differ by the share `slack` to let them share frames; where that does
    not help they are as long as asked for. Raises ValueError unless all are positive.
    """
    if length <= 0 or stride <= 0 or count < 1:
        raise ValueError(
            f"length, stride and segments must be positive, not {length}, {stride} and {count}"
        )
    spacing = length / count
    for windows in range(1, count):
        segments = max(1, round(spacing * windows / stride))
        if abs(segments * stride / windows / spacing - 1) <= slack + 1e-9:
            return Grid(stride / windows, windows, segments, count)
    exact = fractions.Fraction(spacing / stride).limit_denominator(1000)
    exact = max(exact, fractions.Fraction(1, 1000))
    return Grid(stride / exact.denominator, exact.denominator, exact.numerator, count)


class PlannedWindow(NamedTuple):
    """A window: frames [start, stop) of a film, from 0; the ones it takes, in order; its lane."""

    start: int
    stop: int
    frames: tuple[int, ...]
    lane: int = 0


def plan(
    timing: Timing, length: float, stride: float, count: int, slack: float = SLACK
) -> list[PlannedWindow]:
    """Windows of about `length` seconds every `stride` seconds of a film, the last one at its end.

    One as long as the film when that is shorter. A window has at least as many frames as segments
    where the film has so many; where it is slow, windows get longer for that.
    """
    total = len(timing.times)
    if not total:
        return []
    grid = lay(max(length, count / timing.rate), stride, count, slack)
    if timing.end <= grid.length * (1 + 1e-9):
        return [whole(timing, count)]
    room = (timing.end - grid.length) / grid.step
    regular = range(0, math.floor(room + 1e-6) + 1, grid.windows)
    nearest = math.floor(room + 0.5 - 1e-6)
    found: dict[tuple[int, int], PlannedWindow] = {}
    for first in sorted({*regular, nearest}):
        place = _place(timing, grid, first, ends=first not in regular)
        found.setdefault(place[:2], place)
    places = list(found.values())
    places[-1] = places[-1]._replace(stop=total)
    return places if timing.steady else _in_order(places)


def whole(timing: Timing, count: int) -> PlannedWindow:
    """The film as one window."""
    total = len(timing.times)
    return PlannedWindow(0, total, frames_of(timing, 0, total, count))


def frames_of(timing: Timing, start: int, stop: int, count: int) -> tuple[int, ...]:
    """The frames shown in the middles of `count` equal parts of the time of [start, stop)."""
    begin, end = timing.times[start], timing.ends()[stop - 1]
    return tuple(timing.at(begin + segment_positions(count) * (end - begin)).tolist())


def _place(timing: Timing, grid: Grid, first: int, *, ends: bool) -> PlannedWindow:
    """The window of the grid that begins with frame `first` of it; `ends`: with the film."""
    total, frame = len(timing.times), timing.end / len(timing.times)
    begin = timing.end - grid.length if ends else first * grid.step
    start = int(timing.at([begin])[0])
    stop = int(np.searchsorted(timing.times, begin + grid.length - 1e-3 * frame))
    lane = first % grid.segments
    if stop - start < grid.count <= total:
        stop = min(total, max(stop, start + grid.count))
        start = max(0, min(start, stop - grid.count))
        return PlannedWindow(start, stop, frames_of(timing, start, stop, grid.count), lane)
    numbers = first + grid.segments * (np.arange(grid.count) + 0.5)
    return PlannedWindow(start, stop, tuple(timing.at(numbers * grid.step).tolist()), lane)


def _in_order(places: list[PlannedWindow]) -> list[PlannedWindow]:
    """The windows without frames that windows of their lane before them have passed over.

    Where the rate changes, windows that had to be longer leave the grid. A frame that is passed
    over is replaced by the nearest one taken, so that every lane can be computed in order.
    """
    kept, taken = [], {}
    for place in places:
        before = taken.setdefault(place.lane, [])
        frames = []
        for frame in place.frames:
            if before and frame < before[-1]:
                frame = min(before, key=lambda other, frame=frame: abs(other - frame))
            elif not before or frame > before[-1]:
                before.append(frame)
            frames.append(frame)
        kept.append(place._replace(frames=tuple(frames)))
    return kept

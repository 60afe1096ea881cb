"""When the frames of a film are shown, and which frame is shown at a moment.

Everything that pairs or cuts films asks for moments in seconds from the first frame, so that films
of other frame rates, and films whose rate changes, are read by the same rule.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

SAME_CLOCK = 0.02  # of the longer one: recorders start and stop their two streams that near
LAST = 8  # frames whose usual length the last one has, which no time stamp tells
STEADY = 0.2  # of a frame: containers round time stamps to milliseconds


class Timing(NamedTuple):
    """`times` of the frames in seconds, the first at 0; the last one is shown until `end`.

    `timed` is false where nothing says when a frame was taken (numbered pictures).
    """

    times: np.ndarray
    end: float
    timed: bool = True

    @property
    def rate(self) -> float:
        """Frames per second, on average."""
        return len(self.times) / self.end if self.end > 0 else 0.0

    @property
    def steady(self) -> bool:
        """Whether all frames are shown equally long."""
        even = np.arange(len(self.times)) * (self.end / max(len(self.times), 1))
        return bool(np.all(np.abs(self.times - even) <= STEADY * self.end / len(self.times)))

    def at(self, moments: np.ndarray | Sequence[float]) -> np.ndarray:
        """Indices of the frames shown at `moments`; the first or the last one outside."""
        step = self.end / max(len(self.times), 1)
        # Rounded time stamps and moments meet: a thousandth of a frame decides for the later one.
        found = np.searchsorted(self.times, np.asarray(moments) + 1e-3 * step, side="right") - 1
        return np.clip(found, 0, len(self.times) - 1)

    def ends(self) -> np.ndarray:
        """Until when each frame is shown."""
        return np.append(self.times[1:], self.end)


def steady(count: int, rate: float, *, timed: bool = True) -> Timing:
    """`count` frames at `rate` per second."""
    rate = rate if rate > 0 else 30.0
    return Timing(np.arange(count) / rate, count / rate, timed)


def seconds(stamps: Sequence[int | None], base: Fraction | int) -> list[float | None]:
    """Time stamps in units of `base` in seconds; None is one that is missing."""
    above, below = base.numerator, base.denominator
    return [None if stamp is None else stamp * above / below for stamp in stamps]


def from_stamps(stamps: Sequence[float | None], rate: float) -> Timing:
    """The timing of frames with these time stamps in seconds, in the order of display.

    Stamps that are missing or do not grow (AVI has none of its own) count for nothing: the frames
    come at `rate` then. Stamps of an even rate are freed of their rounding. The last frame is shown
    as long as those before it are.
    """
    known = np.array([np.nan if stamp is None else stamp for stamp in stamps], np.float64)
    steps = np.diff(known)
    if len(known) < 2 or not np.all(steps > 0):
        return steady(len(known), rate)
    usual = float(np.median(steps[-LAST:]))
    times = known - known[0]
    found = Timing(times, float(times[-1]) + usual)
    mean = float(times[-1]) / (len(times) - 1)
    even = Timing(np.arange(len(times)) * mean, len(times) * mean)
    return even if np.all(np.abs(even.times - times) <= STEADY * mean) else found


def span_of(first: Timing, second: Timing, slack: float = SAME_CLOCK) -> tuple[float, float, bool]:
    """The seconds of each of two films that show the same, and whether they share a clock.

    Films whose lengths differ by no more than `slack` (or two frames) began together and run alike:
    the same moments of both, as long as both last. Others, and pictures without time stamps, are
    taken to show the same from beginning to end, each at its own pace.
    """
    longer, shorter = max(first.end, second.end), min(first.end, second.end)
    frame = max(timing.end / max(len(timing.times), 1) for timing in (first, second))
    known = first.timed and second.timed
    if known and longer - shorter <= max(slack * longer, 2 * frame) * (1 + 1e-9):
        return shorter, shorter, True
    return first.end, second.end, not known


def spread(timing: Timing, count: int, start: float, stop: float) -> list[int]:
    """`count` frames (0: all) at the middles of equal parts of the seconds from `start` to `stop`.

    Never more than there are frames; fewer moments than frames of a changing rate repeat the frames
    that are shown longest, so that what is kept is evenly spaced in time.
    """
    inside = np.flatnonzero((timing.ends() > start + 1e-9) & (timing.times < stop - 1e-9))
    count = min(count or len(inside), len(inside))
    if not count:
        return []
    moments = start + (np.arange(count) + 0.5) / count * (stop - start)
    return timing.at(moments).tolist()


def time_of(timing: Timing, frame: int) -> float:
    """When a frame begins; frames behind the last one are thought to go on at the same rate."""
    count = len(timing.times)
    if frame < count:
        return float(timing.times[frame])
    return timing.end + (frame - count) / timing.rate


def place_of(timing: Timing, moment: float) -> int:
    """The number of the frame that begins nearest to `moment`, past the end too."""
    if moment >= timing.end:
        return len(timing.times) + round((moment - timing.end) * timing.rate)
    begins = np.append(timing.times, timing.end)
    return int(np.abs(begins - moment).argmin())

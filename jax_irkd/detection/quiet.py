"""Whether a detector keeps quiet where nothing happens, which PKU-MMD's protocol hardly asks.

Of three seconds in which nothing is annotated, two may be full of proposals without much of a loss
in mAP; a robot would act on them.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jax_irkd.detection.rows import Row
from jax_irkd.metrics.calibration import auroc

SHARE = 0.5  # of a window or a proposal, from which on it counts as lying within actions


class Quiet(NamedTuple):
    """One video, or several: how many `proposals` lie where nothing happens, of how many `minutes`,
    and a score for each window within an action and each that touches none."""

    proposals: int
    minutes: float
    acting: Float[np.ndarray, " a"]
    nothing: Float[np.ndarray, " n"]

    @property
    def per_minute(self) -> float:
        """False detections a minute of nothing; 0 where something happens all the time."""
        return self.proposals / self.minutes if self.minutes else 0.0

    @property
    def auroc(self) -> float:
        """Probability that a window of an action scores above one of nothing; NaN without both."""
        if not (len(self.acting) and len(self.nothing)):
            return float("nan")
        return auroc(self.acting, self.nothing)


def measure(
    proposals: Iterable[Row],
    ground: Iterable[Row],
    spans: Int[np.ndarray, "w 2"],
    scores: Float[np.ndarray, " w"],
    rate: float,
) -> Quiet:
    """One video of `rate` frames per second, whose windows have `spans` (from 0, half-open) and
    `scores` of whether something happens.

    A proposal is false here when less than half of it lies in annotated frames, whatever its label
    says. Windows count as an action's when half of them or more is annotated, as nothing when
    nothing is, and not at all otherwise.
    """
    frames = int(spans[-1, 1]) if len(spans) else 0
    ground = list(ground)
    false = sum(share_of(ground, int(row.start) - 1, int(row.end)) < SHARE for row in proposals)
    shares = np.array([share_of(ground, start, stop) for start, stop in spans])
    minutes = (1 - share_of(ground, 0, frames)) * frames / rate / 60
    return Quiet(int(false), minutes, scores[shares >= SHARE], scores[shares == 0])


def together(parts: Iterable[Quiet]) -> Quiet:
    """Several videos as one."""
    parts = list(parts)
    none = np.zeros(0)
    return Quiet(
        sum(part.proposals for part in parts),
        sum(part.minutes for part in parts),
        np.concatenate([none, *(part.acting for part in parts)]),
        np.concatenate([none, *(part.nothing for part in parts)]),
    )


def share_of(ground: Iterable[Row], start: int, stop: int) -> float:
    """The share of frames from `start` to `stop` (from 0, half-open) that rows of `ground` have."""
    annotated = np.zeros(max(stop - start, 0), bool)
    for row in ground:
        annotated[max(int(row.start) - 1 - start, 0) : max(int(row.end) - start, 0)] = True
    return float(annotated.mean()) if len(annotated) else 0.0

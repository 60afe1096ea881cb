"""Whether an answer counts: the class a network names, or *nothing recognised*, and why.

A classifier always answers with one of its classes. Here its probabilities are calibrated, and an
answer counts only where the pictures show something, look like what the network learned from, and
the class is probable enough (`metrics.calibration`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from jax_irkd.data.spec import background_of
from jax_irkd.errors import UserError
from jax_irkd.metrics.calibration import Calibration
from jax_irkd.video.depth import FLAT, contrast

NOTHING = "nothing recognised"
# Why an answer does not count, in the order in which they are looked for.
REASONS = {
    "unreadable": "too few of the frames can be read",
    "black": "the pictures are black",
    "constant": "the pictures are constant",
    "still": "the picture stands still",
    "background": "nothing of its classes happens",
    "unfamiliar": "unlike anything it learned from",
    "unsure": "no class is probable enough",
}
PICTURES = ("black", "constant", "still")  # whatever the network says of them
UNCALIBRATED = (
    "is not calibrated: it names one of its classes whatever happens, unless the pictures are "
    "black, constant or stand still, or a --threshold is not reached; train with "
    "--config.input.validation=0.1 for more"
)


class Verdict(NamedTuple):
    """Calibrated probabilities `k`, and why they do not count: a key of `REASONS`, or empty."""

    probabilities: Float[np.ndarray, " k"]
    reason: str = ""

    @property
    def recognised(self) -> bool:
        return not self.reason

    @property
    def words(self) -> str:
        """`nothing recognised` and why; empty for an answer that counts."""
        return f"{NOTHING}: {REASONS[self.reason]}" if self.reason else ""


class Judge:
    """Judges the answers of one network.

    `threshold` is the least probability of an answer that counts, in place of the calibrated one;
    without either every probability does. Raises UserError for one that is no share, and for a
    calibration that cannot be used.
    """

    def __init__(self, network: Any, threshold: float | None = None):
        if threshold is not None and not 0 <= threshold <= 1:
            raise UserError(f"threshold is {threshold:g}; it must be a number from 0 to 1")
        try:
            held = held_by(network).get("calibration")
            self.calibration = Calibration.from_json(held) if held else None
        except ValueError as error:
            raise UserError(f"{error}; export the run again") from error
        self.background = background_of(getattr(network, "class_names", ()))
        self.threshold = threshold
        if threshold is None:
            self.threshold = self.calibration.least_probable if self.calibration else 0.0

    def __call__(
        self, probabilities: Float[np.ndarray, " k"], frames: UInt8[np.ndarray, "t h w c"] | None
    ) -> Verdict:
        """The verdict on a network's probabilities of a clip, and on the frames it saw."""
        fault = fault_of(frames) if frames is not None else ""
        return self.of([probabilities], [fault])[0]

    def of(self, probabilities: Sequence[np.ndarray], faults: Sequence[str]) -> list[Verdict]:
        """Verdicts on many clips, what `fault_of` finds in their frames being known."""
        scores = np.asarray(probabilities)
        if not len(scores):
            return []
        familiar = np.ones(len(scores), bool)
        if self.calibration:
            familiar = self.calibration.familiarity(scores) >= self.calibration.least_familiar
            scores = self.calibration.probabilities(scores).astype(np.float32)
        return [
            Verdict(own, fault or self._doubt(own, known))
            for own, fault, known in zip(scores, faults, familiar, strict=True)
        ]

    def _doubt(self, probabilities: Float[np.ndarray, " k"], familiar: bool) -> str:
        if self.background is not None and int(probabilities.argmax()) == self.background:
            return "background"
        if not familiar:
            return "unfamiliar"
        # Asked this way a network that has run into NaN is not sure of anything.
        return "" if float(probabilities.max()) >= self.threshold else "unsure"


def held_by(network: Any) -> Mapping[str, Any]:
    """What is known of a classifier: a run's meta data or an exported file's manifest."""
    return getattr(network, "meta", None) or getattr(network, "manifest", None) or {}


def fault_of(frames: UInt8[np.ndarray, "t h w c"]) -> str:
    """What is wrong with the pictures of a clip: black, constant, still (all the same, up to one
    grey level), or nothing."""
    if contrast(frames) < FLAT:
        return "black" if float(frames.mean()) < FLAT else "constant"
    coarse = frames[:, ::2, ::2].astype(np.int16)
    return "still" if len(frames) > 1 and int(np.ptp(coarse, axis=0).max()) <= 1 else ""

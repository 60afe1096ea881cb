"""What the probabilities of a trained classifier are worth, and whether it knows what it sees.

Both are fitted on clips that no network learned from, and need nothing of a network but its
probabilities: whatever runs it, its answers can be judged. In float64 on the host.

- Temperature scaling (Guo et al., On calibration of modern neural networks, ICML 2017,
  arXiv:1706.04599): p = softmax(z / T), T where the labels of the held-out clips are likeliest. The
  order of the classes stays.
- Familiarity, after the Mahalanobis score of Lee et al. (A simple unified framework for detecting
  out-of-distribution samples, NeurIPS 2018, arXiv:1807.03888), of centred log-probabilities c in
  place of features: -min_k (c - m_k)^T S^-1 (c - m_k), with the mean m_k of every class and the
  covariance S within the classes, both of training clips.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

LOWEST, HIGHEST = 0.2, 20.0  # temperatures; a few clips, all of them right, would allow any
FAINTEST = 1e-30  # probabilities below have no precision left in float32
RIDGE = 1e-3  # added to the covariance, in units of its mean variance


class Calibration(NamedTuple):
    """How to judge the answers of one network.

    `least_familiar` and `least_probable` are the thresholds of a recognised clip, chosen together
    so that the share `rejected` of the true actions among `clips` held-out clips falls below one of
    them.
    """

    temperature: float
    means: Float[np.ndarray, "m k"]
    precision: Float[np.ndarray, "k k"]
    least_familiar: float
    least_probable: float
    rejected: float
    clips: int

    def probabilities(self, probabilities: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
        """p^(1/T), scaled to sum 1: the calibrated probabilities."""
        return tempered(probabilities, self.temperature)

    def familiarity(self, probabilities: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        """0 at a class mean, the lower the stranger; of probabilities that are not calibrated."""
        away = centred(probabilities)[:, None] - self.means
        return -np.einsum("nmk,kl,nml->nm", away, self.precision, away).min(axis=1)

    def recognised(self, probabilities: Float[np.ndarray, "n k"]) -> Bool[np.ndarray, " n"]:
        """Whether an answer reaches both thresholds, be it an action or the background."""
        sure = self.probabilities(probabilities).max(axis=1) >= self.least_probable
        return sure & (self.familiarity(probabilities) >= self.least_familiar)

    def as_json(self) -> dict[str, Any]:
        """Six digits of each number are enough, and short."""
        return {
            name: _rounded(value) if isinstance(value, np.ndarray) else value
            for name, value in self._asdict().items()
        }

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> "Calibration":
        """What `as_json` gave. Raises ValueError for anything else."""
        try:
            values = {name: held[name] for name in cls._fields}
            values |= {name: np.array(held[name], float) for name in ("means", "precision")}
            made = cls(**values)
            numbers = [float(made[i]) for i in (0, 3, 4, 5, 6)]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no calibration ({error})") from error
        classes = made.means.shape[-1]
        whole = np.isfinite(numbers).all() and np.isfinite(made.means).all()
        if made.means.ndim != 2 or made.precision.shape != (classes, classes) or not whole:
            raise ValueError("no calibration: its numbers do not fit together")
        if not LOWEST <= made.temperature <= HIGHEST:
            raise ValueError(f"no calibration: temperature {made.temperature}")
        return made


def fit(
    trained: Float[np.ndarray, "t k"],
    trained_labels: Int[np.ndarray, " t"],
    held: Float[np.ndarray, "n k"],
    held_labels: Int[np.ndarray, " n"],
    rejected: float = 0.05,
    background: int | None = None,
) -> Calibration:
    """The calibration of a network from its logits of training clips and of held-out ones.

    Clips of the class `background` are no true actions: the thresholds are not chosen by them.
    Raises ValueError where there are no others.
    """
    temperature = fit_temperature(held, held_labels)
    points = centred(softmax(trained))
    present = np.unique(trained_labels)
    means = np.stack([points[trained_labels == label].mean(axis=0) for label in present])
    within = points - means[np.searchsorted(present, trained_labels)]
    covariance = within.T @ within / len(within)
    ridge = RIDGE * max(np.trace(covariance) / len(covariance), 1e-12)
    mean = np.full_like(covariance, 1 / len(covariance))  # centred points have none to measure
    precision = np.linalg.inv(covariance + ridge * np.eye(len(covariance)) + mean) - mean
    open_to_all = Calibration(temperature, means, precision, -np.inf, 0.0, rejected, len(held))
    actions = held_labels != (-1 if background is None else background)
    if not actions.any():
        raise ValueError("none of the held-out clips is a true action")
    probabilities = softmax(held[actions])
    least = joint_thresholds(
        open_to_all.familiarity(probabilities),
        open_to_all.probabilities(probabilities).max(axis=1),
        share=rejected,
    )
    return open_to_all._replace(least_familiar=least[0], least_probable=least[1])


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """argmin_T of the mean of -log softmax(z / T)[label], from 0.2 to 20.

    The likelihood is concave in 1 / T, so its slope, mean over clips of z[label] - E_p[z], changes
    its sign once: found by halving.
    """
    logits = np.asarray(logits, np.float64)
    own = logits[np.arange(len(labels)), np.asarray(labels)].mean()

    def slope(inverse: float) -> float:
        return own - (softmax(inverse * logits) * logits).sum(axis=1).mean()

    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return float(np.clip(1 / middle, LOWEST, HIGHEST))


def joint_thresholds(*scores: Float[np.ndarray, " n"], share: float) -> list[float]:
    """A threshold for each score: at most `share` of the clips lie below one of them.

    Each lies at the same quantile of its own score, so that no score rejects more than another.
    """
    ranks = [np.argsort(np.argsort(score, kind="stable"), kind="stable") for score in scores]
    count = int(share * len(scores[0]))
    place = int(np.sort(np.min(ranks, axis=0))[count])
    return [_below(np.sort(score), place) for score in scores]


def _below(ordered: Float[np.ndarray, " n"], place: int) -> float:
    """Half-way to the score before that at `place`: rounding moves no clip across."""
    margin = 1e-3 * (ordered[-1] - ordered[0])
    before = ordered[place - 1] if place else ordered[0] - margin
    return float((ordered[place] + before) / 2)


def auroc(known: Float[np.ndarray, " n"], other: Float[np.ndarray, " m"]) -> float:
    """Probability that a known clip scores above another one, equal scores counting half."""
    both = np.concatenate([known, other])
    _, place, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    n, m = len(known), len(other)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def tempered(
    probabilities: Float[np.ndarray, "n k"], temperature: float
) -> Float[np.ndarray, "n k"]:
    """p^(1/T), scaled to sum 1."""
    return softmax(np.log(np.maximum(probabilities, FAINTEST)) / temperature)


def centred(probabilities: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """log p minus its mean over the classes: the logits minus theirs, as far as p holds them."""
    logs = np.log(np.maximum(np.asarray(probabilities, np.float64), FAINTEST))
    return logs - logs.mean(axis=-1, keepdims=True)


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """exp(z) / sum exp(z), in float64."""
    shifted = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _rounded(values: np.ndarray) -> list:
    return np.vectorize(lambda value: float(f"{value:.6g}"))(values).tolist()

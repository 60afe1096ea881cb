"""The share of a gap in mean average precision, with its interval: clips (those of a performance
together) and seeds drawn again.

What `significance.gap_interval` is for shares of right clips. Average precision is no mean over
clips, so that every draw ranks them anew.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jax_irkd.metrics.classification import average_precisions
from jax_irkd.metrics.significance import Interval, Performances, gap_closed

LabelledLogits = tuple[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]]
REPLICATES = 500


def gap_interval(
    teachers: Sequence[LabelledLogits],
    baselines: Sequence[LabelledLogits],
    students: Sequence[LabelledLogits],
    performances: Performances = None,
) -> Interval:
    """`gap_closed` of the mean mAP of all seeds with its 95 % percentile interval.

    Logits and labels of one run a seed, the same clips in the same order everywhere. A draw takes
    as many performances (None: clips) and as many seeds as there are, with replacement, the same
    for all three. The ends
    are nan where the teacher does not lead in every draw, all is where it does not lead.
    """
    groups = (teachers, baselines, students)
    plain = [np.mean([np.nanmean(average_precisions(*one)) for one in group]) for group in groups]
    share = gap_closed(*map(float, plain))
    seeds = len(students)
    counts = np.random.default_rng(1).multinomial(seeds, np.full(seeds, 1 / seeds), REPLICATES)
    shown = np.arange(len(teachers[0][1])) if performances is None else performances
    above, before, after = (
        np.sum(counts.T * [_draws(*one, shown) for one in group], axis=0) / seeds
        for group in groups
    )
    if np.isnan(share) or (above - before).min() <= 0:
        return Interval(share, np.nan, np.nan)
    low, high = np.quantile((after - before) / (above - before), [0.025, 0.975])
    return Interval(share, float(low), float(high))


def _draws(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], shown: Int[np.ndarray, " n"]
) -> np.ndarray:
    kept = np.ascontiguousarray(logits, np.float64)
    numbers = [np.asarray(x, np.int64).tobytes() for x in (labels, shown)]
    return _cached(kept.tobytes(), *numbers, kept.shape[1])


@functools.lru_cache(maxsize=64)  # a page asks for the same baseline and teacher with every row
def _cached(logits: bytes, labels: bytes, shown: bytes, classes: int) -> Float[np.ndarray, " r"]:
    known, numbers = (np.frombuffer(x, np.int64) for x in (labels, shown))
    there, performance = np.unique(numbers, return_inverse=True)
    even = np.full(len(there), 1 / len(there))
    drawn = np.random.default_rng(0).multinomial(len(there), even, REPLICATES)
    counts = drawn[:, performance.reshape(-1)]
    return mean_precisions(np.frombuffer(logits).reshape(-1, classes), known, counts)


def mean_precisions(
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    counts: Int[np.ndarray, "r n"],
) -> Float[np.ndarray, " r"]:
    """mAP where clip i is there `counts[:, i]` times; classes that a draw lacks are left out."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = shifted / shifted.sum(axis=1, keepdims=True)
    times, found = np.ascontiguousarray(counts.T, np.int32), []
    for index in np.unique(labels):
        order = np.argsort(-scores[:, index], kind="stable")
        ranked, own = -scores[order, index], np.flatnonzero(labels[order] == index)
        # A clip shares the threshold of all that have its score: up to the last of them.
        last = np.searchsorted(ranked, ranked[own], side="right") - 1
        drawn = times[order]
        above = np.cumsum(drawn, axis=0, dtype=np.int32)[last]
        hits = np.cumsum(drawn[own], axis=0)
        precision = hits[np.searchsorted(own, last, side="right") - 1] / np.maximum(above, 1)
        with np.errstate(invalid="ignore"):
            found.append(np.sum(drawn[own] * precision, axis=0) / hits[-1])
    return np.nanmean(found, axis=0)

"""Is one method better than another? Paired comparisons of runs on the same test clips.

Scores are arrays `s n`: one row per seed, one column per clip, the clips in the same order
everywhere (1 for right and 0 for wrong, or any other figure per clip). A single run is one row.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

Scores = Num[np.ndarray, "s n"] | Bool[np.ndarray, "s n"]


class Interval(NamedTuple):
    """A difference and the interval that holds it with the asked confidence."""

    difference: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean and sample standard deviation over seeds; nan where one seed gives none."""

    mean: float
    std: float
    low: float
    high: float
    p_value: float


class McNemar(NamedTuple):
    """Clips only the first run got right, clips only the second did, and the p-value."""

    only_first: int
    only_second: int
    p_value: float


def paired_bootstrap(
    method: Scores,
    baseline: Scores,
    *,
    confidence: float = 0.95,
    replicates: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of mean(method - baseline), resampling clips and seeds together.

    A replicate draws as many clips as there are and as many seeds as there are, each with
    replacement, and the same draw serves both methods. With one seed only clips are drawn: the
    interval then says nothing about what another seed would give.
    """
    difference = _difference(method, baseline)
    seeds, clips = difference.shape
    key = np.random.default_rng(seed)
    draws = []
    for first in range(0, replicates, 500):  # in slices: counts are replicates x clips numbers
        count = min(500, replicates - first)
        seed_counts = key.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
        clip_counts = key.multinomial(clips, np.full(clips, 1 / clips), size=count)
        draws.append(np.sum(seed_counts * (clip_counts @ difference.T), axis=1) / (seeds * clips))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(draws), [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high))


def paired_difference(
    method: Float[np.ndarray, " s"], baseline: Float[np.ndarray, " s"], *, confidence: float = 0.95
) -> PairedDifference:
    """Student's paired t over seeds: the figure of each seed minus the baseline's of that seed.

    With one seed there is no spread: mean is given, everything else is nan. Seeds that agree to
    the last bit have an interval of no width, and p 0 (or 1 where the difference is zero).
    """
    difference = _difference(method[None], baseline[None])[0]
    mean, seeds = float(difference.mean()), len(difference)
    if seeds == 1:
        return PairedDifference(mean, np.nan, np.nan, np.nan, np.nan)
    std = float(difference.std(ddof=1))
    if std == 0:
        return PairedDifference(mean, 0.0, mean, mean, float(mean == 0))
    from scipy import stats  # imported late: it takes 0.8 s

    test = stats.ttest_1samp(difference, 0.0)
    low, high = test.confidence_interval(confidence)
    return PairedDifference(mean, std, float(low), float(high), float(test.pvalue))


def mcnemar_exact(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> McNemar:
    """Exact two-sided McNemar test on two runs over the same clips.

    Of the clips on which exactly one run is right, each run should win half: p is the binomial
    probability of a split at least as uneven. 1 where they never disagree. Clips repeated over
    seeds are not independent, so test one pair of runs at a time.
    """
    _same_shape(first, second)
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(~first & second))
    disagreements = only_first + only_second
    if not disagreements:
        return McNemar(0, 0, 1.0)
    from scipy import stats  # imported late: it takes 0.8 s

    test = stats.binomtest(only_first, disagreements, 0.5)
    return McNemar(only_first, only_second, float(test.pvalue))


def gap_closed(teacher: float, baseline: float, student: float) -> float:
    """Share of the teacher's lead over the baseline that the student makes up.

    (student - baseline) / (teacher - baseline): 1 reaches the teacher, above 1 passes it, below 0
    falls behind the baseline. nan where the teacher does not lead.
    """
    lead = teacher - baseline
    return (student - baseline) / lead if lead > 0 else float("nan")


def agreement(first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"]) -> float:
    """Share of clips on which two runs predict the same class, right or wrong."""
    _same_shape(first, second)
    return float(np.mean(first == second))


def _difference(
    method: Float[np.ndarray, "s n"], baseline: Float[np.ndarray, "s n"]
) -> Float[np.ndarray, "s n"]:
    _same_shape(method, baseline)
    if not method.size:
        raise ValueError(f"nothing to compare: the scores have shape {method.shape}")
    return np.asarray(method, np.float64) - np.asarray(baseline, np.float64)


def _same_shape(first: np.ndarray, second: np.ndarray) -> None:
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"paired comparison needs the same seeds and clips on both sides: shapes "
            f"{np.shape(first)} and {np.shape(second)} differ"
        )

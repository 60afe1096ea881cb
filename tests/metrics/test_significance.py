"""Statistics against SciPy, exact fractions and plain loops."""

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy import stats

from jax_irkd.metrics import significance


def _flags(only_first, only_second, both=3, neither=2):
    first = [1] * only_first + [0] * only_second + [1] * both + [0] * neither
    second = [0] * only_first + [1] * only_second + [1] * both + [0] * neither
    return np.array(first, bool), np.array(second, bool)


@pytest.mark.parametrize("first, second", [(1, 9), (10, 2), (4, 4), (0, 6), (30, 12)])
def test_mcnemar_by_exact_fractions(first, second):
    # Twice the smaller binomial tail of a fair coin, at most 1.
    total, small = first + second, min(first, second)
    tail = Fraction(sum(comb(total, i) for i in range(small + 1)), 2**total)
    got = significance.mcnemar_exact(*_flags(first, second))
    assert got[:2] == (first, second)
    assert got.p_value == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-12)


def test_mcnemar_without_disagreement():
    assert significance.mcnemar_exact(*_flags(0, 0)).p_value == 1.0


def test_paired_difference_matches_scipy():
    rng = np.random.default_rng(0)
    method, baseline = rng.normal(0.1, 1, 6), rng.normal(0, 1, 6)
    want = stats.ttest_rel(method, baseline)
    got = significance.paired_difference(method, baseline)
    assert got.p_value == pytest.approx(want.pvalue)
    np.testing.assert_allclose([got.low, got.high], want.confidence_interval(0.95), rtol=1e-9)
    assert got.std == pytest.approx(np.std(method - baseline, ddof=1))


def test_a_gain_over_clips_and_over_seeds_is_one_number():
    """Both are printed: 2.05 points must not be +2.0 in one column and +2.1 in the other."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        method, baseline = rng.random((2, 5, 1200)) < 0.7
        means = method.mean(1), baseline.mean(1)
        over_clips = significance.paired_bootstrap(method, baseline, replicates=2)
        assert over_clips.difference == significance.paired_difference(*means).mean


def test_paired_difference_of_one_seed_and_of_equal_seeds():
    one = significance.paired_difference(np.array([0.5]), np.array([0.25]))
    assert one.mean == 0.25 and all(np.isnan(one[1:]))
    same = significance.paired_difference(np.array([0.5, 0.75]), np.array([0.25, 0.5]))
    assert same == (0.25, 0.0, 0.25, 0.25, 0.0)
    assert significance.paired_difference(np.ones(2), np.ones(2)).p_value == 1.0


def test_bootstrap_over_clips_matches_scipy():
    rng = np.random.default_rng(1)
    method = (rng.random((1, 300)) < 0.8).astype(float)
    baseline = (rng.random((1, 300)) < 0.7).astype(float)
    got = significance.paired_bootstrap(method, baseline, replicates=8000)
    want = stats.bootstrap(
        (method[0] - baseline[0],), np.mean, n_resamples=8000, method="percentile", rng=2
    ).confidence_interval
    assert got.difference == pytest.approx((method - baseline).mean())
    np.testing.assert_allclose([got.low, got.high], [want.low, want.high], atol=0.006)


def test_bootstrap_of_two_by_two_by_enumeration():
    # All 4 x 4 draws of two seeds and two clips are equally likely: the exact distribution.
    difference = np.array([[1.0, 0.0], [0.5, -1.0]])
    pairs = list(itertools.product(range(2), repeat=2))
    exact = [difference[np.ix_(s, c)].mean() for s in pairs for c in pairs]
    got = significance.paired_bootstrap(difference, np.zeros((2, 2)), confidence=0.5)
    # Quantiles of a discrete distribution: compare where they fall between two atoms of it.
    assert got.low == pytest.approx(np.quantile(exact, 0.25, method="inverted_cdf"), abs=0.02)
    assert got.high == pytest.approx(np.quantile(exact, 0.75, method="inverted_cdf"), abs=0.02)


def test_performances_are_drawn_whole():
    """What three cameras saw alike is one piece of evidence, however its clips lie."""
    rng = np.random.default_rng(8)
    scores = rng.integers(-1, 2, (2, 50))
    whole, zeros = np.repeat(scores, 3, axis=1), np.zeros((2, 150))
    order = rng.permutation(150)
    numbers = np.repeat(np.arange(50) * 7, 3)[order]
    once = significance.paired_bootstrap(scores, zeros[:, :50])
    got = significance.paired_bootstrap(whole[:, order], zeros, performances=numbers)
    np.testing.assert_allclose(got, once, rtol=1e-12)
    by_clip = significance.paired_bootstrap(whole, zeros)
    assert by_clip.standard_error < 0.9 * got.standard_error
    teacher = np.ones((2, 50))
    shares = [
        significance.gap_interval(np.repeat(teacher, n, 1), np.repeat(0 * scores, n, 1), x, **named)
        for n, x, named in (
            (1, scores, {}),
            (3, whole, {"performances": np.repeat(np.arange(50), 3)}),
        )
    ]
    np.testing.assert_allclose(*shares, rtol=1e-12)


def test_performances_of_different_numbers_of_clips_by_enumeration():
    # Two performances, of one clip and of two: four draws, a mean over the clips that they have.
    difference, numbers = np.array([[1.0, 0.0, -1.0]]), np.array([0, 1, 1])
    exact = [1.0, 0.0, 0.0, -0.5]
    got = significance.paired_bootstrap(
        difference, np.zeros((1, 3)), performances=numbers, replicates=8000
    )
    assert (got.low, got.high) == (-0.5, 1.0) and got.difference == 0
    assert got.standard_error == pytest.approx(np.std(exact), rel=0.03)


def test_seeds_widen_the_interval():
    rng = np.random.default_rng(3)
    per_seed = np.array([[-0.3], [0.0], [0.3]])
    scores = per_seed + rng.normal(0, 0.1, (3, 400))
    both = significance.paired_bootstrap(scores, np.zeros((3, 400)), replicates=2000)
    clips = significance.paired_bootstrap(scores[1:2], np.zeros((1, 400)), replicates=2000)
    assert both.high - both.low > 5 * (clips.high - clips.low)


@pytest.mark.slow
def test_bootstrap_is_deterministic_and_covers():
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(100):
        scores = rng.normal(0.2, 1, (1, 100))
        interval = significance.paired_bootstrap(scores, np.zeros((1, 100)), replicates=500)
        assert interval == significance.paired_bootstrap(scores, np.zeros((1, 100)), replicates=500)
        hits += interval.low <= 0.2 <= interval.high
    assert hits >= 86  # 95 of 100 expected; 86 or fewer has a chance of about 1 in 3000


def test_bootstrap_error_and_p_value_against_the_normal():
    # Many clips with a known spread: SE = s / sqrt n, and p is the normal's two-sided tail.
    rng = np.random.default_rng(5)
    scores = rng.normal(0.1, 1, (1, 400))
    got = significance.paired_bootstrap(scores, np.zeros((1, 400)))
    error = scores.std() / 20
    assert got.standard_error == pytest.approx(error, rel=0.03)
    assert got.p_value == pytest.approx(2 * stats.norm.sf(abs(scores.mean()) / error), abs=0.025)
    certain = significance.paired_bootstrap(np.ones((1, 9)), np.zeros((1, 9)), replicates=999)
    assert certain.p_value == pytest.approx(2 / 1000)
    assert significance.paired_bootstrap(np.ones((1, 9)), np.ones((1, 9))).p_value == 1


def test_gap_interval_by_enumeration():
    # Three clips, one seed: 27 equally likely draws; the teacher is right on all of them.
    teacher, baseline = np.array([[1, 1, 1.0]]), np.array([[0.5, 0, 0]])
    student = np.array([[1, 0, 0.5]])
    exact = [
        (student - baseline)[0, list(c)].mean() / (teacher - baseline)[0, list(c)].mean()
        for c in itertools.product(range(3), repeat=3)
    ]
    got = significance.gap_interval(teacher, baseline, student, confidence=0.5)
    assert got.value == pytest.approx((1.0 / 3) / (2.5 / 3))
    for end, share in ((got.low, 0.25), (got.high, 0.75)):
        assert end == pytest.approx(np.quantile(exact, share, method="inverted_cdf"), abs=0.06)


def test_no_gap_has_no_interval():
    flat = significance.gap_interval(np.ones((1, 4)), np.ones((1, 4)), np.ones((1, 4)))
    assert all(np.isnan(flat))
    rarely = np.array([[1, 0, 0, 0]])  # leads on one clip of four: not in every draw
    got = significance.gap_interval(rarely, np.zeros((1, 4)), rarely)
    assert got.value == 1 and np.isnan(got.low) and np.isnan(got.high)


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1, none below the one before: .04 .06 .06 .06.
    assert significance.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert significance.holm([0.9, 0.8]) == [1.0, 1.0] and significance.holm([]) == []


def test_what_is_detectable_is_found_four_times_in_five():
    rng = np.random.default_rng(6)
    true = significance.detectable(1.0)
    found = np.abs(rng.normal(true, 1.0, 100_000)) > stats.norm.ppf(0.975)
    assert found.mean() == pytest.approx(0.8, abs=0.005)


def test_gap_closed_and_agreement_by_hand():
    assert significance.gap_closed(0.9, 0.7, 0.8) == pytest.approx(0.5)
    assert significance.gap_closed(0.9, 0.7, 0.6) == pytest.approx(-0.5)
    assert np.isnan(significance.gap_closed(0.7, 0.7, 0.8))
    assert significance.agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"same seeds and clips.*\(1, 3\) and \(1, 4\) differ"):
        significance.paired_bootstrap(np.ones((1, 3)), np.ones((1, 4)))
    with pytest.raises(ValueError, match="nothing to compare"):
        significance.paired_bootstrap(np.ones((1, 0)), np.ones((1, 0)))

"""The gap in mAP with its interval, against clips that are really repeated."""

import numpy as np
import pytest

from jax_irkd.metrics import precision_gap
from jax_irkd.metrics.classification import average_precisions


def _scores(skill, seed, clips=60):
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) % 4
    logits = rng.normal(size=(clips, 4)).round(1)  # some are equal
    logits[np.arange(clips), labels] += skill
    return logits, labels


def test_a_draw_is_the_map_of_its_clips():
    logits, labels = _scores(1.0, 0)
    counts = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), 20)
    counts[0, labels == 3] = 0  # a draw without one of the classes
    wanted = [
        np.nanmean(average_precisions(np.repeat(logits, n, 0), np.repeat(labels, n)))
        for n in counts
    ]
    got = precision_gap.mean_precisions(logits, labels, counts)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.slow
def test_the_interval_against_a_plain_bootstrap():
    teachers, baselines, students = (
        [_scores(skill, 10 * place + seed) for seed in (0, 1)]
        for place, skill in enumerate((4.0, 0.5, 1.5))
    )
    found = precision_gap.gap_interval(teachers, baselines, students)
    rng, shares = np.random.default_rng(7), []
    for _ in range(400):
        seeds, clips = rng.integers(0, 2, 2), rng.integers(0, 60, 60)
        above, before, after = (
            np.mean([np.nanmean(average_precisions(*(a[clips] for a in group[s]))) for s in seeds])
            for group in (teachers, baselines, students)
        )
        shares.append((after - before) / (above - before))
    np.testing.assert_allclose(found[1:], np.quantile(shares, [0.025, 0.975]), atol=0.06)
    assert found.low < found.value < found.high
    assert np.isnan(precision_gap.gap_interval(baselines, baselines, students)).all()
    close = precision_gap.gap_interval([_scores(0.6, 1)], [_scores(0.5, 2)], [_scores(1.5, 3)])
    assert np.isnan(close.low)  # the teacher does not lead in every draw


def test_the_same_baseline_is_drawn_once(monkeypatch):
    runs = [[_scores(skill, 0)] for skill in (4.0, 0.5, 1.5)]
    first = precision_gap.gap_interval(*runs)
    monkeypatch.setattr(precision_gap, "mean_precisions", lambda *given: pytest.fail("again"))
    assert precision_gap.gap_interval(*runs) == first


@pytest.mark.slow
def test_clips_of_a_performance_are_drawn_together():
    runs = [[_scores(skill, 0)] for skill in (4.0, 0.5, 1.5)]
    twice = [[tuple(np.repeat(a, 2, axis=0) for a in run) for run in group] for group in runs]
    found = precision_gap.gap_interval(*twice, np.repeat(np.arange(60), 2))
    np.testing.assert_allclose(found, precision_gap.gap_interval(*runs), rtol=1e-9)

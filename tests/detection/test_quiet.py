"""False detections and windows where nothing happens, counted by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jax_irkd.detection import quiet
from jax_irkd.detection.rows import Row

TRUTH = [Row(3, 11, 20, 1.0), Row(5, 16, 30, 1.0)]  # frames 10 to 29 of 100, from 0


@pytest.mark.parametrize(
    ("start", "end", "false"),
    [(1, 10, 1), (11, 30, 0), (1, 20, 0), (1, 19, 1), (40, 90, 1), (99, 130, 1)],
)
def test_a_proposal_is_false_where_less_than_half_is_annotated(start, end, false):
    spans, scores = np.array([[0, 50], [50, 100]]), np.array([0.4, 0.2])
    found = quiet.measure([Row(3, start, end, 0.9)], TRUTH, spans, scores, rate=10.0)
    assert found.proposals == false
    assert found.minutes == pytest.approx(80 / 10 / 60)
    assert found.per_minute == pytest.approx(7.5 * false)


def test_windows_of_actions_against_windows_of_nothing():
    """Windows of ten frames: three of actions, five of nothing."""
    spans = np.array([[a, a + 10] for a in (0, 6, 10, 20, 30, 40, 50, 90)])
    scores = np.array([0.5, 0.9, 0.6, 0.4, 0.1, 0.5, 0.2, 0.45])
    found = quiet.measure([], TRUTH, spans, scores, rate=30.0)
    np.testing.assert_array_equal(found.acting, [0.9, 0.6, 0.4])  # 6 of ten annotated is enough
    np.testing.assert_array_equal(found.nothing, [0.5, 0.1, 0.5, 0.2, 0.45])
    both = quiet.together([found, found])
    expected = roc_auc_score([1] * 3 + [0] * 5, [*found.acting, *found.nothing])
    assert both.auroc == pytest.approx(expected) and both.minutes == 2 * found.minutes


def test_a_film_without_windows_says_nothing():
    found = quiet.measure([], TRUTH, np.zeros((0, 2), int), np.zeros(0), rate=30.0)
    assert found.per_minute == 0 and np.isnan(quiet.together([found]).auroc)

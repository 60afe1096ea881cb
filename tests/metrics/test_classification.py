"""Metrics against scikit-learn and against values a reader can redo."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from jax_irkd.metrics import classification


def _random(n=200, k=7, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 2
    labels = rng.integers(0, k, n)
    logits[np.arange(n), labels] += 1.0
    # Whole rows repeat, so that their probabilities are equal to the last bit.
    return (logits[rng.integers(0, n // 8, n)] if ties else logits), labels


@pytest.mark.parametrize("ties", [False, True])
def test_matches_sklearn(ties):
    logits, labels = _random(ties=ties)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    got = classification.summarize(logits, labels, 7)
    for key, k in [("top1", 1), ("top5", 5)]:
        want = sk.top_k_accuracy_score(labels, logits, k=k, labels=np.arange(7))
        assert got[key] == pytest.approx(want)
    predicted = logits.argmax(1)
    assert got["mean_class_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(labels, predicted)
    )
    aps = [sk.average_precision_score(labels == c, probabilities[:, c]) for c in range(7)]
    np.testing.assert_allclose(classification.average_precisions(logits, labels), aps, rtol=1e-9)
    assert got["mAP"] == pytest.approx(np.mean(aps))
    assert got["nll"] == pytest.approx(sk.log_loss(labels, probabilities))
    want = sk.confusion_matrix(labels, predicted)
    np.testing.assert_array_equal(classification.confusion_matrix(logits, labels), want)


def test_average_precision_by_hand():
    # Ranking by class-1 score: right, wrong, right -> (1/1 + 2/3) / 2.
    logits = np.array([[0.0, 3.0], [0.0, 2.0], [0.0, 1.0]])
    labels = np.array([1, 0, 1])
    assert classification.average_precisions(logits, labels)[1] == pytest.approx((1 + 2 / 3) / 2)


def test_tied_scores_share_one_threshold():
    # Four equal scores, one of them positive: precision 1/4 at the only threshold.
    assert classification.average_precisions(np.zeros((4, 2)), np.array([1, 0, 0, 0]))[1] == 0.25


def test_absent_classes_are_left_out():
    logits, labels = _random(k=5)
    labels[labels == 3] = 2
    accuracy, precision = (
        classification.class_accuracies(logits, labels),
        classification.average_precisions(logits, labels),
    )
    assert np.isnan(accuracy[3]) and np.isnan(precision[3])
    assert classification.absent_classes(labels, 5) == [3]
    kept = [0, 1, 2, 4]
    got = classification.summarize(logits, labels, 5)
    assert got["mean_class_accuracy"] == pytest.approx(accuracy[kept].mean())
    assert got["mAP"] == pytest.approx(precision[kept].mean())
    assert np.isnan(
        classification.row_shares(classification.confusion_matrix(logits, labels))[3]
    ).all()


def test_summary_is_plain_floats():
    logits, labels = _random(k=3)
    got = classification.summarize(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), 3)
    assert set(got) == {"top1", "top5", "mean_class_accuracy", "mAP", "nll", "ece"}
    assert all(type(value) is float for value in got.values())
    assert got["top5"] == 1.0  # three classes: five guesses cannot miss


def test_equal_logits_go_to_the_lower_class():
    logits = np.zeros((4, 4))
    assert classification.top_k_accuracy(logits, np.arange(4), 1) == 0.25
    assert classification.top_k_accuracy(logits, np.arange(4), 3) == 0.75
    assert classification.confusion_matrix(logits, np.arange(4))[:, 0].tolist() == [1, 1, 1, 1]


def test_calibration_error_by_hand():
    # Two clips at confidence 0.8 (one right), two at 0.6 (both right), four bins:
    # |0.5 - 0.8| * 2/4 + |1 - 0.6| * 2/4 = 0.35
    logits = np.log([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0])
    assert classification.calibration_error(logits, labels, bins=4) == pytest.approx(0.35)
    table = classification.reliability(logits, labels, bins=4)
    assert table.clips.tolist() == [0, 0, 2, 2]
    np.testing.assert_allclose(table.accuracy, [np.nan, np.nan, 1.0, 0.5])
    np.testing.assert_allclose(table.confidence, [np.nan, np.nan, 0.6, 0.8])


def test_calibration_bins_against_a_plain_loop():
    logits, labels = _random(n=500)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    want = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            want += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert classification.calibration_error(logits, labels) == pytest.approx(want, abs=1e-12)


def test_a_certain_and_right_classifier_is_perfect():
    logits, labels = 1e4 * np.eye(4), np.arange(4)
    got = classification.summarize(logits, labels, 4)
    assert got == {
        "top1": 1.0,
        "top5": 1.0,
        "mean_class_accuracy": 1.0,
        "mAP": 1.0,
        "nll": 0.0,
        "ece": 0.0,
    }


@pytest.mark.parametrize(
    "logits, labels, message",
    [
        (np.zeros((2, 3)), np.array([0, 3]), "label 3 is outside the classes 0 to 2"),
        (np.zeros((2, 3)), np.array([-1, 0]), "label -1 is outside the classes 0 to 2"),
        (np.zeros((0, 3)), np.zeros(0, int), "no clips to evaluate"),
        (np.array([[0, np.nan, 0]]), np.array([0]), "the logits of 1 of 1 clips are not finite"),
    ],
)
def test_errors_say_what_is_wrong(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        classification.summarize(logits, labels, 3)


def test_class_count_must_agree():
    with pytest.raises(ValueError, match="logits have 3 classes, the dataset has 4"):
        classification.summarize(np.zeros((2, 3)), np.array([0, 1]), 4)

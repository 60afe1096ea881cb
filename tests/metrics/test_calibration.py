"""Temperatures, thresholds and the score of unfamiliar input, against other implementations."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score

from jax_irkd.metrics import calibration, classification


def problem(count=400, classes=5, scale=3.0, seed=0):
    """Logits of a classifier that is right as often as softmax(logits) says, and then scaled."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, classes))
    p = scipy.special.softmax(logits, axis=1)
    labels = np.array([rng.choice(classes, p=row) for row in p])
    return scale * logits, labels


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_is_that_of_a_general_optimiser(scale):
    logits, labels = problem(scale=scale)

    def loss(temperature):
        return classification.negative_log_likelihood(logits / temperature, labels)

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.2, 20), method="bounded",
                                          options={"xatol": 1e-8})  # fmt: skip
    found = calibration.fit_temperature(logits, labels)
    np.testing.assert_allclose(found, best.x, rtol=1e-5)
    assert found == pytest.approx(scale, rel=0.2)  # what it was scaled by


def test_the_temperature_has_ends():
    logits = np.eye(3) * 5
    assert calibration.fit_temperature(logits, np.arange(3)) == pytest.approx(0.2)  # always right
    assert calibration.fit_temperature(logits, np.full(3, 1)) > 5


def test_calibration_mends_overconfidence_and_keeps_the_order():
    logits, labels = problem(scale=4.0)
    held, held_labels = problem(scale=4.0, seed=1)
    made = calibration.fit(logits, labels, held, held_labels)
    p = scipy.special.softmax(logits, axis=1)
    after = made.probabilities(p)
    np.testing.assert_allclose(
        after, scipy.special.softmax(logits / made.temperature, 1), atol=1e-6
    )
    np.testing.assert_array_equal(after.argmax(1), p.argmax(1))
    before, mended = (classification.calibration_error(np.log(x), labels) for x in (p, after))
    assert mended < 0.4 * before


def test_familiarity_is_the_mahalanobis_distance_to_the_nearest_class():
    logits, labels = problem()
    made = calibration.fit(logits, labels, logits, labels)
    p = scipy.special.softmax(logits, axis=1)
    points = logits - logits.mean(1, keepdims=True)
    means = np.stack([points[labels == k].mean(0) for k in range(5)])
    within = EmpiricalCovariance(assume_centered=True).fit(points - means[labels]).covariance_
    within = within + calibration.RIDGE * np.trace(within) / 5 * np.eye(5)
    distances = np.stack([
        [scipy.spatial.distance.mahalanobis(x, m, np.linalg.inv(within)) ** 2 for m in means]
        for x in points[:40]
    ])  # fmt: skip
    np.testing.assert_allclose(made.familiarity(p)[:40], -distances.min(1), rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
def test_no_more_true_actions_are_rejected_than_was_said(share):
    logits, labels = problem(600)
    held, held_labels = problem(600, seed=1)
    made = calibration.fit(logits, labels, held, held_labels, share)
    rejected = (~made.recognised(scipy.special.softmax(held, axis=1))).sum()
    assert 600 * share - 3 <= rejected <= 600 * share
    others = 1 - made.recognised(scipy.special.softmax(problem(600, seed=2)[0], axis=1)).mean()
    assert others == pytest.approx(share, abs=0.05)
    # Both thresholds reject alike.
    far = made.familiarity(scipy.special.softmax(held, axis=1)) < made.least_familiar
    unsure = made.probabilities(scipy.special.softmax(held, axis=1)).max(1) < made.least_probable
    assert far.sum() == unsure.sum()


def test_background_clips_choose_no_thresholds():
    """They are sure of themselves, and would make the thresholds those of themselves."""
    logits, labels = problem(600)
    held, held_labels = problem(600, seed=1)
    rng = np.random.default_rng(2)
    nothing = rng.normal(0, 1, (600, 5)) + 12 * np.eye(5)[4]
    held, held_labels = np.concatenate([held, nothing]), np.append(held_labels, np.full(600, 4))
    made = calibration.fit(logits, labels, held, held_labels, background=4)
    actions = scipy.special.softmax(held[held_labels != 4], axis=1)
    rejected = (~made.recognised(actions)).mean()
    assert 0.04 < rejected <= 0.05 and made.clips == 1200
    by_all = calibration.fit(logits, labels, held, held_labels)
    assert (~by_all.recognised(actions)).mean() > 0.07
    with pytest.raises(ValueError, match="none of the held-out clips is a true action"):
        calibration.fit(logits, labels, nothing, np.full(600, 4), background=4)


def test_what_resembles_no_class_is_unfamiliar():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 5
    logits = 4 * np.eye(5)[labels] + rng.normal(0, 1, (300, 5))
    made = calibration.fit(logits[::2], labels[::2], logits[1::2], labels[1::2])
    # Surer than any clip of a class, and yet of none.
    strange = scipy.special.softmax(np.array([[30.0, -9, 0, 9, -30], [0, 0, 0, 0, 0]]), axis=1)
    assert strange[0].max() > 0.999 and not made.recognised(strange).any()


def test_auroc_is_scikit_learns():
    rng = np.random.default_rng(0)
    known, other = rng.integers(3, 9, 50).astype(float), rng.integers(0, 7, 30).astype(float)
    truth = np.repeat([1, 0], [50, 30])
    expected = roc_auc_score(truth, np.concatenate([known, other]))
    np.testing.assert_allclose(calibration.auroc(known, other), expected)


def test_a_calibration_survives_json():
    logits, labels = problem()
    made = calibration.fit(logits, labels, logits, labels)
    again = calibration.Calibration.from_json(made.as_json())
    p = scipy.special.softmax(problem(seed=3)[0], axis=1)
    np.testing.assert_allclose(again.familiarity(p), made.familiarity(p), rtol=1e-4, atol=1e-4)
    held = made.as_json()
    wrong = [held | {"temperature": 0}, held | {"means": [[1, 2]]}, held | {"clips": "many"}]
    for other in ({}, {"temperature": 1}, None, *wrong):
        with pytest.raises(ValueError, match="no calibration"):
            calibration.Calibration.from_json(other)

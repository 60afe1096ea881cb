"""Losses on logits: soft targets, decoupled and selective."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import dkd_loss, selective_st_loss, st_loss
from tests.helpers import reference_losses as reference
from tests.helpers.quick_compile import quick_compile  # noqa: F401

RNG = np.random.default_rng(0)
LOSSES = {
    "st": (lambda s, t, y: st_loss(s, t), lambda s, t, y: reference.st(s, t)),
    "dkd": (dkd_loss, reference.dkd),
    "selective": (selective_st_loss, reference.selective_st),
}


def draw(clips=5, classes=7, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    student, teacher = scale * rng.standard_normal((2, clips, classes))
    return student, teacher, rng.integers(0, classes, clips)


def arrays(student, teacher, labels):
    as_float = functools.partial(jnp.asarray, dtype=jnp.float32)
    return as_float(student), as_float(teacher), jnp.asarray(labels, jnp.int32)


def both_gradients(loss):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


@pytest.mark.slow
def test_st_loss_by_hand():
    # q = (3/4, 1/4) against p = (1/2, 1/2): log 2 minus the entropy of q; times 1.
    student, teacher = jnp.zeros((1, 2)), jnp.array([[np.log(3.0), 0.0]], jnp.float32)
    expected = np.log(2) - (2 * np.log(2) - 0.75 * np.log(3))
    np.testing.assert_allclose(st_loss(student, teacher, temperature=1.0), expected, rtol=1e-5)
    doubled = st_loss(2 * student, 2 * teacher, temperature=2)
    np.testing.assert_allclose(doubled, 4 * expected, rtol=1e-5)


@pytest.mark.slow
def test_dkd_loss_by_hand():
    # Teacher 1/2, 1/4, 1/4; student 1/4, 1/2, 1/4; label 0; temperature 1.
    teacher = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    student = jnp.log(jnp.array([[0.25, 0.5, 0.25]]))
    tckd = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    nckd = 0.5 * np.log(0.5 / (2 / 3)) + 0.5 * np.log(0.5 / (1 / 3))
    loss = dkd_loss(student, teacher, jnp.array([0]), temperature=1.0)
    np.testing.assert_allclose(loss, 0.7 * tckd + 0.35 * nckd, rtol=1e-5)


@pytest.mark.slow
def test_selective_st_loss_by_hand():
    # Right teacher: m = 2, so 2 q (log 2q - 2 log p) with q = p = (1/2, 1/2), summed over both.
    logits = jnp.array([[0.0, 0.0]])
    right = selective_st_loss(logits, logits, jnp.array([0]))
    np.testing.assert_allclose(right, 2 * (0 + 2 * np.log(2)), rtol=1e-6)
    wrong = selective_st_loss(logits, logits, jnp.array([1]))
    np.testing.assert_allclose(wrong, 0, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(1, 7), (2, 2), (5, 60)])
def test_value_and_both_gradients_against_float64(name, shape):
    ours, expected = LOSSES[name]
    student, teacher, labels = draw(*shape)
    value, gradients = both_gradients(ours)(*arrays(student, teacher, labels))
    np.testing.assert_allclose(value, expected(student, teacher, labels), rtol=1e-4, atol=1e-6)
    directions = RNG.standard_normal((2, *shape))
    slopes = [
        reference.slope(lambda x: expected(x, teacher, labels), student, directions[0]),
        reference.slope(lambda x: expected(student, x, labels), teacher, directions[1]),
    ]
    ours = [np.sum(np.asarray(g, np.float64) * d) for g, d in zip(gradients, directions)]
    np.testing.assert_allclose(ours, slopes, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_st_gradient_is_the_closed_form():
    student, teacher, _ = draw()
    gradient = jax.grad(st_loss)(*arrays(student, teacher, [0] * 5)[:2])
    p, q = (np.exp(reference.log_softmax(z / 4)) for z in (student, teacher))
    np.testing.assert_allclose(gradient, 4 * (p - q) / 5, atol=1e-6)


@pytest.mark.slow
def test_selective_gradient_is_the_closed_form():
    student, teacher, labels = draw()
    labels[:3] = teacher[:3].argmax(1)
    s, t, y = arrays(student, teacher, labels)
    gradient = jax.grad(selective_st_loss)(s, t, y, decay=0.9)
    p, q = (np.exp(reference.log_softmax(z)) for z in (student, teacher))
    m = 0.9 * (1 + (teacher.argmax(1) == labels))[:, None]
    np.testing.assert_allclose(gradient, m**2 * (p - q) / 5, atol=1e-6)


@pytest.mark.slow
def test_dkd_parts_add_up_to_the_divergence():
    # KL = TCKD + (1 - q_y) NCKD for every clip.
    student, teacher, labels = draw(clips=1)
    s, t, y = arrays(student, teacher, labels)
    one = {"temperature": 1.0}
    target = dkd_loss(s, t, y, target_weight=1, nontarget_weight=0, **one)
    nontarget = dkd_loss(s, t, y, target_weight=0, nontarget_weight=1, **one)
    rest = 1 - jax.nn.softmax(t)[0, labels[0]]
    np.testing.assert_allclose(target + rest * nontarget, st_loss(s, t, **one), rtol=1e-5)


@pytest.mark.slow
def test_two_classes_have_no_nontarget_part():
    s, t, y = arrays(*draw(classes=2))
    assert dkd_loss(s, t, y, target_weight=0, nontarget_weight=1) == 0


@pytest.mark.parametrize("name", ["st", "dkd"])
def test_zero_at_identity(name):
    logits, _, labels = arrays(*draw())
    value, gradients = both_gradients(LOSSES[name][0])(logits, logits, labels)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradients, 0, atol=1e-6)


HARD = {
    "opposite": (1e4 * np.eye(3), -1e4 * np.eye(3)),
    "one_hot": (np.zeros((3, 3)), 1e4 * np.eye(3)),
    "huge": (1e4 * RNG.standard_normal((3, 3)), 1e4 * RNG.standard_normal((3, 3))),
    "offset": (1e4 + RNG.standard_normal((3, 3)), -1e4 + RNG.standard_normal((3, 3))),
    "equal_rows": (np.ones((3, 3)), np.tile([1.0, 2.0, 3.0], (3, 1))),
    "tiny": (1e-30 * np.eye(3), np.zeros((3, 3))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_hard_logits_are_exact_and_have_finite_gradients(name):
    ours, expected = LOSSES[name]
    function = both_gradients(ours)
    labels = np.array([0, 2, 1])
    for case, (student, teacher) in HARD.items():
        student, teacher = np.float32(student), np.float32(teacher)
        value, gradients = function(*arrays(student, teacher, labels))
        exact = expected(student.astype(np.float64), teacher.astype(np.float64), labels)
        np.testing.assert_allclose(value, exact, rtol=1e-4, atol=1e-6, err_msg=case)
        assert np.isfinite(gradients).all(), case
    for scale in (1e30, 3e38):
        value, gradients = function(*arrays(scale * np.eye(3), -scale * np.eye(3), labels))
        assert np.isfinite(value) and np.isfinite(gradients).all()


@pytest.mark.parametrize("name", ["st", "dkd"])
@pytest.mark.parametrize("difference", [1e-1, 1e-2, 1e-3])
def test_similar_predictions_keep_their_digits(name, difference):
    # Second order in the difference: q (log q - log p) would cancel to noise in float32.
    ours, expected = LOSSES[name]
    teacher, noise, labels = draw(classes=10, scale=0.1)
    pair = np.float32(teacher + 10 * difference * noise), np.float32(teacher)
    exact = expected(*np.float64(pair), labels)
    np.testing.assert_allclose(jax.jit(ours)(*arrays(*pair, labels)), exact, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_nearly_certain_predictions_keep_their_gradient(name):
    # p = e^-20 and q = e^-21 in the second class; both gradients are far below 1e-7.
    student, teacher = jnp.array([[20.0, 0.0]]), jnp.array([[21.0, 0.0]])
    label, one = jnp.array([0]), {"temperature": 1.0}
    loss = {
        "st": lambda s: st_loss(s, teacher, **one),
        "dkd": lambda s: dkd_loss(s, teacher, label, target_weight=1.0, **one),
        "selective": lambda s: selective_st_loss(s, teacher, label),
    }[name]
    gradient = jax.grad(loss)(student)
    size = (np.exp(-20) - np.exp(-21)) * (4 if name == "selective" else 1)
    np.testing.assert_allclose(gradient, [[-size, size]], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_and_vmap(name):
    student, teacher, labels = arrays(*draw())
    loss = LOSSES[name][0]
    half = [x.astype(jnp.bfloat16) for x in (student, teacher)]
    whole = [x.astype(jnp.float32) for x in half]
    assert loss(*half, labels).dtype == jnp.float32
    np.testing.assert_array_equal(loss(*half, labels), loss(*whole, labels))
    assert jax.grad(loss)(*half, labels).dtype == jnp.bfloat16
    stacked = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), (student, teacher, labels))
    # The batch mean does not depend on the order of the clips.
    np.testing.assert_allclose(
        jax.jit(jax.vmap(loss))(*stacked), [loss(student, teacher, labels)] * 2, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["dkd", "selective"])
def test_labels_outside_the_classes(name):
    loss = LOSSES[name][0]
    student, teacher, labels = arrays(*draw())
    for wrong in (7, -1):
        with pytest.raises(
            ValueError, match=rf"labels must lie in 0..6 \(7 classes\), got \[{wrong}"
        ):
            loss(student, teacher, labels.at[2].set(wrong))
    with pytest.raises(ValueError, match="labels must be 5 integers, one per clip; got shape \\(4"):
        loss(student, teacher, labels[:4])
    with pytest.raises(ValueError, match="of float32"):
        loss(student, teacher, labels.astype(jnp.float32))


@pytest.mark.slow
def test_labels_outside_the_classes_under_jit():
    student, teacher, labels = arrays(*draw())
    wrong = labels.at[2].set(7)
    value, gradients = both_gradients(dkd_loss)(student, teacher, wrong)
    kept = np.array([0, 1, 3, 4])  # dkd: the clip counts as 0
    expected = 4 / 5 * dkd_loss(student[kept], teacher[kept], labels[kept])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_array_equal(gradients[0][2], 0)
    missed = labels.at[2].set((jnp.argmax(teacher[2]) + 1) % 7)  # selective: a wrong teacher
    np.testing.assert_allclose(
        jax.jit(selective_st_loss)(student, teacher, wrong),
        selective_st_loss(student, teacher, missed),
        rtol=1e-6,
    )


def test_messages():
    student, teacher, labels = arrays(*draw())
    with pytest.raises(ValueError, match="student_logits holds 5 clips and teacher_logits 4"):
        st_loss(student, teacher[:4])
    with pytest.raises(ValueError, match=r"\(5, 7\) and teacher_logits \(5, 6\)"):
        dkd_loss(student, teacher[:, :6], labels)
    with pytest.raises(ValueError, match="student_logits must have the shape \\(\\*b k\\)"):
        st_loss(student[0, 0], teacher[0, 0])
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        st_loss(student, teacher, temperature=0)
    with pytest.raises(ValueError, match="temperature must be a finite number, got '4'"):
        dkd_loss(student, teacher, labels, temperature="4")
    with pytest.raises(ValueError, match=r"target_weight must be a finite number, got '1' \(str\)"):
        dkd_loss(student, teacher, labels, target_weight="1")
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        dkd_loss(student[:, :1], teacher[:, :1], jnp.zeros(5, jnp.int32))

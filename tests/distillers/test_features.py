"""Losses on features: attention transfer, similarities, correlations, relations, channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import at_loss, cc_loss, ccskd_channel_loss, rkd_loss, sp_loss
from jax_irkd.distillers._common import adaptive_average_pool, clip_map, unit_rows
from jax_irkd.distillers.cc import cc_embedding_kernel_loss, cc_embedding_loss
from tests.helpers import reference_losses as reference
from tests.helpers.quick_compile import quick_compile  # noqa: F401

RNG = np.random.default_rng(1)
# Our loss, the reference, shapes of student and teacher without the batch.
LOSSES = {
    "at": (at_loss, reference.at, (4, 5, 3), (4, 5, 6)),
    "sp": (sp_loss, reference.sp, (2, 2, 3), (5,)),
    "cc": (cc_loss, reference.cc, (6,), (9,)),
    "cc_embedding": (cc_embedding_loss, reference.cc_embedding, (6,), (6,)),
    "cc_embedding_kernel": (
        cc_embedding_kernel_loss,
        reference.cc_embedding_kernel,
        (6,),
        (9,),
    ),
    "rkd": (rkd_loss, reference.rkd, (6,), (9,)),
    "channel": (ccskd_channel_loss, lambda s, t: np.mean((s - t) ** 2), (6,), (6,)),
}
# Not changed by a positive factor in front of either argument.
SCALE_FREE = ("at", "sp", "cc", "rkd")
# Compare clips with each other: the order of the batch must not matter.
RELATIONAL = ("sp", "cc", "rkd")


def draw(name, clips=4, seed=2):
    rng = np.random.default_rng(seed)
    return [0.3 + rng.standard_normal((clips, *shape)) for shape in LOSSES[name][2:]]


def as_float32(*values):
    return [jnp.asarray(x, jnp.float32) for x in values]


def both_gradients(loss):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def assert_finite(value, gradients, case=""):
    assert np.isfinite(value), case
    assert all(np.isfinite(gradient).all() for gradient in gradients), case


@pytest.mark.slow
def test_at_loss_by_hand():
    # Maps (1, 1)/sqrt(2) against (1, 0): ((1/sqrt2 - 1)^2 + 1/2) / 2.
    student, teacher = jnp.ones((1, 1, 2, 3)), jnp.array([[[[2.0], [0.0]]]])
    np.testing.assert_allclose(at_loss(student, teacher), 1 - 2**-0.5, rtol=1e-6)


@pytest.mark.slow
def test_sp_loss_by_hand():
    # Orthogonal clips give G = I; identical clips give every entry 1/sqrt(2).
    student = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    teacher = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(sp_loss(student, teacher), 1 - 2**-0.5, rtol=1e-6)


@pytest.mark.slow
def test_cc_losses_by_hand():
    # Off the diagonal cosines 0 against 1: the difference is e^-0.8 (0.8 + 0.32), 2 of 4 entries.
    student = jnp.array([[1.0, 0.0], [0.0, 3.0]])
    teacher = jnp.array([[1.0, 0.0], [2.0, 0.0]])
    expected = (np.exp(-0.8) * (0.8 + 0.32)) ** 2 / 2
    np.testing.assert_allclose(cc_loss(student, teacher), expected, rtol=1e-6)
    # Inner products 1 and 9 against 1 and 4 on the diagonal, 0 against 2 beside it.
    taylor = [0.8 * (9 - 4) + 0.32 * (81 - 16), 0.8 * 2 + 0.32 * 4]
    expected = np.exp(-0.8) * np.sqrt(taylor[0] ** 2 + 2 * taylor[1] ** 2) / 4
    np.testing.assert_allclose(cc_embedding_kernel_loss(student, teacher), expected, rtol=1e-6)
    # Errors (0, 1), (1, 3): one pair of neighbours, 0 * 1 + 1 * 3.
    np.testing.assert_allclose(cc_embedding_loss(student, teacher + jnp.array([0, 1.0])), 2.0)


@pytest.mark.slow
def test_rkd_loss_by_hand():
    # Points 0, 1, 3 on a line: distances 1, 3, 2, mean 2. Student 0, 1, 2: 1, 2, 1, mean 4/3.
    student, teacher = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.0], [1.0], [3.0]])
    distance = 2 * ((3 / 4 - 1 / 2) ** 2 + (3 / 2 - 3 / 2) ** 2 + (3 / 4 - 1) ** 2) / 2 / 9
    ours = rkd_loss(student, teacher, distance_weight=1, angle_weight=0)
    np.testing.assert_allclose(ours, distance, rtol=1e-6)
    # On a line all cosines are +-1 and agree; turning the last clip back changes those at it.
    np.testing.assert_allclose(rkd_loss(student, teacher, distance_weight=0), 0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("clips", [2, 5])
def test_value_and_both_gradients_against_float64(name, clips):
    ours, expected = LOSSES[name][:2]
    student, teacher = draw(name, clips)
    value, gradients = both_gradients(ours)(*as_float32(student, teacher))
    np.testing.assert_allclose(value, expected(student, teacher), rtol=1e-4, atol=1e-7)
    directions = [RNG.standard_normal(x.shape) for x in (student, teacher)]
    reference.check_gradients(gradients, expected, (student, teacher), directions)


@pytest.mark.parametrize("sizes", [((6, 6), (3, 3)), ((3, 4), (7, 5)), ((5, 2), (3, 4))])
def test_at_pools_the_larger_map_before_the_power(sizes):
    student, teacher = (RNG.standard_normal((2, *size, 3)) for size in sizes)
    size = tuple(min(pair) for pair in zip(*sizes))
    expected = reference.at(*(reference.pool(maps, size) for maps in (student, teacher)))
    ours = jax.jit(at_loss)(*as_float32(student, teacher))
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


@pytest.mark.parametrize(("length", "parts"), [(7, 3), (5, 5), (3, 7), (56, 7), (9, 3), (1, 2)])
def test_pooling_windows(length, parts):
    maps = RNG.standard_normal((2, length, 4, 2))
    ours = adaptive_average_pool(jnp.asarray(maps, jnp.float32), (parts, 3))
    np.testing.assert_allclose(ours, reference.pool(maps, (parts, 3)), atol=1e-6)


@pytest.mark.slow
def test_odd_powers_keep_the_sign():
    student, teacher = draw("at")
    for power in (1, 3):
        ours = at_loss(*as_float32(student, teacher), power=power)
        np.testing.assert_allclose(ours, reference.at(student, teacher, power), rtol=1e-4)
    for power in (0, 2.5, "2"):
        with pytest.raises(ValueError, match="power must be"):
            at_loss(*as_float32(student, teacher), power=power)


@pytest.mark.parametrize("name", LOSSES)
def test_zero_at_identity(name):
    features, _ = as_float32(*draw(name))
    value, gradients = both_gradients(LOSSES[name][0])(features, features)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    np.testing.assert_allclose(gradients, 0, atol=1e-6)


@pytest.mark.parametrize("name", RELATIONAL)
def test_one_and_two_clips(name):
    function = both_gradients(LOSSES[name][0])
    value, gradients = function(*as_float32(*draw(name, clips=1)))
    np.testing.assert_allclose(value, 0, atol=1e-12)
    assert_finite(value, gradients)
    if name == "rkd":  # one distance, equal to its mean
        value, gradients = function(*as_float32(*draw(name, clips=2)))
        np.testing.assert_allclose(value, 0, atol=1e-12)
        np.testing.assert_allclose(gradients[0], 0, atol=1e-6)


def test_a_single_clip_has_no_neighbour():
    value, gradients = both_gradients(cc_embedding_loss)(*as_float32(*draw("cc_embedding", 1)))
    assert value == 0
    np.testing.assert_array_equal(gradients, 0)


def test_kernels_of_embeddings_stay_finite():
    function = both_gradients(cc_embedding_kernel_loss)
    student, teacher = as_float32(*draw("cc_embedding_kernel"))
    for scale in (1e9, 1e30, 3e37):
        for pair in ((scale * student, teacher), (student, -scale * teacher)):
            value, gradients = function(*pair)
            assert_finite(value, gradients, scale)
            assert value > 1e25
    single = student[:1], teacher[:1]
    value, gradients = function(*single)
    exact = reference.cc_embedding_kernel(*(np.float64(x) for x in single))
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    assert_finite(value, gradients)


def hard(name):
    """Inputs on which a careless implementation divides by zero or overflows."""
    student, teacher = (np.float32(x) for x in draw(name))
    zero_row, zero, equal = student.copy(), np.zeros_like(student), student.copy()
    zero_row[1], equal[2] = 0, equal[0]
    near = student.copy()
    near[2] = np.nextafter(near[0], np.inf)
    cases = {
        "zero row": (zero_row, teacher),
        "zero row of the teacher": (student, 0 * teacher),
        "all zero": (zero, 0 * teacher),
        "equal rows": (equal, teacher),
        "all rows equal": (np.repeat(student[:1], len(student), 0), teacher),
        "nearly equal rows": (near, teacher),
        "large": (1e4 * student, 1e4 * teacher),
    }
    if name in SCALE_FREE:
        cases |= {f"times {scale}": (scale * student, teacher) for scale in (1e-8, 1e15, 1e30)}
    return cases | {"tiny": (1e-30 * student, teacher), "subnormal": (1e-40 * student, teacher)}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_hard_features_are_exact_and_have_finite_gradients(name):
    ours, expected = LOSSES[name][:2]
    function = both_gradients(ours)
    for case, (student, teacher) in hard(name).items():
        value, gradients = function(*as_float32(student, teacher))
        assert_finite(value, gradients, case)
        exact = expected(np.float64(np.float32(student)), np.float64(np.float32(teacher)))
        np.testing.assert_allclose(value, exact, rtol=1e-4, atol=1e-7, err_msg=case)


@pytest.mark.parametrize("name", ["at", "sp", "cc"])
def test_a_zero_row_gets_no_gradient_through_its_norm(name):
    student, teacher = as_float32(*draw(name))
    gradient = jax.jit(jax.grad(LOSSES[name][0]))(student.at[1].set(0), teacher)
    assert np.abs(gradient).max() < 10


@pytest.mark.parametrize("name", SCALE_FREE)
def test_gradients_of_large_and_small_features(name):
    # L(c x) = L(x), so the gradient at c x is the gradient at x over c.
    student, teacher = as_float32(*draw(name))
    gradient = jax.jit(jax.grad(LOSSES[name][0]))
    plain = np.asarray(gradient(student, teacher))
    for scale in (2.0**100, 2.0**-15):
        scaled = scale * np.asarray(gradient(scale * student, teacher), np.float64)
        np.testing.assert_allclose(scaled, plain, atol=1e-4 * np.abs(plain).max())


def test_clip_map_is_the_mean_over_segments():
    maps = jnp.asarray(RNG.standard_normal((2, 3, 4, 4, 5)), jnp.bfloat16)
    whole = maps.astype(jnp.float32)
    np.testing.assert_allclose(clip_map(maps), whole.mean(1), rtol=1e-5, atol=1e-6)
    weights = jnp.asarray(RNG.standard_normal((2, 4, 4, 5)), jnp.float32)
    ours, plain = (
        jax.jit(jax.grad(lambda x, f=f: jnp.sum(weights * f(x))))(whole)
        for f in (clip_map, lambda x: x.mean(1))
    )
    np.testing.assert_allclose(ours, plain, rtol=1e-6)


def test_unit_rows():
    rows = jnp.array([[3.0, 4.0], [0.0, 0.0], [3e30, 4e30], [3e-9, 4e-9], [3e-14, 4e-14]])
    expected = [[0.6, 0.8], [0, 0], [0.6, 0.8], [0.6, 0.8], [0.03, 0.04]]
    np.testing.assert_allclose(unit_rows(rows), expected, rtol=1e-6)
    jacobian = jax.jit(jax.vmap(jax.jacrev(unit_rows)))(rows)
    np.testing.assert_allclose(jacobian[0], [[0.128, -0.096], [-0.096, 0.072]], rtol=1e-5)
    np.testing.assert_array_equal(jacobian[1], 0)
    np.testing.assert_allclose(jacobian[4], 1e12 * np.eye(2), rtol=1e-6)
    assert np.isfinite(jacobian).all()


@pytest.mark.parametrize("name", RELATIONAL)
def test_order_of_the_clips_does_not_matter(name):
    student, teacher = as_float32(*draw(name, 6))
    order = np.array([3, 1, 5, 0, 2, 4])
    loss = jax.jit(LOSSES[name][0])
    np.testing.assert_allclose(loss(student[order], teacher[order]), loss(student, teacher), 1e-5)


def test_rkd_ignores_shift_and_scale():
    student, teacher = as_float32(*draw("rkd", 6))
    loss = jax.jit(rkd_loss)
    moved = loss(4 * student + 1, 0.5 * teacher - 2)
    np.testing.assert_allclose(moved, loss(student, teacher), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_and_vmap(name):
    loss, pair = jax.jit(LOSSES[name][0]), as_float32(*draw(name))
    half = [x.astype(jnp.bfloat16) for x in pair]
    value = loss(*half)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, loss(*[x.astype(jnp.float32) for x in half]), rtol=1e-5)
    stacked = [jnp.stack([x, x + 1]) for x in pair]
    each = [loss(pair[0], pair[1]), loss(pair[0] + 1, pair[1] + 1)]
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(*stacked), each, rtol=1e-4)


@pytest.mark.slow
def test_feature_maps_are_flattened():
    maps = [jnp.asarray(RNG.standard_normal((4, 2, 3, 5)), jnp.float32) for _ in range(2)]
    flat = [x.reshape(4, -1) for x in maps]
    for loss in map(jax.jit, (sp_loss, cc_loss, rkd_loss)):
        np.testing.assert_allclose(loss(*maps), loss(*flat), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_batches_must_agree(name):
    student, teacher = as_float32(*draw(name))
    with pytest.raises(ValueError, match=r"student_\w+ holds 3 clips and teacher_\w+ 4"):
        LOSSES[name][0](student[:3], teacher)
    with pytest.raises(ValueError, match="none of it 0"):
        LOSSES[name][0](student[:0], teacher[:0])


@pytest.mark.slow
def test_messages():
    student, teacher = as_float32(*draw("cc"))
    with pytest.raises(ValueError, match="gamma must not be negative, got -1"):
        cc_loss(student, teacher, gamma=-1)
    with pytest.raises(ValueError, match=r"order must be a whole number of at least 0, got 1\.5"):
        cc_loss(student, teacher, order=1.5)
    with pytest.raises(ValueError, match="student_map must have the shape \\(b h w c\\)"):
        at_loss(student, teacher)
    with pytest.raises(
        ValueError, match=r"\(4, 6\) and teacher_pooled \(4, 9\); they must be equal"
    ):
        ccskd_channel_loss(student, teacher)

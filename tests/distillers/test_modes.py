"""Every loss in every mode of JAX: one table of losses, one of modes."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_irkd
from tests.helpers.quick_compile import quick_compile  # noqa: F401

CLIPS, CLASSES = 8, 8
LABELS = np.array([0, 3, 1, 7, 2, 2, 5, 6])
# Shapes of student and teacher without the batch; hyper-parameters that may be traced.
LOSSES = {
    "st_loss": ((CLASSES,), (CLASSES,), {"temperature": 3.0}),
    "dkd_loss": (
        (CLASSES,),
        (CLASSES,),
        {"temperature": 3.0, "target_weight": 0.5, "nontarget_weight": 2.0},
    ),
    "selective_st_loss": ((CLASSES,), (CLASSES,), {"decay": 0.9}),
    "ccskd_channel_loss": ((6,), (6,), {}),
    "at_loss": ((4, 4, 3), (2, 3, 5), {"power": 2}),
    "sp_loss": ((3, 4), (5,), {}),
    "cc_loss": ((6,), (9,), {"gamma": 0.3}),
    "rkd_loss": ((6,), (9,), {"distance_weight": 2.0, "angle_weight": 3.0}),
    "mgcam_loss": ((4, 4, 3), (2, 3, 5), {"sigma": 0.7, "temperature": 0.5}),
}
LABELLED = ("dkd_loss", "selective_st_loss")
ON_LOGITS = ("st_loss", *LABELLED)
RELATIONAL = ("sp_loss", "cc_loss", "rkd_loss", "mgcam_loss")


def draw(name, clips=CLIPS, dtype="float32", seed=0):
    """A student's and a teacher's arrays."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal((clips, *shape)), dtype) for shape in LOSSES[name][:2]]


def loss_of(name, labels=LABELS, **options):
    """The loss as a function of two arrays; MGCAM gets one stage, labels are bound."""
    function = functools.partial(getattr(jax_irkd, name), **options)
    if name == "mgcam_loss":
        return lambda s, t: function([s], [t])
    if name in LABELLED:
        return lambda s, t: function(s, t, jnp.asarray(labels))
    return function


def assert_close(found, expected, tolerance=2e-5):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        size = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * size)


@functools.cache
def plain(name):
    """Value and both gradients on one device."""
    return jax.jit(jax.value_and_grad(loss_of(name), argnums=(0, 1)))(*draw(name))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("name", LOSSES)
def test_meshes(name, kind):
    """Batch-sharded everywhere, and where the last axis allows it sharded there too."""
    value_and_gradients = jax.value_and_grad(loss_of(name), argnums=(0, 1))
    for shape in ((8, 1), (2, 4)):
        mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType[kind],) * 2)
        placed = []
        for array in draw(name):
            last = "model" if name in ON_LOGITS and shape[1] > 1 else None
            spec = PartitionSpec("data", *[None] * (array.ndim - 2), last)
            placed.append(jax.device_put(array, NamedSharding(mesh, spec)))
        with jax.set_mesh(mesh):
            assert_close(jax.jit(value_and_gradients)(*placed), plain(name))
        assert_close(value_and_gradients(*placed), plain(name))


@pytest.mark.parametrize("name", LOSSES)
def test_shard_map(name):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    options = {"axis_name": "data"} if name in RELATIONAL else {}
    split = PartitionSpec("data")

    def step(student, teacher, labels):
        run = jax.value_and_grad(loss_of(name, labels, **options), argnums=(0, 1))
        value, gradients = run(student, teacher)
        return jax.lax.pmean(value, "data"), gradients

    mapped = jax.shard_map(step, mesh=mesh, in_specs=split, out_specs=(PartitionSpec(), split))
    value, gradients = jax.jit(mapped)(*draw(name), jnp.asarray(LABELS))
    expected, slopes = plain(name)
    # The mean over the devices of the gradients is the gradient of the whole.
    assert_close((value, gradients), (expected, jax.tree.map(lambda x: 4 * x, slopes)))


@pytest.mark.parametrize("name", LOSSES)
def test_double_precision(name):
    with jax.enable_x64(True):
        pair = draw(name, 4, "float64")
        loss = loss_of(name, LABELS[:4])
        assert jax.jit(loss)(*pair).dtype == jnp.float64
        jax.test_util.check_grads(loss, pair, order=1, modes=("fwd", "rev"), rtol=1e-5, atol=1e-7)
        # All digits: float32 alone would keep seven.
        single = jax.jit(loss)(*(x.astype(jnp.float32) for x in pair))
        assert single.dtype == jnp.float32

        def carry(total, pair):
            return total + loss(*pair), None

        stacked = [x[None].astype(jnp.float32) for x in pair]
        total, _ = jax.lax.scan(carry, jnp.zeros((), jnp.float32), stacked)
        np.testing.assert_allclose(total, single, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_flags(name):
    flags = {
        "jax_numpy_rank_promotion": "raise",
        "jax_numpy_dtype_promotion": "strict",
        "jax_debug_infs": True,
        "jax_debug_nans": True,
    }
    student, teacher = draw(name)
    before = {flag: getattr(jax.config, flag) for flag in flags}
    run = jax.value_and_grad(loss_of(name), argnums=(0, 1))
    half = jax.value_and_grad(loss_of(name))
    try:
        for flag, value in flags.items():
            jax.config.update(flag, value)
        found = jax.jit(run)(student, teacher)
        eager = run(student, teacher)
        value, slope = jax.jit(half)(student.astype(jnp.bfloat16), teacher)
    finally:
        for flag, value_before in before.items():
            jax.config.update(flag, value_before)
    assert_close(found, plain(name))
    assert_close(eager, plain(name))
    assert value.dtype == jnp.float32 and slope.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", LOSSES)
def test_export_with_a_symbolic_batch(name):
    (size,) = jax.export.symbolic_shape("b")
    shapes = [jax.ShapeDtypeStruct((size, *shape), jnp.float32) for shape in LOSSES[name][:2]]
    shapes.append(jax.ShapeDtypeStruct((size,), jnp.int32))
    exported = jax.export.export(jax.jit(lambda s, t, y: loss_of(name, y)(s, t)))(*shapes)
    found = exported.call(*draw(name), jnp.asarray(LABELS, jnp.int32))
    np.testing.assert_allclose(found, plain(name)[0], rtol=2e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_forward_mode_second_order_and_checkpoint(name):
    pair, loss = draw(name, 4), loss_of(name, LABELS[:4])
    gradient = jax.jit(jax.grad(loss))(*pair)
    along = draw(name, 4, seed=1)[0]
    slope = jax.jit(lambda s, t: jax.jvp(lambda s: loss(s, t), (s,), (along,))[1])(*pair)
    np.testing.assert_allclose(slope, jnp.sum(gradient * along), rtol=1e-4, atol=1e-6)
    again = jax.jit(jax.grad(jax.checkpoint(loss)))(*pair)
    np.testing.assert_allclose(again, gradient, rtol=1e-5, atol=1e-7)

    def forward(s, t):
        return jax.jvp(jax.grad(lambda s: loss(s, t)), (s,), (along,))[1]

    def backward(s, t):
        return jax.grad(lambda s: jnp.sum(jax.grad(loss)(s, t) * along))(s)

    products = [np.asarray(jax.jit(f)(*pair)) for f in (forward, backward)]
    assert np.isfinite(products[0]).all() and np.abs(products[0]).max() > 0
    assert_close(*products, tolerance=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_traced_hyperparameters(name):
    pair, options = draw(name), LOSSES[name][2]
    expected = loss_of(name, **options)(*pair)
    traced = jax.jit(lambda s, t, options: loss_of(name, **options)(s, t))(*pair, options)
    np.testing.assert_allclose(traced, expected, rtol=1e-5)
    with jax.enable_x64(True):  # float64 numbers leave float32 arrays alone
        numbers = {k: v if k == "power" else np.float64(v) for k, v in options.items()}
        assert loss_of(name, **numbers)(*pair).dtype == jnp.float32
    for key in options:
        for wrong in (jnp.ones(1), jnp.ones(CLIPS), np.ones((1, 1))):
            message = rf"{name}: {key} must be a number, got an array of shape"
            with pytest.raises(ValueError, match=message):
                loss_of(name, **{key: wrong})(*pair)
            with pytest.raises(ValueError, match=message):
                jax.jit(lambda s, t, x, key=key: loss_of(name, **{key: x})(s, t))(*pair, wrong)


def test_a_learned_temperature():
    pair = draw("st_loss")
    for name in ("st_loss", "dkd_loss"):
        function = jax.jit(lambda x, name=name: loss_of(name, temperature=x)(*pair))
        slope = jax.grad(function)(3.0)
        step = (function(3.01) - function(2.99)) / 0.02
        np.testing.assert_allclose(slope, step, rtol=1e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_masks_weights_and_reductions(name):
    student, teacher = draw(name)
    keep = np.array([1, 1, 0, 1, 0, 1, 1, 0], bool)
    expected, slopes = jax.value_and_grad(loss_of(name, LABELS[keep]), argnums=(0, 1))(
        student[keep], teacher[keep]
    )
    # Padding of any value has neither value nor gradient.
    mask = keep.reshape(-1, *[1] * (student.ndim - 1))
    wrong = jnp.where(mask, student, jnp.nan)
    value, gradients = jax.jit(jax.value_and_grad(loss_of(name, where=keep), argnums=(0, 1)))(
        wrong, teacher
    )
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    for ours, theirs in zip(gradients, slopes):
        np.testing.assert_array_equal(ours[~keep], 0)
        assert_close(ours[keep], theirs)
    each = loss_of(name, where=keep, reduction="none")(wrong, teacher)
    assert each.shape == (CLIPS,)
    np.testing.assert_array_equal(each[~keep], 0)
    np.testing.assert_allclose(each.sum() / keep.sum(), expected, rtol=2e-5)
    weights = np.arange(CLIPS, dtype=np.float32)
    total = loss_of(name, where=keep, weights=weights, reduction="sum")(wrong, teacher)
    np.testing.assert_allclose(total, np.sum(weights * each), rtol=2e-5)
    mean = loss_of(name, where=keep, weights=weights)(wrong, teacher)
    np.testing.assert_allclose(mean, total / keep.sum(), rtol=2e-5)
    nothing = loss_of(name, where=np.zeros(CLIPS, bool))
    value, slope = jax.value_and_grad(nothing)(student, teacher)
    assert value == 0 and not np.any(slope)
    for options, message in (
        ({"where": keep[:3]}, r"where has the shape \(3,\); it must broadcast to \(8,\)"),
        ({"where": weights}, "where must be bool, got float32"),
        ({"weights": weights[:3]}, r"weights has the shape \(3,\)"),
        ({"reduction": "max"}, r"unknown reduction 'max'; choose one of \['mean', 'sum', 'none'\]"),
    ):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            loss_of(name, **options)(student, teacher)


@pytest.mark.parametrize("name", ON_LOGITS)
def test_dense_predictions_and_padding_labels(name):
    rng = np.random.default_rng(2)
    student, teacher = jnp.asarray(rng.standard_normal((2, 3, 5, CLASSES)), jnp.float32)
    labels = rng.integers(0, CLASSES, (3, 5))
    flat = [x.reshape(15, CLASSES) for x in (student, teacher)]
    expected = loss_of(name, labels.reshape(15), reduction="none")(*flat).reshape(3, 5)
    found = loss_of(name, labels, reduction="none")(student, teacher)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    moved = [jnp.moveaxis(x, -1, 1) for x in (student, teacher)]
    np.testing.assert_allclose(
        loss_of(name, labels, axis=1, reduction="none")(*moved), expected, rtol=1e-6
    )
    if name in LABELLED:
        padded = np.where(np.arange(5) < 3, labels, -100)
        for run in (lambda f: f, jax.jit):
            value = run(loss_of(name, padded, ignore_index=-100))(student, teacher)
            np.testing.assert_allclose(value, expected[:, :3].mean(), rtol=1e-5)
        one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
        value = loss_of(name, one_hot)(student, teacher)
        np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)


def test_soft_labels():
    student, teacher = draw("dkd_loss")
    soft = 0.7 * np.eye(CLASSES)[LABELS] + 0.3 * np.eye(CLASSES)[LABELS[::-1]]
    with pytest.raises(ValueError, match="For mixup take share"):
        jax_irkd.dkd_loss(student, teacher, soft)
    with pytest.raises(ValueError, match="distributions over the classes, not negative"):
        jax_irkd.selective_st_loss(student, teacher, 2 * soft)
    # m = 1 + what the label gives the teacher's first choice: linear, so by way of one-hot ones.
    choice = np.argmax(teacher, 1)
    m = 1 + soft[np.arange(CLIPS), choice]
    right, wrong = (
        jax_irkd.selective_st_loss(student, teacher, y, reduction="none")
        for y in (choice, (choice + 1) % CLASSES)
    )
    log_q = jax.nn.log_softmax(teacher)
    entropy = jnp.sum(jnp.exp(log_q) * log_q, -1)
    expected = m**2 * wrong + m * (1 - m) * entropy + m * np.log(m)
    found = jax_irkd.selective_st_loss(student, teacher, soft, reduction="none")
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(right, 4 * wrong - 2 * entropy + 2 * np.log(2), rtol=1e-4, atol=1e-5)

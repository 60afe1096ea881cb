"""Every loss in every mode of JAX. `plain` is the program that the other modes must agree with."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_irkd import dkd_loss, st_loss
from tests.helpers.loss_table import LABELS, ROWS, draw, loss_of
from tests.helpers.quick_compile import quick_compile  # noqa: F401

# Parts and relatives of other rows: the same code.
PARTS = ("rkd_distance_loss", "rkd_angle_loss", "cc_loss bilinear", "simkd_loss")
RELATIONAL = [title for title in ROWS if ROWS[title].relational and title not in PARTS]
every_loss = pytest.mark.parametrize("title", [title for title in ROWS if title not in PARTS])
# Its name before jax 0.8.
enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
FLAGS = {
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
    "jax_debug_infs": True,
    "jax_debug_nans": True,
}


@pytest.fixture
def strict():
    """JAX at its least forgiving."""
    before = {flag: getattr(jax.config, flag) for flag in FLAGS}
    for flag, value in FLAGS.items():
        jax.config.update(flag, value)
    yield
    for flag, value in before.items():
        jax.config.update(flag, value)


def assert_close(found, expected, tolerance=2e-5):
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        size = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * size)


@functools.cache
def program(title):
    """Value and both gradients, the hyper-parameters traced."""

    def run(student, teacher, numbers):
        loss = loss_of(title, **numbers)
        return jax.value_and_grad(loss, argnums=(0, 1))(student, teacher)

    return jax.jit(run)


@functools.cache
def plain(title):
    """What `program` gives in float32 on one device."""
    return program(title)(*draw(title), dict(ROWS[title].numbers))


def known(title, labels=LABELS, **options):
    """The loss of `plain`, its hyper-parameters Python's numbers."""
    return loss_of(title, labels, **ROWS[title].numbers, **options)


@every_loss
def test_flags_and_traced_hyperparameters(title, strict):
    value, gradients = plain(title)  # first here: compiled and run under the flags
    assert value.dtype == jnp.float32
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradients))
    student, teacher = draw(title)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), student)
    value, slope = jax.eval_shape(jax.value_and_grad(known(title)), half, teacher)
    assert value.dtype == jnp.float32
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(slope))


@every_loss
def test_ranges(title, strict):
    """Finite in the range that the docstring gives; outside of it calls outside jit raise."""
    row, run = ROWS[title], program(title)
    pair = jax.tree.map(lambda x: x / jnp.abs(x).max(), draw(title))
    options = dict(row.numbers)

    def scaled(size, other):
        return jax.tree.map(lambda x: x * size, pair[0]), jax.tree.map(lambda x: x * other, pair[1])

    for size in (1e-30, 1e-19, 1e7, row.largest):
        for sizes in ((size, size), (size, 1.0), (1.0, size)):
            run(*scaled(*sizes), options)  # the flags make infinities and NaNs an error
    for key in options.keys() & {"temperature", "sigma"}:
        for number in (1e-30, 1e-10, 1e10, row.hottest):
            run(*scaled(1.0, 1.0), options | {key: number})
    if row.largest < 1e38:
        beyond = [(1e3 * row.largest, 1.0), (1.0, 1e3 * row.largest)]
        for sizes in beyond:
            with pytest.raises(ValueError, match=rf"{title}: .* reaches .*; from .* on the loss"):
                loss_of(title)(*scaled(*sizes))
        jax.eval_shape(lambda: loss_of(title)(*scaled(*beyond[0])))  # a constant under jit


@pytest.mark.parametrize("title", ["st_loss", "dkd_loss", "mlkd_loss"])
def test_range_of_logits_depends_on_the_temperature(title):
    pair = [1e10 * array for array in draw(title)]
    for temperature in (1e30, 1e-30):
        options = {"temperature": temperature}
        if title == "mlkd_loss":
            options = {"temperatures": (1.0, temperature)}
        with pytest.raises(ValueError, match=f"{title}: student_logits reaches .*; from 3.4e"):
            loss_of(title, **options)(*pair)


@pytest.mark.slow
@pytest.mark.parametrize("title", ["dkd_loss", "sp_loss"])
def test_no_intermediate_is_infinite(title, strict):
    """Outside jit `jax_debug_infs` looks at every operation."""
    run = jax.value_and_grad(known(title), argnums=(0, 1))
    assert_close(run(*draw(title)), plain(title))


@pytest.mark.slow
@every_loss
def test_double_precision_forward_mode_and_second_order(title):
    """Slopes against differences of values that only float64 can resolve."""
    loss, step = known(title), 1e-5
    with enable_x64(True):
        student, teacher = draw(title, dtype="float64")
        along = draw(title, dtype="float64", seed=1)[0]

        @jax.jit
        def run(student):
            value, slope = jax.jvp(lambda s: loss(s, teacher), (student,), (along,))
            first, second = jax.jvp(jax.grad(lambda s: loss(s, teacher)), (student,), (along,))
            return value, slope, first, second

        def moved(distance):
            return run(jax.tree.map(lambda x, d: x + distance * d, student, along))

        found = [jax.device_get(x) for x in (run(student), moved(step), moved(-step), along)]
        assert jax.eval_shape(loss, *draw(title)).dtype == jnp.float32
    (value, slope, gradient, product), (above, _, up, _), (below, _, down, _), along = found
    assert value.dtype == jax.tree.leaves(product)[0].dtype == np.float64
    assert_close((value, gradient), (plain(title)[0], plain(title)[1][0]))
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-6, atol=1e-9)
    inner = [np.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(along))]
    np.testing.assert_allclose(slope, sum(inner), rtol=1e-9)
    differences = jax.tree.map(lambda x, y: (x - y) / (2 * step), up, down)
    assert_close(product, differences, 1e-6)


def placed(title, mesh):
    """The arrays of `draw` on a mesh: clips over its first axis, classes or rows of maps over its
    second."""
    row = ROWS[title]

    def place(array):
        parts, spec = mesh.shape.get("model", 1), ["data"] + [None] * (array.ndim - 1)
        axis = -1 if row.logits else 1 if array.ndim == 4 else 0
        if axis and parts > 1 and array.shape[axis] % parts == 0:
            spec[axis] = "model"
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(place, draw(title))


@pytest.mark.slow
@every_loss
def test_explicit_mesh(title):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        found = jax.jit(jax.value_and_grad(known(title)))(*placed(title, mesh))
    assert_close(found, (plain(title)[0], plain(title)[1][0]))


@pytest.mark.slow
@pytest.mark.parametrize("title", ["dkd_loss", "sp_loss"])
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_meshes(title, kind):
    """Any number of devices, split by clips or by classes."""
    run = jax.jit(jax.value_and_grad(known(title), argnums=(0, 1)))
    for shape in ((1, 1), (4, 1), (1, 4), (8, 1)):
        mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType[kind],) * 2)
        with jax.set_mesh(mesh):
            assert_close(run(*placed(title, mesh)), plain(title))


@pytest.mark.slow
def test_explicit_mesh_outside_jit():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        for title in ("st_loss", "sp_loss"):
            assert_close(known(title)(*placed(title, mesh)), plain(title)[0])


@pytest.mark.slow
@pytest.mark.parametrize("title", ["dkd_loss", *RELATIONAL])
def test_shard_map_and_checkpoint(title):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    options = {"axis_name": "data"} if title in RELATIONAL else {}
    split = PartitionSpec("data")

    def step(student, teacher, labels):
        loss = jax.checkpoint(known(title, labels, **options))
        value, gradient = jax.value_and_grad(loss)(student, teacher)
        return jax.lax.pmean(value, "data"), gradient

    mapped = jax.shard_map(step, mesh=mesh, in_specs=split, out_specs=(PartitionSpec(), split))
    value, gradient = jax.jit(mapped)(*draw(title), jnp.asarray(LABELS))
    expected, (slope, _) = plain(title)
    # The mean over the devices of the gradients is the gradient of the whole.
    assert_close((value, gradient), (expected, jax.tree.map(lambda x: 4 * x, slope)))


@pytest.mark.slow
@every_loss
def test_export_with_a_symbolic_batch(title):
    (size,) = jax.export.symbolic_shape("b")
    pair, labels = draw(title), jnp.asarray(LABELS)
    shapes = [
        jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), array)
        for array in (*pair, labels)
    ]
    exported = jax.export.export(jax.jit(lambda s, t, y: known(title, y)(s, t)))(*shapes)
    np.testing.assert_allclose(exported.call(*pair, labels), plain(title)[0], rtol=2e-5)


@every_loss
def test_a_carry_of_float32_stays(title):
    """`lax.scan` refuses a sum whose type changes; under x64 Python's numbers are float64."""
    with enable_x64(True):
        pair = draw(title)

        def carry(total, _):
            return total + known(title)(*pair), None

        total, _ = jax.eval_shape(
            lambda: jax.lax.scan(carry, jnp.zeros((), jnp.float32), None, length=2)
        )
        numbers = {
            key: value if isinstance(value, int) else np.float64(value)
            for key, value in ROWS[title].numbers.items()
        }
        found = jax.eval_shape(loss_of(title, **numbers), *pair)
    assert total.dtype == found.dtype == jnp.float32


@pytest.mark.slow
def test_a_learned_temperature():
    pair, labels = draw("dkd_loss"), jnp.asarray(LABELS)

    def both(temperature):
        parts = dkd_loss(*pair, labels, temperature=temperature)
        return jnp.stack([parts, st_loss(*pair, temperature=temperature)])

    run = jax.jit(lambda x: jax.jvp(both, (x,), (1.0,)))
    step = (run(3.03)[0] - run(2.97)[0]) / 0.06
    np.testing.assert_allclose(run(3.0)[1], step, rtol=1e-2)

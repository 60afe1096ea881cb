"""The losses on logits against a hundred and more digits: every kind of logits, every temperature.

float32 keeps five digits of every value and four of every entry of the gradient, float64 thirteen
and eleven; the public forms of DKD give infinite or no numbers in a third of these cases.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import dkd_loss, selective_st_loss, st_loss
from tests.helpers import exact_losses

CLASSES = 6
# Other tests are compiled in haste, which rounds products before they are added.
AS_USERS = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
SCALES = (1e-3, 1.0, 10.0, 1e3)
# What the student adds to the teacher's logits; None is a student of its own.
DIFFERENCES = (0.0, 1e-6, 1e-4, 1e-2, 1.0, None)
OFFSETS = (0.0, 1e4)
TEMPERATURES = (1e-30, 0.1, 1.0, 4.0, 1e3, 1e6, 1e30)
LOSSES = {
    "st": lambda s, t, y, temperature: st_loss(s, t, temperature=temperature),
    "dkd": lambda s, t, y, temperature: dkd_loss(s, t, y, temperature=temperature),
    "selective_st": lambda s, t, y, temperature: selective_st_loss(s, t, y),
}


def table():
    """Students, teachers, labels and temperatures, all numbers of float32."""
    rng = np.random.default_rng(0)
    rows = []
    for scale, difference, offset, temperature in itertools.product(
        SCALES, DIFFERENCES, OFFSETS, TEMPERATURES
    ):
        teacher = scale * rng.standard_normal(CLASSES) + offset
        student = scale * rng.standard_normal(CLASSES) - offset
        if difference is not None:
            student = teacher + difference * rng.standard_normal(CLASSES)
        rows.append((student, teacher, rng.integers(CLASSES), temperature))
    for certain, difference, label in itertools.product((20.0, 40.0, 80.0), (1.0, 1e-3), (2, 0)):
        top = np.arange(CLASSES) == 2
        rows.append((top * (certain + difference), top * certain, label, 1.0))
    student, teacher, labels, temperatures = map(np.array, zip(*rows))
    as_float32 = [np.float32(x) for x in (student, teacher, temperatures)]
    return as_float32[0], as_float32[1], labels, as_float32[2]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_value_and_gradient(name, dtype):
    students, teachers, labels, temperatures = table()
    arguments = students, teachers, labels, temperatures
    values, gradients = exact_losses.evaluate(getattr(exact_losses, name), *arguments)
    with jax.enable_x64(dtype == "float64"):
        cast = [jnp.asarray(x, dtype) for x in (students, teachers, temperatures)]
        run = jax.jit(jax.vmap(jax.value_and_grad(LOSSES[name])), compiler_options=AS_USERS)
        found = run(cast[0], cast[1], jnp.asarray(labels), cast[2])
    assert all(x.dtype == dtype for x in found)
    ours, slopes = (np.asarray(x, np.float64) for x in found)
    assert np.isfinite(ours).all() and np.isfinite(slopes).all()
    digits = {"float32": (1e-5, 2e-4), "float64": (1e-13, 1e-11)}[dtype]
    smallest = {"float32": 1e-33, "float64": 1e-290}[dtype]
    np.testing.assert_allclose(ours, values, rtol=digits[0], atol=smallest)
    # Entries a thousand times smaller than the largest of their row count as that small.
    size = np.maximum(np.abs(gradients), 1e-3 * np.abs(gradients).max(1, keepdims=True))
    wrong = np.abs(slopes - gradients) > digits[1] * size + smallest
    assert not wrong.any(), [
        (students[i], teachers[i], labels[i], temperatures[i]) for i in np.flatnonzero(wrong.any(1))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_to_the_end_of_the_range(name, dtype):
    """Nothing is cut off up to the largest logits of each temperature; beyond, a call raises."""
    rng = np.random.default_rng(3)
    temperatures = (1.0,) if name == "selective_st" else (1e-30, 1e-3, 1.0, 1e3, 1e30)
    with jax.enable_x64(dtype == "float64"):
        for temperature, part in itertools.product(temperatures, (1e-6, 0.99)):
            largest = float(np.finfo(dtype).max) / 1e3 * min(temperature, 1 / temperature)
            pair = [jnp.asarray(x / abs(x).max(), dtype) for x in rng.standard_normal((2, CLASSES))]
            pair = [x * (part * largest) for x in pair]
            for label in (0, 3):
                found = LOSSES[name](*pair, jnp.asarray(label), temperature)
                case = [[x] for x in (*map(np.asarray, pair), label, temperature)]
                exact, _ = exact_losses.evaluate(getattr(exact_losses, name), *case)
                np.testing.assert_allclose(float(found), exact[0], rtol=1e-5)
        with pytest.raises(ValueError, match="reaches"):
            LOSSES[name](2 * pair[0], pair[1], jnp.asarray(0), temperature)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["st", "dkd"])
def test_gradients_to_the_teacher_and_the_temperature(name, dtype):
    # By Euler's rule: loss / temperature^2 does not change when logits and temperature grow alike.
    students, teachers, labels, temperatures = table()
    usual = (temperatures > 1e-2) & (temperatures < 1e5) & (np.abs(teachers).max(1) < 50)
    with jax.enable_x64(dtype == "float64"):
        cast = [jnp.asarray(x[usual], dtype) for x in (students, teachers, temperatures)]
        run = jax.jit(jax.vmap(jax.value_and_grad(LOSSES[name], argnums=(0, 1, 3))))
        value, slopes = run(cast[0], cast[1], jnp.asarray(labels[usual]), cast[2])
    value, *slopes = (np.asarray(x, np.float64) for x in (value, *slopes))
    pair = students[usual], teachers[usual]
    moved = sum(np.sum(slope * x, -1) for slope, x in zip(slopes, pair))
    moved += slopes[2] * temperatures[usual]
    # What rounds are logits and, in the log sums, the logarithm of the number of classes.
    spread = np.log(CLASSES) * temperatures[usual, None]
    sizes = sum(np.sum(np.abs(slope) * (np.abs(x) + spread), -1) for slope, x in zip(slopes, pair))
    tolerance = {"float32": 1e-6, "float64": 1e-14}[dtype]
    assert np.all(np.abs(moved - 2 * value) <= tolerance * (sizes + value) + 1e-30)
    # A constant added to a row of logits changes nothing.
    assert np.all(np.abs(slopes[0].sum(-1)) <= tolerance * np.abs(slopes[0]).sum(-1) + 1e-30)


@pytest.mark.slow
def test_gradients_of_gradients():
    # Hessian-vector products in float64 against differences of gradients.
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        teacher, moved, direction = jnp.asarray(rng.standard_normal((3, 4, CLASSES)))
        labels = jnp.asarray([0, 5, 2, 2])
        for name, difference in itertools.product(LOSSES, (1e-2, 1.0)):
            student = teacher + difference * moved

            def gradient(student, name=name):
                return jax.grad(LOSSES[name])(student, teacher, labels, 2.0)

            _, product = jax.jvp(gradient, (student,), (direction,))
            step = 1e-6 * direction
            slope = (gradient(student + step) - gradient(student - step)) / 2e-6
            np.testing.assert_allclose(product, slope, rtol=1e-6, atol=1e-8)

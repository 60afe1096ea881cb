"""Methods that regress on the teacher's feature maps through learned layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import distillers, fitnet_loss
from jax_irkd.distillers.fitnet import standardise
from jax_irkd.models.outputs import Outputs
from tests.helpers.quick_compile import quick_compile  # noqa: F401

RNG = np.random.default_rng(3)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def test_fitnet_loss_by_hand():
    student, teacher = jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])
    np.testing.assert_allclose(fitnet_loss(student, teacher), (1 + 4) / 2)
    gradient = jax.grad(fitnet_loss)(student, teacher)
    np.testing.assert_allclose(gradient, [[1.0, -2.0]])
    with pytest.raises(ValueError, match=r"\(1, 2\) and teacher_features \(1, 3\); they must be"):
        fitnet_loss(student, jnp.ones((1, 3)))


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e30])
def test_standardise_is_batch_norm_without_scale_and_offset(scale):
    maps = np.float32(scale * (3 + RNG.standard_normal((4, 2, 3, 5))))
    maps[..., 2] = 0  # a dead channel
    exact = np.float64(maps)
    mean, variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    expected = (exact - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(standardise(jnp.asarray(maps)), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("vertex", ["frame", "clip"])
def test_fitnet_regresses_every_stage_on_the_teachers_channels(vertex):
    student = Outputs(
        normal(2, 3),
        {"stage3_preact": normal(2, 3, 6, 4, 3), "stage4_preact": normal(2, 3, 2, 2, 4)},
    )
    teacher = Outputs(
        normal(2, 3),
        {"stage3_preact": normal(2, 3, 3, 4, 5), "stage4_preact": normal(2, 3, 4, 4, 6)},
    )
    labels = jnp.zeros(2, int)
    distiller = distillers.get("fitnet")(weight=2.0, vertex=vertex, reduce="sum")
    variables = distiller.init(jax.random.key(0), student, teacher, labels)
    params = variables["params"]
    assert params["regressor_stage3_preact"]["kernel"].shape == (3, 5)
    total = 0.0
    for stage, pool in (("stage3_preact", (1, 0)), ("stage4_preact", (0, 1))):
        maps = [np.asarray(o.features[stage], np.float64) for o in (student, teacher)]
        maps = [x.mean(1) if vertex == "clip" else x.reshape(-1, *x.shape[2:]) for x in maps]
        for i in np.flatnonzero(pool):  # halve the larger map
            n, h, w, c = maps[i].shape
            cut = maps[i].reshape(n, h // 2, 2, w, c).mean(2)
            maps[i] = (
                cut if stage == "stage3_preact" else cut.reshape(n, h // 2, w // 2, 2, c).mean(3)
            )
        hint = (maps[1] - maps[1].mean((0, 1, 2))) / np.sqrt(maps[1].var((0, 1, 2)) + 1e-5)
        own = params[f"regressor_{stage}"]
        total += np.mean(
            (maps[0] @ np.float64(own["kernel"]) + np.float64(own["bias"]) - hint) ** 2
        )
    terms = distiller.apply(variables, student, teacher, labels)
    np.testing.assert_allclose(terms["fitnet"], 2 * total, rtol=1e-5)

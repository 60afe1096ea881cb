"""No loss and no gradient depends on the number of devices (batch norm synchronised)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import distillers
from jax_irkd.models.outputs import Outputs
from tests.helpers.quick_compile import quick_compile  # noqa: F401

CLIPS, SEGMENTS, CLASSES = 8, 2, 3
LAYERS = ("stage1", "stage2")
METHODS = {
    "st": ("st", {"weight": 0.9, "cross_entropy_weight": 0.1}),
    "at": ("at", {"layers": LAYERS}),
    "sp": ("sp", {"layers": LAYERS}),
    "sp_frames": ("sp", {"layers": LAYERS, "vertex": "frame"}),
    "cc": ("cc", {}),
    "cc_embedding": ("cc", {"form": "embedding", "size": 4}),
    "cc_embedding_kernel": ("cc", {"form": "embedding_kernel", "size": 4}),
    "rkd": ("rkd", {}),
    "ccskd": ("ccskd", {"layers": LAYERS, "schedule": "cifar", "num_epochs": 80}),
    "dkd": ("dkd", {"warmup_epochs": 20}),
    "mgcam": ("mgcam", {"layers": LAYERS, "sigma": "median", "temperature": 0.1}),
    "mgcam_learned": ("mgcam", {"layers": LAYERS, "activation": "conv1x1", "pairs": "same"}),
    "fitnet": ("fitnet", {"layers": LAYERS}),
}


def make(axis_name):
    """All distillers, their variables and a step of (params, batch)."""
    made = {}
    for key, (name, fields) in METHODS.items():
        kind = distillers.get(name)
        axis = {"axis_name": axis_name} if hasattr(kind, "axis_name") else {}
        made[key] = kind(**fields, **axis)
    return made


def network(weights, clips):
    """A student with two stages: `clips` are `b t h w c`."""
    stage1 = jax.nn.relu(clips @ weights["stage1"])
    stage2 = jax.nn.relu(stage1[:, :, ::2, ::2] @ weights["stage2"])
    pooled = stage2.mean((1, 2, 3))
    features = {"stage1": stage1, "stage2": stage2, "pooled": pooled}
    return Outputs(pooled @ weights["head"], features)


def step(params, batch, *, variables, axis_name):
    """Every method's loss, its gradient to all parameters, and the new batch statistics."""
    made = make(axis_name)

    def losses(params):
        student = network(params["student"], batch["clips"])
        teacher = Outputs(batch["logits"], batch["features"])
        totals, statistics = {}, {}
        for key, distiller in made.items():
            own = {"params": params[key], "batch_stats": variables[key].get("batch_stats", {})}
            arguments = student, teacher, batch["labels"]
            terms, updated = distiller.apply(
                own, *arguments, epoch=jnp.float32(30), mutable=["batch_stats", "diagnostics"]
            )
            totals[key], statistics[key] = sum(terms.values()), updated
        return totals, (totals, statistics)

    gradients, (totals, statistics) = jax.jacrev(losses, has_aux=True)(params)
    result = totals, gradients, statistics
    return result if axis_name is None else jax.lax.pmean(result, axis_name)


@functools.cache
def problem():
    """Parameters, a batch, and what one device makes of it."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    student = {"stage1": draw(3, 4), "stage2": draw(4, 5), "head": draw(5, CLASSES)}
    features = {"stage1": draw(CLIPS, SEGMENTS, 4, 4, 6), "stage2": draw(CLIPS, SEGMENTS, 2, 2, 7)}
    features["pooled"] = features["stage2"].mean((1, 2, 3))
    batch = {
        "clips": draw(CLIPS, SEGMENTS, 4, 4, 3),
        "features": jax.tree.map(jax.nn.relu, features),
        "logits": draw(CLIPS, CLASSES),
        "labels": jnp.asarray(rng.integers(0, CLASSES, CLIPS), jnp.int32),
    }
    pair = network(student, batch["clips"]), Outputs(batch["logits"], batch["features"])
    variables = {
        key: jax.jit(distiller.init)(jax.random.key(1), *pair, batch["labels"])
        for key, distiller in make(None).items()
    }
    params = {key: own.get("params", {}) for key, own in variables.items()}
    params["student"] = student
    alone = functools.partial(step, variables=variables, axis_name=None)
    return params, variables, batch, jax.jit(alone)(params, batch)


def assert_same(found, expected):
    losses, gradients, statistics = found
    for key in METHODS:
        np.testing.assert_allclose(losses[key], expected[0][key], rtol=2e-5, err_msg=key)
        for ours, theirs in zip(
            jax.tree.leaves(gradients[key]), jax.tree.leaves(expected[1][key]), strict=True
        ):
            tolerance = 2e-5 * max(np.abs(theirs).max(), 1e-6)
            np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=1e-4, err_msg=key)
    for ours, theirs in zip(jax.tree.leaves(statistics), jax.tree.leaves(expected[2]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def split(batch, devices):
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)


@pytest.mark.parametrize("devices", [2, 8])
def test_pmap_equals_one_device(devices):
    params, variables, batch, expected = problem()
    update = jax.pmap(
        functools.partial(step, variables=variables, axis_name="batch"),
        axis_name="batch",
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.devices()[:devices],
    )
    assert_same(update(params, split(batch, devices)), expected)


def test_four_parts_under_vmap_equal_one_device():
    params, variables, batch, expected = problem()
    update = jax.vmap(
        functools.partial(step, variables=variables, axis_name="batch"),
        axis_name="batch",
        in_axes=(None, 0),
        out_axes=None,
    )
    assert_same(jax.jit(update)(params, split(batch, 4)), expected)


def test_every_method_learns():
    _, _, _, (losses, gradients, _) = problem()
    for key in METHODS:
        assert losses[key] > 0
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[key]["student"])) > 0

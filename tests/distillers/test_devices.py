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
HEAD = {"kernel": jnp.linspace(-1, 1, 7 * CLASSES).reshape(7, CLASSES), "bias": jnp.ones(CLASSES)}
LAYERS = ("stage1", "stage2")
PAPER = {  # the methods that the paper compares, and its own
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
}
OTHERS = {
    "fitnet": ("fitnet", {"layers": ("stage2",)}),
    "ft_learned": ("ft", {"layer": "stage2", "form": "paraphraser"}),
    "pkt": ("pkt", {}),
    "vid": ("vid", {"layers": ("stage2",)}),
    "nst": ("nst", {"layers": ("stage2",)}),
    "fsp": ("fsp", {"layers": LAYERS}),
    "ofd": ("ofd", {"layers": ("stage2_preact",)}),
    "reviewkd": ("reviewkd", {"layers": ("stage2",), "warmup_epochs": 40}),
    "crd": ("crd", {"size": 4}),
    "dist": ("dist", {}),
    "mlkd": ("mlkd", {"temperatures": (2.0, 4.0)}),
    "simkd": ("simkd", {"layer": "stage2", "classifier_weight": 1.0}),
}
GROUPS = {"paper": PAPER, "others": OTHERS}  # a program each


def make(group, axis_name):
    """The distillers of a group."""
    made = {}
    for key, (name, fields) in GROUPS[group].items():
        kind = distillers.get(name)
        axis = {"axis_name": axis_name} if hasattr(kind, "axis_name") else {}
        made[key] = kind(**fields, **axis)
    return made


def network(weights, clips):
    """A student with two stages: `clips` are `b t h w c`."""
    stage1 = jax.nn.relu(clips @ weights["stage1"])
    preact = stage1[:, :, ::2, ::2] @ weights["stage2"]
    stage2 = jax.nn.relu(preact)
    pooled = stage2.mean((1, 2, 3))
    features = {"stage1": stage1, "stage2_preact": preact, "stage2": stage2, "pooled": pooled}
    return Outputs(pooled @ weights["head"], features)


def step(params, batch, *, group, variables, axis_name):
    """Every method's loss, its gradient to all parameters, and the new batch statistics."""
    made = make(group, axis_name)

    def losses(params):
        teacher = Outputs(batch["logits"], batch["features"], HEAD)
        totals, statistics = {}, {}
        for key, distiller in made.items():
            student = network(params[key]["student"], batch["clips"])
            own = {
                "params": params[key]["own"],
                "batch_stats": variables[key].get("batch_stats", {}),
            }
            arguments = student, teacher, batch["labels"]
            terms, updated = distiller.apply(
                own, *arguments, epoch=jnp.float32(30), mutable=["batch_stats", "diagnostics"]
            )
            totals[key], statistics[key] = sum(terms.values()), updated
        return sum(totals.values()), (totals, statistics)

    gradients, (totals, statistics) = jax.grad(losses, has_aux=True)(params)
    result = totals, gradients, statistics
    return result if axis_name is None else jax.lax.pmean(result, axis_name)


@functools.cache
def problem(group):
    """Parameters, a batch, and what one device makes of it."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    student = {"stage1": draw(3, 4), "stage2": draw(4, 5), "head": draw(5, CLASSES)}
    features = {"stage1": draw(CLIPS, SEGMENTS, 4, 4, 6), "stage2": draw(CLIPS, SEGMENTS, 2, 2, 7)}
    features["pooled"] = features["stage2"].mean((1, 2, 3))
    features = jax.tree.map(jax.nn.relu, features) | {
        f"{name}_preact": features[name] for name in LAYERS
    }
    batch = {
        "clips": draw(CLIPS, SEGMENTS, 4, 4, 3),
        "features": features,
        "logits": draw(CLIPS, CLASSES),
        "labels": jnp.asarray(rng.integers(0, CLASSES, CLIPS), jnp.int32),
    }
    pair = network(student, batch["clips"]), Outputs(batch["logits"], features, HEAD)
    variables = {
        key: jax.jit(distiller.init)(jax.random.key(1), *pair, batch["labels"])
        for key, distiller in make(group, None).items()
    }
    # A student for every method keeps their gradients apart.
    params = {
        key: {"own": own.get("params", {}), "student": student} for key, own in variables.items()
    }
    alone = functools.partial(step, group=group, variables=variables, axis_name=None)
    return params, variables, batch, jax.jit(alone)(params, batch)


def assert_same(found, expected):
    losses, gradients, statistics = found
    for key in losses:
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


@pytest.mark.slow
@pytest.mark.parametrize(("group", "devices"), [("paper", 8), ("others", 2)])
def test_pmap_equals_one_device(group, devices):
    params, variables, batch, expected = problem(group)
    update = jax.pmap(
        functools.partial(step, group=group, variables=variables, axis_name="batch"),
        axis_name="batch",
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.devices()[:devices],
    )
    assert_same(update(params, split(batch, devices)), expected)


@pytest.mark.slow
def test_four_parts_under_vmap_equal_one_device():
    group = "others"
    params, variables, batch, expected = problem(group)
    update = jax.vmap(
        functools.partial(step, group=group, variables=variables, axis_name="batch"),
        axis_name="batch",
        in_axes=(None, 0),
        out_axes=None,
    )
    assert_same(jax.jit(update)(params, split(batch, 4)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_method_learns(group):
    _, _, _, (losses, gradients, _) = problem(group)
    for key in losses:
        assert losses[key] > 0
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[key]["student"])) > 0

"""The temporal shift in training, in Grad-CAM and on CPUs."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.models import resnet
from jax_irkd.models.tsn import TSN
from jax_irkd.reporting.gradcam import grad_cam
from jax_irkd.training import steps
from tests.helpers import networks
from tests.helpers.finite_differences import activation_maps

KINDS = ("shift", "causal")


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Depth 10, one block a stage: quick to compile."""
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))


def _network(**fields) -> TSN:
    return TSN(**{"num_classes": 3, "depth": 10, "width": 8, "temporal": "shift", **fields})


def _gradient(network: TSN, variables: dict, clips: jax.Array) -> tuple[dict, dict]:
    """Gradients of the mean square of the logits, and the new batch statistics."""

    def loss(params):
        outputs, state = network.apply(
            {**variables, "params": params}, clips, train=True, mutable="batch_stats"
        )
        return jnp.mean(outputs.logits**2), state["batch_stats"]

    return networks.jit(jax.grad(loss, has_aux=True))(variables["params"])


@pytest.mark.slow
def test_remat_changes_nothing_but_memory():
    clips = networks.normal(2, 3, 40, 40, 1)
    network = _network(dropout=0.0)
    variables = networks.draw(network, *clips.shape)
    expected, result = (
        _gradient(model, variables, clips) for model in (network, network.clone(remat=True))
    )
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(compare, result, expected)


@pytest.mark.slow
def test_what_a_segment_learns_from_its_neighbour():
    """The kernel rows of shifted channels get a gradient from the neighbour's input alone."""
    network = _network(dropout=0.0)
    clips = networks.normal(1, 2, 40, 40, 1)
    variables = networks.draw(network, *clips.shape)

    def first_logits(clips):
        return jnp.sum(network.apply(variables, clips, train=False).features["stage4"][:, 0])

    gradient = networks.jit(jax.grad(first_logits))(clips)
    assert np.abs(gradient[:, 1]).max() > 0.01 * np.abs(gradient[:, 0]).max() > 0


def test_bfloat16_stays_close():
    clips = networks.normal(2, 3, 40, 40, 1)
    network = _network()
    variables = networks.draw(network, *clips.shape)
    expected, near = (
        networks.jit(functools.partial(model.apply, train=False))(variables, clips)
        for model in (network, network.clone(dtype=jnp.bfloat16))
    )
    assert near.features["stage4"].dtype == jnp.bfloat16
    assert np.abs(near.logits - expected.logits).max() < 0.05 * np.abs(expected.logits).max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_short_convolutions_are_the_same_function(kind):
    clips = networks.normal(2, 4, 64, 64, 1)
    network = _network(temporal=kind, width=64, norm=False)
    variables = networks.draw(network, *clips.shape)
    plain, quick = (
        networks.jit(functools.partial(model.apply, train=False))
        for model in (network, network.clone(winograd=sys.maxsize))
    )
    assert len(str(quick.lower(variables, clips).as_text())) > len(
        str(plain.lower(variables, clips).as_text())
    )
    expected, result = plain(variables, clips).logits, quick(variables, clips).logits
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_gradients_do_not_depend_on_the_number_of_devices():
    clips = networks.normal(4, 3, 32, 32, 1)
    model = _network(norm=False, dropout=0.0)
    variables = networks.draw(model, *clips.shape)

    def loss(params, clips):
        return jnp.mean(model.apply({"params": params}, clips, train=True).logits ** 2)

    def update(clips):
        return jax.lax.pmean(jax.grad(loss)(variables["params"], clips), steps.AXIS)

    mapped = networks.jit(jax.vmap(update, axis_name=steps.AXIS))
    one, two = (mapped(clips.reshape(count, -1, *clips.shape[1:])) for count in (1, 2))

    def compare(result, expected):
        scale = np.abs(expected[0]).max()
        np.testing.assert_allclose(result[0], expected[0], atol=1e-4 * scale + 1e-6)

    jax.tree.map(compare, two, one)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_grad_cam_by_finite_differences(kind):
    """A map of stage1 moves the logits through its neighbours too."""
    model = _network(temporal=kind)
    clips = networks.normal(1, 3, 40, 40, 1)
    variables = networks.draw(model, *clips.shape)
    maps = activation_maps(model, variables, clips, 1, "stage1")
    found = grad_cam(model, variables, clips, jnp.array([1]), layer="stage1")[0]
    np.testing.assert_allclose(found, np.maximum(maps, 0), atol=0.03 * np.abs(maps).max())

"""Grad-CAM against its closed form and against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.models.tsn import TSN
from jax_irkd.reporting.gradcam import grad_cam
from tests.helpers.finite_differences import activation_maps
from tests.helpers.networks import draw, normal


@pytest.fixture(scope="module")
def network():
    model = TSN(num_classes=3, depth=18, width=4)
    return model, draw(model, 2, 2, 64, 64, 1), normal(2, 2, 64, 64, 1)


def _features(model, variables, clips):
    return jax.jit(functools.partial(model.apply, train=False))(variables, clips).features


@pytest.mark.slow
def test_last_stage_is_the_class_activation_map(network):
    model, variables, clips = network
    classes = jnp.array([2, 0])
    maps = _features(model, variables, clips)["stage4"]  # 2 2 2 2 32
    head = variables["params"]["head"]["kernel"]
    want = np.maximum(np.einsum("bthwc,cb->bthw", maps, head[:, classes]) / (2 * 2 * 2), 0)
    got = grad_cam(model, variables, clips, classes)
    assert got.shape == (2, 2, 2, 2) and got.max() > 0
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_earlier_stage_by_finite_differences(network):
    model, variables, clips = network
    maps = activation_maps(model, variables, clips[:1], 1, "stage3")
    found = grad_cam(model, variables, clips[:1], jnp.array([1]), layer="stage3")[0]
    np.testing.assert_allclose(found, np.maximum(maps, 0), atol=0.03 * np.abs(maps).max())


@pytest.mark.slow
def test_clips_do_not_mix(network):
    model, variables, clips = network
    both = grad_cam(model, variables, clips, jnp.array([2, 0]))
    alone = grad_cam(model, variables, clips[1:], jnp.array([0]))
    np.testing.assert_allclose(both[1:], alone, rtol=1e-4, atol=1e-6)


def test_unknown_layer(network):
    model, variables, clips = network
    with pytest.raises(ValueError, match=r"unknown layer 'stem'; choose one of \['stage1'"):
        grad_cam(model, variables, clips, jnp.array([2, 0]), layer="stem")

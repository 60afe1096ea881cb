"""The stem's max pool in all its forms, against XLA's windows and PyTorch's."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.models import pooling
from tests.helpers import networks

PLATFORMS = ("cpu", "cuda", "tpu")


def test_which_device_pools_how():
    x = networks.normal(1, 8, 8, 4)

    def quick(x):
        return pooling.max_pool(x, train=False)

    def learn(x):
        return jax.grad(lambda x: pooling.max_pool(x, train=True).sum())(x)

    tested = networks.lowered(quick, x, platforms=PLATFORMS)
    learned = networks.lowered(learn, x, platforms=PLATFORMS)
    assert ["reduce_window" in text for text in tested] == [False, True, True]
    assert ["select_and_scatter" in text for text in learned] == [False, False, True]
    assert [bool(re.search(r"compare.*i8>", text)) for text in learned] == [False, True, False]
    plain = networks.lowered(functools.partial(pooling.max_pool, train=False, plain=True), x)
    assert all("reduce_window" in text for text in plain)


@pytest.mark.parametrize("size", [(8, 7), (1, 3), (5, 6), (2, 2)])
@pytest.mark.parametrize("form", [pooling.of_slices, pooling.of_places])
def test_values_and_gradients_are_those_of_windows(form, size):
    x = jax.nn.relu(networks.normal(2, *size, 3)) + 0.0
    np.testing.assert_array_equal(form(x), pooling.of_windows(x))
    weight = networks.normal(*form(x).shape)
    result, expected = (
        jax.grad(lambda x, pool=pool: jnp.sum(weight * pool(jax.nn.relu(x))))(x)
        for pool in (form, pooling.of_windows)
    )
    np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [(8, 7), (7, 8), (1, 1)])
def test_of_equal_pixels_the_first_has_the_gradient_as_in_pytorch(size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).integers(0, 3, (2, *size, 3)).astype(np.float32)
    frames = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    theirs = torch.nn.functional.max_pool2d(frames, 3, 2, 1)
    ours, pull = jax.vjp(pooling.of_places, x)
    np.testing.assert_array_equal(ours.transpose(0, 3, 1, 2), theirs.detach())
    change = np.asarray(networks.normal(*ours.shape))
    theirs.backward(torch.tensor(change.transpose(0, 3, 1, 2)))
    [result] = pull(change)
    np.testing.assert_allclose(result.transpose(0, 3, 1, 2), frames.grad, rtol=1e-6, atol=1e-6)


def test_gradients_of_bfloat16_are_added_in_float32():
    x = jnp.zeros((1, 5, 5, 1), jnp.bfloat16).at[0, 1, 1, 0].set(1)  # the largest of four windows
    _, pull = jax.vjp(pooling.of_places, x)
    change = jnp.array([256, 1, 1, 0], jnp.bfloat16)  # 257 is not a bfloat16
    change = jnp.zeros((1, 3, 3, 1), jnp.bfloat16).at[0, :2, :2, 0].set(change.reshape(2, 2))
    [result] = pull(change)
    assert result.dtype == jnp.bfloat16
    assert float(result[0, 1, 1, 0]) == 258

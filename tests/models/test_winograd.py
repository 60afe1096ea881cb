import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_irkd.models import winograd
from jax_irkd.models.resnet import ResNet
from tests.helpers.networks import lowered, normal


def direct(maps, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(maps, kernel, (1, 1), "SAME", dimension_numbers=layout)


@pytest.mark.parametrize("size", [(4, 4), (7, 7), (5, 6), (1, 3)])
def test_it_is_the_convolution_and_its_gradients(size):
    maps, kernel = normal(2, *size, 5, seed=0), normal(3, 3, 5, 4, seed=1)
    change = normal(2, *size, 4, seed=2)
    wanted, pull = jax.vjp(direct, maps, kernel)
    found, pull_back = jax.vjp(winograd.conv3x3, maps, kernel)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    for ours, plain in zip(pull_back(change), pull(change)):
        np.testing.assert_allclose(ours, plain, atol=3e-5)


@pytest.mark.slow
def test_wide_and_narrow_kernels_have_the_same_gradient(monkeypatch):
    # Below SMALLEST channels one operand of each product is transposed beforehand.
    maps, change = normal(2, 5, 6, 5, seed=0), normal(2, 5, 6, 4, seed=1)
    wanted = jax.vjp(lambda kernel: direct(maps, kernel), normal(3, 3, 5, 4))[1](change)[0]
    for smallest in (6, 5):
        monkeypatch.setattr(winograd, "SMALLEST", smallest)
        found = winograd.minimal_kernel_gradient(maps, change)
        np.testing.assert_allclose(found, wanted, atol=3e-5)


def test_a_kernel_by_hand():
    # A kernel that looks at the right neighbour shifts the map to the left.
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 2, 0, 0].set(1.0)
    maps = jnp.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    shifted = winograd.minimal(maps, kernel)[0, :, :, 0]
    np.testing.assert_array_equal(shifted, [[2, 3, 0], [5, 6, 0], [8, 9, 0]])


@pytest.mark.parametrize(
    ("shape", "channels", "wanted"),
    [
        ((16, 14, 14), 128, True),
        ((16, 7, 7), 128, True),
        ((16, 3, 3), 128, False),  # tiles of 2x2 would cover 16 pixels for 9
        ((16, 14, 14), 64, True),
        ((16, 14, 14), 32, False),
        ((1, 4, 4), 512, False),
    ],
)
def test_where_it_pays(shape, channels, wanted):
    maps = jax.ShapeDtypeStruct((*shape, channels), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, channels, channels), jnp.float32)
    assert winograd.pays(maps, kernel) is wanted
    half = jax.ShapeDtypeStruct(maps.shape, jnp.bfloat16)
    assert not winograd.pays(half, kernel)


@pytest.mark.parametrize(
    ("shape", "channels", "wanted"),
    [
        ((64, 56, 56, 64), 64, 2),  # 8 MiB / (16 places x 4 bytes x 28 x 28 tiles x 64) = 2.6
        ((64, 28, 28, 128), 128, 4),  # 5.2, and 5 is no divisor
        ((10, 28, 28, 128), 128, 5),
        ((64, 7, 7, 512), 512, 16),  # exactly
        ((11, 14, 14, 256), 256, 1),
        ((62, 4, 4, 2048), 2048, 62),  # two frames at a time would be 8 tiles
    ],
)
def test_frames_at_once_fit_into_the_cache(shape, channels, wanted):
    assert winograd.frames_at_once(shape, channels) == wanted


@pytest.mark.slow
def test_groups_of_frames_give_what_all_frames_give(monkeypatch):
    maps, kernel = normal(6, 7, 9, 8, seed=0), normal(3, 3, 8, 12, seed=1)
    change = normal(6, 7, 9, 12, seed=2)
    whole, pull = jax.vjp(winograd.conv3x3, maps, kernel)
    monkeypatch.setattr(winograd, "FEWEST_TILES", 1)
    monkeypatch.setattr(winograd, "CACHE", 2 * 16 * 4 * 20 * 12)  # two frames of 4 x 5 tiles
    grouped, pull_grouped = jax.vjp(winograd.conv3x3, maps, kernel)
    np.testing.assert_allclose(grouped, whole, rtol=1e-6, atol=1e-6)
    for ours, other in zip(pull_grouped(change), pull(change)):
        np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-5)


def test_gpus_keep_the_librarys_convolution():
    def loss(maps, kernel):
        return winograd.conv3x3(maps, kernel).sum()

    maps, kernel = normal(2, 8, 8, 128, seed=0), normal(3, 3, 128, 128, seed=1)
    on_gpu, on_cpu = lowered(jax.grad(loss, argnums=(0, 1)), maps, kernel)
    assert on_gpu.count("stablehlo.convolution") == 2 and "dot_general" not in on_gpu
    assert on_cpu.count("stablehlo.dot_general") == 32 and "convolution" not in on_cpu


@pytest.mark.slow
def test_networks_train_with_it_and_export_without():
    frames = jax.ShapeDtypeStruct((8, 64, 64, 1), jnp.float32)

    def convolutions(train: bool, **fields) -> int:
        network = ResNet(depth=18, width=64, **fields)
        key = jax.random.key(0)
        variables = jax.eval_shape(lambda x: network.init(key, x, train=False), frames)

        def forward(variables, x):
            return network.apply(variables, x, train=train, mutable=["batch_stats"])[0]

        return jax.jit(forward).lower(variables, frames).as_text().count("stablehlo.convolution")

    plain = convolutions(False)
    assert plain == 1 + 16 + 3  # the stem, two in each block, three strided projections
    # Stage 1 has four wide convolutions of stride 1 at 16x16 pixels, stage 2 three at 8x8 and
    # stage 3 as many at 4x4. The projections are matrix products on CPUs.
    assert convolutions(True) == convolutions(False, winograd=sys.maxsize) == plain - 10 - 3

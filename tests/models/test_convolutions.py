import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_irkd.models import convolutions, winograd
from jax_irkd.models.resnet import ResNet
from tests.helpers.networks import lowered, normal


def direct(maps, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    around = ((1, 1), (1, 1))
    return lax.conv_general_dilated(maps, kernel, (2, 2), around, dimension_numbers=layout)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4, 4), (7, 7), (6, 5), (1, 2)])
def test_with_stride_it_is_the_convolution_and_its_gradients(size):
    maps, kernel = normal(3, *size, 5, seed=0), normal(3, 3, 5, 4, seed=1)
    wanted, pull = jax.vjp(direct, maps, kernel)
    found, pull_back = jax.jit(lambda *x: jax.vjp(convolutions.strided_conv3x3, *x))(maps, kernel)
    change = normal(*wanted.shape, seed=2)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    for ours, plain in zip(pull_back(change), pull(change)):
        np.testing.assert_allclose(ours, plain, atol=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "platform"),
    [
        ((2, 96, 96, 1), "cpu"),
        ((1, 20, 34, 3), "cpu"),
        ((3, 2, 6, 3), "cpu"),
        ((1, 6, 10, 3), "tpu"),
        ((1, 6, 10, 3), "cuda"),
        ((2, 32, 2, 1), "cuda"),
    ],
)
def test_the_stem_is_the_convolution_and_its_gradients(shape, platform, monkeypatch):
    frames, kernel = normal(*shape, seed=0), normal(7, 7, shape[-1], 16, seed=1)
    if platform != "cpu":  # its way, on the CPU
        monkeypatch.setattr(lax, "platform_dependent", lambda *x, **ways: ways[platform](*x))

    def plain(frames, kernel):
        layout, margin = ("NHWC", "HWIO", "NHWC"), ((3, 3), (3, 3))
        return lax.conv_general_dilated(frames, kernel, (2, 2), margin, dimension_numbers=layout)

    def ours(frames, kernel):
        return convolutions.conv_general_dilated(frames, kernel, (2, 2), [(3, 3), (3, 3)])

    wanted, pull = jax.vjp(plain, frames, kernel)
    found, pull_back = jax.jit(lambda *x: jax.vjp(ours, *x))(frames, kernel)
    np.testing.assert_allclose(found, wanted, atol=5e-5)
    for one, other in zip(pull_back(wanted), pull(wanted)):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("width", [16, 64])
def test_where_the_stem_reads_pixels_and_where_blocks(width):
    """On a TPU XLA takes minutes to compile the gradient of a kernel of 7x7 pixels, and cuDNN is
    slow with few channels."""

    def learn(frames, kernel):
        return jax.value_and_grad(lambda w: convolve(frames, w).sum())(kernel)

    def convolve(frames, kernel):
        return convolutions.conv_general_dilated(frames, kernel, (2, 2), [(3, 3), (3, 3)])

    shapes = [jax.ShapeDtypeStruct(x, jnp.float32) for x in ((2, 96, 96, 3), (7, 7, 3, width))]
    whole, blocks, rows = (f"tensor<{size}x" for size in ("7x7x3", "4x4x12", "4x1x48"))
    kernels = {"cpu": whole if width == 64 else blocks, "cuda": rows, "tpu": blocks}
    for platform, text in zip(kernels, lowered(learn, *shapes, platforms=kernels)):
        forward, backward = re.findall("stablehlo.convolution.*", text)
        assert kernels[platform] in forward, platform
        assert (whole if platform == "cpu" else kernels[platform]) in backward, platform


def test_a_kernel_gradient_by_hand():
    # One pixel of the map and one output changed: only the place between them has a gradient.
    maps = jnp.zeros((1, 4, 4, 1)).at[0, 2, 3, 0].set(2.0)
    change = jnp.zeros((1, 2, 2, 1)).at[0, 1, 1, 0].set(5.0)  # Its kernel's middle is at (2, 2).
    _, pull = jax.vjp(lambda w: convolutions.strided_conv3x3(maps, w), jnp.ones((3, 3, 1, 1)))
    np.testing.assert_array_equal(pull(change)[0][..., 0, 0], [[0, 0, 0], [0, 0, 10], [0, 0, 0]])


def test_gpus_keep_the_librarys_gradients():
    def loss(maps, kernel):
        return convolutions.strided_conv3x3(maps, kernel).sum()

    maps, kernel = normal(2, 8, 8, 64, seed=0), normal(3, 3, 64, 64, seed=1)
    on_gpu, on_cpu = lowered(jax.grad(loss, argnums=(0, 1)), maps, kernel)
    assert on_gpu.count("stablehlo.convolution") == 2 and "dot_general" not in on_gpu
    assert on_cpu.count("stablehlo.convolution") == 1
    assert on_cpu.count("stablehlo.dot_general") == 1


@pytest.mark.parametrize(
    ("strides", "padding", "options", "wanted"),
    [
        ((1, 1), [(1, 1), (1, 1)], {}, "conv3x3"),
        ((2, 2), [(1, 1), (1, 1)], {}, "strided_conv3x3"),
        ((2, 2), [(0, 1), (0, 1)], {}, ""),
        ((2, 1), [(1, 1), (1, 1)], {}, ""),
        ((2, 2), [(1, 1), (1, 1)], {"rhs_dilation": (2, 2)}, ""),
    ],
)
def test_which_way_a_convolution_goes(strides, padding, options, wanted, monkeypatch):
    taken = []
    for module, name in ((winograd, "conv3x3"), (convolutions, "strided_conv3x3")):
        kept = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *x, n=name, f=kept: taken.append(n) or f(*x))
    maps, kernel = normal(8, 8, 8, 64, seed=0), normal(3, 3, 64, 64, seed=1)
    options |= {
        "dimension_numbers": lax.conv_dimension_numbers(
            maps.shape, kernel.shape, ("NHWC", "HWIO", "NHWC")
        )
    }
    found = convolutions.conv_general_dilated(maps, kernel, strides, padding, **options)
    plain = lax.conv_general_dilated(maps, kernel, strides, padding, **options)
    assert taken == ([wanted] if wanted else [])
    np.testing.assert_allclose(found, plain, atol=1e-3)


def test_pointwise_products_are_the_layers_own():
    maps, kernel = normal(2, 3, 4, 5, seed=0), normal(5, 6, seed=1)
    change = normal(2, 3, 4, 6, seed=2)

    def gradients(dot_general):
        layer = nn.Dense(6, use_bias=False, dot_general=dot_general)

        def apply(x, w):
            return layer.apply({"params": {"kernel": w}}, x)

        made, pull = jax.vjp(apply, maps, kernel)
        return made, *pull(change)

    for ours, plain in zip(gradients(convolutions.dot_general), gradients(None)):
        np.testing.assert_allclose(ours, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_every_product_of_a_gradient_is_one_of_matrices(depth):
    # Over several axes of a map XLA on CPUs would transpose it, with all that computes it.
    network = ResNet(depth=depth, width=64)
    frames = jax.ShapeDtypeStruct((4, 96, 96, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), frames)

    def loss(params, stats, x):
        held = {"params": params, "batch_stats": stats}
        return network.apply(held, x, train=True, mutable=["batch_stats"])[0]["pooled"].sum()

    text = (
        jax.jit(jax.grad(loss))
        .lower(*map(variables.get, ("params", "batch_stats")), frames)
        .as_text()
    )
    products = re.findall(
        r"stablehlo\.dot_general .*: \(tensor<(.*?)xf32>, tensor<(.*?)xf32>\)", text
    )
    assert len(products) > 100
    assert {shape.count("x") for pair in products for shape in pair} == {1}


@pytest.mark.parametrize("product", [convolutions.dot_general, convolutions.strided_dot_general])
@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
def test_a_strided_projection_is_the_product_of_every_other_pixel(product, size):
    maps, kernel = normal(2, *size, 3, seed=0), normal(3, 4, seed=1)
    wanted, pull = jax.vjp(lambda x, w: x[:, ::2, ::2] @ w, maps, kernel)
    found, pull_back = jax.vjp(lambda x, w: product(x, w, None, stride=2), maps, kernel)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    change = normal(*wanted.shape, seed=2)
    for ours, plain in zip(pull_back(change), pull(change)):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_gpus_get_pointwise_convolutions_of_the_library(stride):
    # It adds bias and shortcut in the same kernel; and XLA cannot tile the product of every other
    # pixel for a GPU: the process would be aborted.
    def loss(maps, kernel):
        return convolutions.dot_general(maps, kernel, None, stride=stride).sum()

    maps, kernel = normal(2, 8, 8, 16, seed=0), normal(16, 32, seed=1)
    on_gpu, on_cpu = lowered(jax.grad(loss, argnums=(0, 1)), maps, kernel)
    assert on_gpu.count("stablehlo.convolution") == 2 and "dot_general" not in on_gpu
    assert on_cpu.count("stablehlo.dot_general") == 2 and "convolution" not in on_cpu


def test_the_mean_over_space_is_the_library_s():
    maps = normal(2, 7, 5, 16).astype(jnp.bfloat16)
    found = jax.jit(convolutions.mean)(maps)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, maps.astype(jnp.float32).mean(axis=(1, 2)), atol=1e-6)

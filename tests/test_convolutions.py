import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_irkd.models import convolutions, winograd


def draw(*shape: int, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def direct(maps, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    around = [(len(kernel) // 2, len(kernel) // 2)] * 2
    return lax.conv_general_dilated(maps, kernel, (2, 2), around, dimension_numbers=layout)


@pytest.mark.parametrize("size", [(4, 4), (7, 7), (6, 5), (1, 2)])
@pytest.mark.parametrize(("side", "channels"), [(3, 64), (7, 1), (7, 3)])
def test_with_stride_it_is_the_convolution_and_its_gradients(size, side, channels):
    maps, kernel = draw(3, *size, channels, seed=0), draw(side, side, channels, 4, seed=1)
    wanted, pull = jax.vjp(direct, maps, kernel)
    found, pull_back = jax.jit(lambda *x: jax.vjp(convolutions.strided_conv, *x))(maps, kernel)
    change = draw(*wanted.shape, seed=2)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=3e-5)
    for ours, plain in zip(pull_back(change), pull(change)):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-4)


def test_a_kernel_gradient_by_hand():
    # One pixel of the map and one output changed: only the place between them has a gradient.
    maps = jnp.zeros((1, 4, 4, 1)).at[0, 2, 3, 0].set(2.0)
    change = jnp.zeros((1, 2, 2, 1)).at[0, 1, 1, 0].set(5.0)  # Its kernel's middle is at (2, 2).
    _, pull = jax.vjp(lambda w: convolutions.strided_conv(maps, w), jnp.ones((3, 3, 1, 1)))
    np.testing.assert_array_equal(pull(change)[0][..., 0, 0], [[0, 0, 0], [0, 0, 10], [0, 0, 0]])


@pytest.mark.parametrize(
    ("kernel", "wanted"),
    [
        ((3, 3, 64, 128), True),
        ((3, 3, 32, 128), False),
        ((7, 7, 1, 64), True),
        ((7, 7, 3, 64), True),
        ((7, 7, 64, 64), False),
        ((7, 7, 1, 8), False),
    ],
)
def test_where_it_pays(kernel, wanted):
    maps = jax.ShapeDtypeStruct((2, 8, 8, kernel[2]), jnp.float32)
    kernel = jax.ShapeDtypeStruct(kernel, jnp.float32)
    assert convolutions.pays(maps, kernel) is wanted
    half = jax.ShapeDtypeStruct(maps.shape, jnp.bfloat16)
    assert not convolutions.pays(half, kernel)


def test_gpus_keep_the_librarys_gradients():
    def loss(maps, kernel):
        return convolutions.strided_conv(maps, kernel).sum()

    maps, kernel = draw(2, 8, 8, 64, seed=0), draw(3, 3, 64, 64, seed=1)
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(maps, kernel)
    on_gpu = traced.lower(lowering_platforms=("cuda",)).as_text()
    on_cpu = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert on_gpu.count("stablehlo.convolution") == 2 and "dot_general" not in on_gpu
    assert on_cpu.count("stablehlo.convolution") == 1
    assert on_cpu.count("stablehlo.dot_general") == 1


@pytest.mark.parametrize(
    ("strides", "padding", "options", "wanted"),
    [
        ((1, 1), [(1, 1), (1, 1)], {}, "conv3x3"),
        ((2, 2), [(1, 1), (1, 1)], {}, "strided_conv"),
        ((2, 2), [(0, 1), (0, 1)], {}, ""),
        ((2, 1), [(1, 1), (1, 1)], {}, ""),
        ((2, 2), [(1, 1), (1, 1)], {"rhs_dilation": (2, 2)}, ""),
    ],
)
def test_which_way_a_convolution_goes(strides, padding, options, wanted, monkeypatch):
    taken = []
    for module, name in ((winograd, "conv3x3"), (convolutions, "strided_conv")):
        kept = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *x, n=name, f=kept: taken.append(n) or f(*x))
    maps, kernel = draw(8, 8, 8, 64, seed=0), draw(3, 3, 64, 64, seed=1)
    options |= {
        "dimension_numbers": lax.conv_dimension_numbers(
            maps.shape, kernel.shape, ("NHWC", "HWIO", "NHWC")
        )
    }
    found = convolutions.conv_general_dilated(maps, kernel, strides, padding, **options)
    plain = lax.conv_general_dilated(maps, kernel, strides, padding, **options)
    assert taken == ([wanted] if wanted else [])
    np.testing.assert_allclose(found, plain, atol=1e-3)

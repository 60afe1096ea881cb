"""Convolutions for training where XLA's own are slow: on CPUs, and the stem on GPUs and TPUs.

3x3 ones with stride 1 take `winograd`'s short way. With stride 2 the forward pass is XLA's, and
the gradient to the kernel is a matrix product: XLA would first swap the frames and the channels of
the maps, one number at a time and with all that computed the maps in the same loop, which takes
several times as long as the convolution. For the same reason 1x1 ones are products of matrices
and not of maps there. The 7x7 stem of a narrow network reads blocks of 2x2 pixels as channels; on
TPUs every stem does, whose gradient XLA takes minutes to compile otherwise, and on NVIDIA's GPUs it
reads four of them in a row, as cuDNN is slow with few channels.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jax_irkd.models import winograd

NARROW_STEM = 32  # output channels; with 16 packing takes 0.4 of the time, with 64 twice the time
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_AROUND = ((1, 1), (1, 1))


def conv_general_dilated(
    lhs: Float[Array, "n h w c"],
    rhs: Float[Array, "kh kw c2 d"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    widest: int = sys.maxsize,
    **options: Any,
) -> Float[Array, "n h2 w2 d"]:
    """`jax.lax.conv_general_dilated` for `nn.Conv(conv_general_dilated=...)`.

    On CPUs a 3x3 convolution with padding 1 and stride 1 or 2 goes another way where that pays and
    it has at most `widest` channels, and so does the 7x7 stem of a narrow network.
    Differentiable in reverse mode, once.
    """
    strides = tuple(window_strides)
    padded = rhs.shape[:2] == (3, 3) and _is_margin(padding, 1)
    plain = options.get("feature_group_count", 1) == 1 and all(
        set(options.get(name) or (1,)) == {1} for name in ("lhs_dilation", "rhs_dilation")
    )
    apt = padded and plain and max(rhs.shape[2:]) <= widest
    if apt and strides == (1, 1) and winograd.pays(lhs, rhs):
        return winograd.conv3x3(lhs, rhs)
    if apt and strides == (2, 2) and winograd.is_wide(lhs, rhs):
        return strided_conv3x3(lhs, rhs)
    even = lhs.ndim == 4 and not (lhs.shape[1] % 2 or lhs.shape[2] % 2)
    stem = rhs.shape[:2] == (7, 7) and strides == (2, 2) and _is_margin(padding, 3)
    if stem and plain and even and lhs.shape[-1] <= 4 and rhs.shape[-1] <= widest:
        return conv7x7_of_frames(rhs.shape[-1] <= NARROW_STEM)(lhs, rhs)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def dot_general(
    lhs: Float[Array, "n h w c"],
    rhs: Float[Array, "c d"],
    dimension_numbers: Any,
    *,
    stride: int = 1,
    **options: Any,
) -> Float[Array, "n h2 w2 d"]:
    """The 1x1 convolution of a stride, for `nn.Dense(dot_general=...)`.

    On CPUs one product of matrices with all pixels along one axis: its gradient to the kernel sums
    over that axis, and over three axes XLA would transpose the maps. Elsewhere the library's
    convolution: on GPUs that takes bias, shortcut and relu along, which products write and read
    once more each, and XLA cannot tile the product of every other pixel there. Differentiable in
    reverse mode, once.
    """
    del dimension_numbers  # nn.Dense has one product: over the last axis and the first.
    return _pointwise(stride, tuple(sorted(options.items())))(lhs, rhs)


def strided_dot_general(
    lhs: Float[Array, "n h w c"],
    rhs: Float[Array, "c d"],
    dimension_numbers: Any,
    *,
    stride: int,
    **options: Any,
) -> Float[Array, "n h2 w2 d"]:
    """The plain 1x1 convolution with a stride for `nn.Dense(dot_general=...)`."""
    del dimension_numbers
    return lax.conv_general_dilated(
        lhs, rhs[None, None], (stride, stride), "VALID", dimension_numbers=_LAYOUT, **options
    )


@functools.cache
def _pointwise(stride: int, options: tuple[tuple[str, Any], ...]) -> Callable:
    """`dot_general` of a stride. Gradients flow to both arguments."""

    def product(maps: Array, kernel: Array) -> Array:
        maps = maps[:, ::stride, ::stride]
        pixels = maps.reshape(-1, maps.shape[-1])
        made = lax.dot_general(pixels, kernel, (((1,), (0,)), ((), ())), **dict(options))
        return made.reshape(*maps.shape[:-1], -1)

    def convolved(maps: Array, kernel: Array) -> Array:
        return strided_dot_general(maps, kernel, None, stride=stride, **dict(options))

    @jax.custom_vjp
    def project(maps: Array, kernel: Array) -> Array:
        return lax.platform_dependent(maps, kernel, cpu=product, default=convolved)

    def backward(kept: tuple[Array, Array], change: Array) -> tuple[Array, Array]:
        pulls = {
            name: lambda change, *kept, way=way: jax.vjp(way, *kept)[1](change)
            for name, way in (("cpu", product), ("default", convolved))
        }
        return lax.platform_dependent(change, *kept, **pulls)

    project.defvjp(lambda *kept: (project(*kept), kept), backward)
    return project


def _is_margin(padding: Sequence[tuple[int, int]], width: int) -> bool:
    return tuple(map(tuple, padding)) == ((width, width), (width, width))


@functools.cache
def conv7x7_of_frames(
    narrow: bool,
) -> Callable[[Float[Array, "n h w c"], Float[Array, "7 7 c d"]], Float[Array, "n h2 w2 d"]]:
    """7x7 convolution, stride 2, padding 3, of frames of even size. Gradients flow to both.

    With few channels on both sides (`narrow`) XLA on CPUs multiplies rows of a handful of numbers.
    There every 2x2 pixels become 4c channels, over which an 8x8 kernel (one row and column of
    zeros) is a 4x4 one with stride 1: the same function. Its gradients are the library's.

    On TPUs that is so at any width, and for the kernel's gradient: of 7x7 pixels XLA unrolls it,
    which takes minutes to compile, and of 4x4 blocks seconds. By its own estimate the step is no
    slower for it; Google's MLPerf ResNets read frames so (`conv0_space_to_depth`).

    On NVIDIA's GPUs the four blocks that the kernel reads in a row are channels, too: 16c of them,
    and a 4x1 kernel. cuDNN is slow with few: of 32 x 8 frames of 224 pixels the forward pass takes
    an H100 1.4 ms with one and 2.1 with three channels, and so 0.4 and 0.6, layouts included.
    """
    packed = {"cpu": _packed_stem} if narrow else {}

    @jax.custom_vjp
    def convolve(frames: Array, kernel: Array) -> Array:
        return lax.platform_dependent(
            frames, kernel, tpu=_sliced_stem, cuda=_wide_stem, default=_stem, **packed
        )

    def backward(kept: tuple[Array, Array], change: Array) -> tuple[Array, Array]:
        frames, kernel = kept
        to_frames = jax.vjp(lambda x: _stem(x, kernel), frames)[1](change)[0]
        ways = {
            name: lambda change, frames, kernel, way=way: jax.vjp(
                functools.partial(way, frames), kernel
            )[1](change)[0]
            for name, way in (("tpu", _sliced_stem), ("cuda", _wide_stem), ("default", _stem))
        }
        return to_frames, lax.platform_dependent(change, frames, kernel, **ways)

    convolve.defvjp(lambda *kept: (convolve(*kept), kept), backward)
    return convolve


def _stem(frames: Array, kernel: Array) -> Array:
    margin = ((3, 3), (3, 3))
    return lax.conv_general_dilated(frames, kernel, (2, 2), margin, dimension_numbers=_LAYOUT)


def _packed_stem(frames: Array, kernel: Array) -> Array:
    frames = _framed(frames)
    n, height, width, channels = frames.shape
    blocks = frames.reshape(n, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    blocks = blocks.reshape(n, height // 2, width // 2, 4 * channels)
    return _convolve(blocks, _kernel_of_blocks(kernel))


def _wide_stem(frames: Array, kernel: Array) -> Array:
    """Gathered: one kernel of a GPU, which makes the frames out of bytes on its way."""
    frames = _framed(frames)
    n, height, width, channels = frames.shape
    places = width // 2 - 3
    # Of every place four blocks of two columns.
    columns = 2 * np.arange(places)[:, None, None] + np.arange(8).reshape(4, 2)
    pixels = frames.reshape(n, height // 2, 2, width, channels)[:, :, :, columns]
    rows = pixels.transpose(0, 1, 3, 4, 2, 5, 6).reshape(n, height // 2, places, 16 * channels)
    return _convolve(rows, _kernel_of_blocks(kernel).reshape(4, 1, 16 * channels, -1))


def _sliced_stem(frames: Array, kernel: Array) -> Array:
    """`_packed_stem` for TPUs, which take long to transpose: six times this by XLA's estimate."""
    frames = _framed(frames)
    pixels = [frames[:, row::2, column::2] for row in range(2) for column in range(2)]
    return _convolve(jnp.concatenate(pixels, axis=-1), _kernel_of_blocks(kernel))


def _framed(frames: Array) -> Array:
    """With the margins of an 8x8 kernel whose first row and column are zeros."""
    return jnp.pad(frames, ((0, 0), (4, 2), (4, 2), (0, 0)))


def _kernel_of_blocks(kernel: Float[Array, "7 7 c d"]) -> Float[Array, "4 4 c4 d"]:
    channels, width = kernel.shape[2:]
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, width).swapaxes(1, 2)
    return kernel.reshape(4, 4, 4 * channels, width)


def _convolve(maps: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(maps, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


@jax.custom_vjp
def strided_conv3x3(
    maps: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "n h2 w2 d"]:
    """3x3 convolution, stride 2, padding 1. Gradients flow to both arguments."""
    return _direct(maps, kernel)


def _direct(maps: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(maps, kernel, (2, 2), _AROUND, dimension_numbers=_LAYOUT)


def _forward(maps: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _direct(maps, kernel), (maps, kernel)


def _backward(kept: tuple[Array, Array], change: Array) -> tuple[Array, Array]:
    maps, kernel = kept
    (to_maps,) = jax.vjp(lambda x: _direct(x, kernel), maps)[1](change)
    to_kernel = lax.platform_dependent(
        maps, kernel, change, cpu=_kernel_gradient, default=_librarys_kernel_gradient
    )
    return to_maps, to_kernel


strided_conv3x3.defvjp(_forward, _backward)


def _librarys_kernel_gradient(maps: Array, kernel: Array, change: Array) -> Array:
    return jax.vjp(lambda w: _direct(maps, w), kernel)[1](change)[0]


def _kernel_gradient(maps: Array, kernel: Array, change: Array) -> Array:
    """dL/dw[i, j] = sum over outputs p of x[2p + (i, j) - 1] g[p]', all nine in one product."""
    # Without the barrier what computes the maps would be fused into each of the nine views.
    maps, change = lax.optimization_barrier((maps, change))
    views = _views(maps).reshape(-1, 9 * maps.shape[-1])
    return (views.T @ change.reshape(-1, change.shape[-1])).reshape(kernel.shape)


def _views(maps: Array) -> Array:
    """The nine pixels under the kernel at every output, `n h2 w2 9c`."""
    n, height, width, channels = maps.shape
    rows, columns = -(-height // 2), -(-width // 2)
    margins = [(1, 2 * rows - height), (1, 2 * columns - width)]
    maps = jnp.pad(maps, ((0, 0), *margins, (0, 0)))
    views = [
        lax.slice(
            maps, (0, i, j, 0), (n, i + 2 * rows - 1, j + 2 * columns - 1, channels), (1, 2, 2, 1)
        )
        for i in range(3)
        for j in range(3)
    ]
    return jnp.concatenate(views, axis=-1)


def mean(maps: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
    """The mean over space in float32, for inference.

    XLA on CPUs computes a reduction together with all convolutions before it that it finds; the
    last stage of a ResNet-18 takes five times as long that way when there is one frame. It leaves a
    product alone.
    """

    def product(maps: Array) -> Array:
        height, width = maps.shape[1:3]
        share = jnp.full((height, width), 1 / (height * width), jnp.float32)
        return jnp.einsum("nhwc,hw->nc", maps.astype(jnp.float32), share)

    def reduced(maps: Array) -> Array:
        return jnp.mean(maps, axis=(1, 2), dtype=jnp.float32)

    return lax.platform_dependent(maps, cpu=product, default=reduced)

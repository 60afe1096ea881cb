"""Convolutions for training on CPUs, where XLA's own are slow; elsewhere its own are kept.

3x3 ones with stride 1 take `winograd`'s short way. With stride 2 the forward pass is XLA's, and the
gradient to the kernel is a matrix product: XLA would first swap the frames and the channels of the
maps, one number at a time and with all that computed the maps in the same loop, which takes several
times as long as the convolution.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jax_irkd.models import winograd

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: Float[Array, "n h w c"],
    rhs: Float[Array, "kh kw c2 d"],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options,
) -> Float[Array, "n h2 w2 d"]:
    """`jax.lax.conv_general_dilated` for `nn.Conv(conv_general_dilated=...)`.

    On CPUs convolutions that keep the size or halve it go another way where that pays.
    Differentiable in reverse mode, once.
    """
    strides, sides = tuple(window_strides), rhs.shape[:2]
    centred = sides[0] == sides[1] and all(tuple(pad) == (sides[0] // 2,) * 2 for pad in padding)
    plain = options.get("feature_group_count", 1) == 1 and all(
        set(options.get(name) or (1,)) == {1} for name in ("lhs_dilation", "rhs_dilation")
    )
    if centred and plain and strides == (1, 1) and winograd.pays(lhs, rhs):
        return winograd.conv3x3(lhs, rhs)
    if centred and plain and strides == (2, 2) and pays(lhs, rhs):
        return strided_conv(lhs, rhs)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def pays(maps: Array | jax.ShapeDtypeStruct, kernel: Array | jax.ShapeDtypeStruct) -> bool:
    """Whether a strided kernel's gradient is quicker as a product: 3x3 and wide, or of a stem."""
    k, _, inside, outside = kernel.shape
    right = maps.dtype == kernel.dtype == jnp.float32 and outside >= winograd.NARROWEST
    return right and ((k == 3 and inside >= winograd.NARROWEST) or (k == 7 and inside <= 4))


@jax.custom_vjp
def strided_conv(
    maps: Float[Array, "n h w c"], kernel: Float[Array, "k k c d"]
) -> Float[Array, "n h2 w2 d"]:
    """Convolution with stride 2 and padding k // 2, k odd. Gradients flow to both arguments."""
    return _direct(maps, kernel)


def _direct(maps: Array, kernel: Array) -> Array:
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(maps, kernel, (2, 2), padding, dimension_numbers=_LAYOUT)


def _forward(maps: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _direct(maps, kernel), (maps, kernel)


def _backward(kept: tuple[Array, Array], change: Array) -> tuple[Array, Array]:
    maps, kernel = kept
    (to_maps,) = jax.vjp(lambda x: _direct(x, kernel), maps)[1](change)
    to_kernel = lax.platform_dependent(
        maps, kernel, change, cpu=_kernel_gradient, default=_librarys_kernel_gradient
    )
    return to_maps, to_kernel


strided_conv.defvjp(_forward, _backward)


def _librarys_kernel_gradient(maps: Array, kernel: Array, change: Array) -> Array:
    return jax.vjp(lambda w: _direct(maps, w), kernel)[1](change)[0]


def _kernel_gradient(maps: Array, kernel: Array, change: Array) -> Array:
    """dL/dw[i, j] = sum over outputs p of x[2p + (i, j) - k // 2] g[p]', all in one product."""
    # Without the barrier what computes the maps would be fused into each of the views.
    maps, change = lax.optimization_barrier((maps, change))
    if kernel.shape[2] < winograd.NARROWEST:
        return _frame_by_frame(maps, kernel, change)
    places = jnp.concatenate(_views(maps, len(kernel)), axis=-1)
    over_outputs = (((0, 1, 2), (0, 1, 2)), ((), ()))
    return lax.dot_general(places, change, over_outputs).reshape(kernel.shape)


def _frame_by_frame(maps: Array, kernel: Array, change: Array) -> Array:
    """The same for a stem: few channels and large maps, whose 49 views would fill the memory."""

    def add(total: Array, frame: tuple[Array, Array]) -> tuple[Array, None]:
        one, back = frame
        places = lax.optimization_barrier(jnp.concatenate(_views(one[None], len(kernel))))
        return total + lax.dot_general(places, back, (((1, 2), (0, 1)), ((), ()))), None

    k, _, *channels = kernel.shape
    total, _ = lax.scan(add, jnp.zeros((k * k, *channels), kernel.dtype), (maps, change))
    return total.reshape(kernel.shape)


def _views(maps: Array, k: int) -> list[Array]:
    """The pixel under each of the kernel's places at every output, `n h2 w2 c` each."""
    n, height, width, channels = maps.shape
    rows, columns = -(-height // 2), -(-width // 2)
    margins = [
        (k // 2, 2 * count + k // 2 - 1 - size)
        for count, size in ((rows, height), (columns, width))
    ]
    maps = jnp.pad(maps, ((0, 0), *margins, (0, 0)))

    def view(i: int, j: int) -> Array:
        end = (n, i + 2 * rows - 1, j + 2 * columns - 1, channels)
        return lax.slice(maps, (0, i, j, 0), end, (1, 2, 2, 1))

    return [view(i, j) for i in range(k) for j in range(k)]

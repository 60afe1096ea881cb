"""The 3x3 stride-2 max pool of a ResNet's stem, in the form that each kind of device is quick at.

The function is one, `nn.max_pool` with padding 1 on maps that are nowhere negative. Of equal
largest pixels in a window the first has the whole gradient on GPUs and TPUs, as in PyTorch; on CPUs
they share it.
"""

from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int8, Num

# Places of a window are 4 row + column; with 3 a pixel beside it would have a place of its own.
_ROW = 4


def max_pool(
    x: Float[Array, "n h w c"], *, train: bool, plain: bool = False
) -> Float[Array, "n h2 w2 c"]:
    """The largest of every 3x3 pixels, two apart; `plain` keeps to what other formats know.

    With `train` it is differentiable in reverse mode, once.
    """
    if train:
        return lax.platform_dependent(x, cpu=of_slices, tpu=of_windows, default=of_places)
    if plain:
        return of_windows(x)
    # Without a gradient a GPU reads the map once for its windows, and three times for slices.
    return lax.platform_dependent(x, cpu=of_slices, default=of_windows)


def of_windows(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """By XLA's windows. Their gradient is quick on TPUs and a scatter elsewhere."""
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def of_slices(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """By slices along one axis after the other, quicker in XLA on CPUs, the gradient six times.

    Padding with 0 is as good as -inf, because every window holds a pixel of the map.
    """
    for axis in (1, 2):
        even, odd = (lax.slice_in_dim(x, start, x.shape[axis], 2, axis) for start in (0, 1))
        size = even.shape[axis]
        widths = [(0, 0)] * x.ndim
        widths[axis] = (1, size - odd.shape[axis])
        odd = jnp.pad(odd, widths)
        before, after = (lax.slice_in_dim(odd, i, i + size, 1, axis) for i in (0, 1))
        x = jnp.maximum(even, jnp.maximum(before, after))
    return x


@jax.custom_vjp
def of_places(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """With the place of every largest pixel, a byte, kept for the gradient.

    XLA on GPUs draws the pixels and what computes them into one kernel, and the gradient into the
    kernel that needs it. Slices write and read masks instead, half as much again as all the rest of
    the stem.
    """
    return _largest(x)[0]


def _forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    largest, place = _largest(x)
    return largest, (place, jnp.zeros((0, *x.shape[1:3]), jnp.int8))  # keeps the map's size


def _backward(kept: tuple[Array, Array], change: Array) -> tuple[Array]:
    """Every pixel looks at the windows that hold it: two along an axis if odd, else one."""
    place, like = kept
    height, width = like.shape[1:]
    rows, columns = (_parity(size, axis) for axis, size in ((1, height), (2, width)))
    total = jnp.zeros((), jnp.float32)
    for below in (0, 1):
        for right in (0, 1):
            # That pixel's own place in the window so far below and to the right.
            own = _ROW * (rows + 1 - 2 * below) + columns + 1 - 2 * right
            places, changes = (
                _grown(_moved(part, below, right), height, width) for part in (place, change)
            )
            total += jnp.where(places == own, changes.astype(jnp.float32), 0.0)
    return (total.astype(change.dtype),)


of_places.defvjp(_forward, _backward)


def _largest(x: Float[Array, "n h w c"]) -> tuple[Array, Int8[Array, "n h2 w2 c"]]:
    """The first largest pixel of every window, and its place."""
    (place, largest), *others = _pixels(x)
    places = jnp.full(largest.shape, place, jnp.int8)
    for place, pixel in others:
        places = jnp.where(pixel > largest, jnp.int8(place), places)
        largest = jnp.maximum(largest, pixel)
    return largest, places


def _pixels(x: Float[Array, "n h w c"]) -> Iterator[tuple[int, Array]]:
    """Places in a window, row by row, with the pixel there of every window."""
    n, height, width, channels = x.shape
    ends = 2 * -(-height // 2) - 1, 2 * -(-width // 2) - 1
    margins = [(0, 0, 0), (1, ends[0] + 1 - height, 0), (1, ends[1] + 1 - width, 0), (0, 0, 0)]
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), margins)
    for row in range(3):
        for column in range(3):
            end = (n, row + ends[0], column + ends[1], channels)
            pixel = lax.slice(x, (0, row, column, 0), end, (1, 2, 2, 1))
            yield _ROW * row + column, pixel


def _parity(size: int, axis: int) -> Int8[Array, "1 h w 1"]:
    shape = [1, 1, 1, 1]
    shape[axis] = size
    return lax.broadcasted_iota(jnp.int8, shape, axis) % 2


def _moved(x: Array, below: int, right: int) -> Array:
    """Of every window the one so many below and to the right; 0 where there is none."""
    whole = (0, 0, 0)
    margins = [whole, (-below, below, 0), (-right, right, 0), whole]
    return lax.pad(x, jnp.zeros((), x.dtype), margins)


def _grown(x: Num[Array, "n h2 w2 c"], height: int, width: int) -> Num[Array, "n h w c"]:
    """Every pixel four times, as a block."""
    n, rows, columns, channels = x.shape
    blocks = jnp.broadcast_to(x[:, :, None, :, None], (n, rows, 2, columns, 2, channels))
    return blocks.reshape(n, 2 * rows, 2 * columns, channels)[:, :height, :width]

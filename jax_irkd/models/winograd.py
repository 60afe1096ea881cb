"""3x3 convolutions by Winograd's minimal filtering, which CPUs do in about half the time.

F(2x2, 3x3) of Lavin and Gray (CVPR 2016, arXiv:1509.09308): a tile of 2x2 outputs needs 16
products for each pair of channels instead of 36,

    y = A' [(G w G') * (B' x B)] A

with x a 4x4 tile of the input; the sum over input channels is a matrix product for each of the
16 places. The same function up to rounding (about 1e-6 of the largest output in float32). XLA
computes 3x3 convolutions on CPUs at the speed of a matrix product, so fewer products are what
helps; on GPUs cuDNN chooses by itself and nothing changes. The tiles are four times the size of the
maps, so frames are taken in groups whose tiles fit into a processor's cache: without that, moving
them costs what the products save.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NARROWEST = 64  # channels; with fewer, the transforms cost what the products save
SMALLEST = 128  # channels; XLA gives narrower products over tiles to a single core
LARGEST_SHARE = 0.65  # of the direct products: 0.44 for maps of even size, 0.58 at 7x7
FEWEST_TILES = 32
CACHE = 8 << 20  # bytes of tiles at once: the best of 2, 4, 8 and 16 MiB
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_SAME = ((1, 1), (1, 1))


def pays(maps: Array | jax.ShapeDtypeStruct, kernel: Array | jax.ShapeDtypeStruct) -> bool:
    """Whether the short way is expected to be the quicker one: float32, wide, not too small."""
    n, height, width, _ = maps.shape
    tiles = _tiles(height) * _tiles(width)
    share = 16 * tiles / (9 * height * width)
    return is_wide(maps, kernel) and share <= LARGEST_SHARE and _at_least(n * tiles, FEWEST_TILES)


def _at_least(count: Any, least: int) -> bool:
    """Whether it is; for the symbolic number of an exported program, whether it always will be."""
    try:
        return bool(count >= least)
    except jax.errors.InconclusiveDimensionOperation:
        return False


def is_wide(maps: Array | jax.ShapeDtypeStruct, kernel: Array | jax.ShapeDtypeStruct) -> bool:
    """float32, with channels enough for matrix products to be what counts."""
    return maps.dtype == kernel.dtype == jnp.float32 and min(kernel.shape[2:]) >= NARROWEST


@jax.custom_vjp
def conv3x3(
    maps: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "n h w d"]:
    """3x3 convolution, stride 1, padding 1: the short way on CPUs, the library's elsewhere.

    Gradients flow to both arguments; both take the short way too.
    """
    return lax.platform_dependent(maps, kernel, cpu=_minimal, default=_direct)


def _forward(maps: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv3x3(maps, kernel), (maps, kernel)


def _backward(kept: tuple[Array, Array], change: Array) -> tuple[Array, Array]:
    return lax.platform_dependent(*kept, change, cpu=_minimal_pull, default=_direct_pull)


conv3x3.defvjp(_forward, _backward)


def _direct(maps: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(maps, kernel, (1, 1), _SAME, dimension_numbers=_LAYOUT)


def _direct_pull(maps: Array, kernel: Array, change: Array) -> tuple[Array, Array]:
    return jax.vjp(_direct, maps, kernel)[1](change)


def _minimal(maps: Array, kernel: Array) -> Array:
    # Without the barriers the compiler computes what comes before once for each of the 16 places,
    # and puts the tiles together again in everything that reads the result.
    return lax.optimization_barrier(_in_groups(minimal, lax.optimization_barrier(maps), kernel))


def _minimal_pull(maps: Array, kernel: Array, change: Array) -> tuple[Array, Array]:
    maps, change = lax.optimization_barrier((maps, change))
    # The gradient to the input is a convolution with the kernel turned round.
    turned = jnp.flip(kernel, (0, 1))
    to_maps = _in_groups(functools.partial(minimal, backwards=True), change, turned)

    def add(total: Array, group: tuple[Array, Array]) -> tuple[Array, None]:
        return total + minimal_kernel_gradient(*lax.optimization_barrier(group)), None

    to_kernel, _ = lax.scan(
        add, jnp.zeros_like(kernel), (_groups(maps, kernel), _groups(change, kernel))
    )
    return lax.optimization_barrier((to_maps, to_kernel))


def _in_groups(convolve: Callable[[Array, Array], Array], maps: Array, kernel: Array) -> Array:
    def one(group: Array) -> Array:
        return convolve(lax.optimization_barrier(group), kernel)

    done = lax.map(one, _groups(maps, kernel))
    return done.reshape(maps.shape[0], *done.shape[2:])


def _groups(maps: Array, kernel: Array) -> Array:
    size = frames_at_once(maps.shape, max(kernel.shape[2:]))
    return maps.reshape(-1, size, *maps.shape[1:])


def frames_at_once(shape: tuple[Any, ...], channels: int) -> Any:
    """The most frames of maps `n h w c`, as a divisor of n, whose tiles fit into the cache.

    All of them where that would leave products too thin to be worth it. n may be symbolic.
    """
    n, tiles = shape[0], _tiles(shape[1]) * _tiles(shape[2])
    fitting = max(1, CACHE // (16 * 4 * tiles * channels))
    size = max(size for size in range(1, fitting + 1) if n % size == 0)
    return size if size * tiles >= FEWEST_TILES else n


def minimal(
    maps: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c2 d"], *, backwards: bool = False
) -> Float[Array, "n h w d2"]:
    """The convolution by 16 matrix products; `backwards` goes from output to input channels.

    Transposing the kernel instead would cost as much as a product.
    """
    n, height, width, _ = maps.shape
    tiles = _tiles(height), _tiles(width)
    channels = (((1,), (int(backwards),)), ((), ()))
    products = [
        lax.dot_general(tile, weight, channels).reshape(n, *tiles, -1)
        for tile, weight in zip(_input_tiles(maps), _kernel_tiles(kernel))
    ]
    rows = [_shrink(products[4 * i : 4 * i + 4]) for i in range(4)]
    pixels = [_shrink([row[column] for row in rows]) for column in range(2)]
    # pixels[q][p] is the output at row p and column q of every tile, `n th tw d`.
    lines = [jnp.stack([pixels[q][p] for q in range(2)], axis=3) for p in range(2)]
    whole = jnp.stack(lines, axis=2)
    whole = whole.reshape(n, 2 * tiles[0], 2 * tiles[1], -1)
    return whole[:, :height, :width]


def minimal_kernel_gradient(
    maps: Float[Array, "n h w c"], change: Float[Array, "n h w d"]
) -> Float[Array, "3 3 c d"]:
    """The gradient to the kernel by 16 matrix products; `change` is that to the output."""
    turned = max(maps.shape[-1], change.shape[-1]) < SMALLEST
    tiles = zip(_input_tiles(maps), _output_tiles(change, turned=turned))
    products = [back @ tile if turned else tile.T @ back for tile, back in tiles]
    columns = [_gather(products[4 * i : 4 * i + 4]) for i in range(4)]
    rows = [[_gather([columns[i][k] for i in range(4)])[j] for k in range(3)] for j in range(3)]
    kernel = jnp.stack([jnp.stack(row) for row in rows])
    return kernel.swapaxes(2, 3) if turned else kernel


def _tiles(length: int) -> int:
    return -(-length // 2)


def _input_tiles(maps: Array) -> list[Array]:
    """B' x B at each of the 16 places, of maps padded with zeros.

    Matrices `tiles c`, as XLA would transpose the operands of a product over several axes.
    """
    height, width = (_tiles(length) for length in maps.shape[1:3])
    margins = [(1, 1 + 2 * count - size) for count, size in zip((height, width), maps.shape[1:3])]
    maps = jnp.pad(maps, ((0, 0), *margins, (0, 0)))
    places = [place for row in _spread(maps, 1, height) for place in _spread(row, 2, width)]
    return [place.reshape(-1, place.shape[-1]) for place in places]


def _spread(maps: Array, axis: int, tiles: int) -> list[Array]:
    """B' along one axis: of every four pixels, two apart from tile to tile."""
    first, second, third, fourth = (
        lax.slice_in_dim(maps, start, start + 2 * tiles - 1, 2, axis) for start in range(4)
    )
    return [first - third, second + third, third - second, second - fourth]


def _kernel_tiles(kernel: Array) -> list[Array]:
    """G w G' at each of the 16 places, `c d`. Sums, as an einsum would transpose the kernel."""
    rows = [_widen([kernel[i, j] for i in range(3)]) for j in range(3)]
    return [place for i in range(4) for place in _widen([row[i] for row in rows])]


def _widen(weights: list[Array]) -> list[Array]:
    """G along one axis: three weights to four."""
    first, second, third = weights
    return [first, (first + second + third) / 2, (first - second + third) / 2, third]


def _gather(places: list[Array]) -> list[Array]:
    """G' along one axis, the transpose of `_widen`."""
    first, second, third, fourth = places
    return [first + (second + third) / 2, (second - third) / 2, (second + third) / 2 + fourth]


def _shrink(places: list[Array]) -> list[Array]:
    """A' along one axis: four places to two outputs."""
    first, second, third, fourth = places
    return [first + second + third, second - third - fourth]


def _output_tiles(change: Array, *, turned: bool) -> list[Array]:
    """A g A' at each of the 16 places, `tiles d`: the transpose of `_shrink` in both axes.

    `turned` gives them as `d tiles`. Then the pixels are transposed, before they make four times
    as many numbers.
    """
    height, width = (2 * _tiles(size) for size in change.shape[1:3])
    margins = [(0, size - before) for size, before in zip((height, width), change.shape[1:3])]
    change = jnp.pad(change, ((0, 0), *margins, (0, 0)))
    pixels = [
        lax.slice(change, (0, row, column, 0), change.shape, (1, 2, 2, 1))
        for row in range(2)
        for column in range(2)
    ]
    pixels = [pixel.reshape(-1, pixel.shape[-1]) for pixel in pixels]
    if turned:
        # Without the barriers each of the 16 sums would read its numbers across the rows.
        stacked = lax.optimization_barrier(jnp.stack(pixels))
        pixels = lax.optimization_barrier(stacked.transpose(0, 2, 1))
    rows = zip(_grow(pixels[0], pixels[2]), _grow(pixels[1], pixels[3]))
    return [place for left, right in rows for place in _grow(left, right)]


def _grow(first: Array, second: Array) -> list[Array]:
    """A along one axis: the two outputs of a tile to four places."""
    return [first, first + second, first - second, -second]

"""What the methods share: safe normalisation, pooling, gathering and features."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Number, check_choice
from jax_irkd.models.outputs import Outputs

Tree = TypeVar("Tree")

EPSILON = 1e-12
"""Smallest norm of the published codes (the `eps` of PyTorch's `normalize`)."""


# Mathematics


def unit_rows(
    rows: Float[Array, "*n d"], epsilon: float | Float[Array, "..."] = EPSILON
) -> Float[Array, "*n d"]:
    """x / max(||x||, epsilon) along the last axis, with a gradient at zero.

    A row is divided by its largest entry before it is squared, so that rows of 1e-30 and of
    1e30 keep their direction. A zero row stays zero and gets gradient zero. `epsilon` is a
    number or an array of shape `*n 1`.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), axis=-1, keepdims=True))
    largest = jnp.minimum(largest, largest_with_inverse(rows.dtype))
    empty = largest < 2.0**-120
    largest = jnp.where(empty, 1.0, largest)
    scaled = jnp.where(empty, 0.0, rows / largest)
    norm = jnp.sqrt(jnp.where(empty, 1.0, jnp.sum(scaled**2, axis=-1, keepdims=True)))
    return scaled / jnp.maximum(norm, epsilon / largest)


def largest_with_inverse(dtype: DTypeLike) -> float:
    """The largest power of two whose inverse is a normal number: a division may be a product."""
    return 2.0 ** (jnp.finfo(dtype).maxexp - 2)


def magnitude(x: Float[Array, "..."], axis: int | tuple[int, ...] | None = None) -> Array:
    """The power of two just below the largest |x|, at least 2^-32, axes kept, no gradient.

    Dividing by it changes no digit, and squares and products of the rest fit float32.
    """
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True))
    _, exponent = jnp.frexp(jnp.maximum(largest, 2.0**-32))
    return jnp.ldexp(jnp.ones_like(largest), exponent - 1)


def adaptive_average_pool(
    maps: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b h2 w2 c"]:
    """Average pooling to `size` over PyTorch's windows floor(iH/h) .. ceil((i+1)H/h).

    Means, as XLA cannot tile the same as a product of matrices in full precision for a GPU.
    """
    for axis, parts in zip((1, 2), size):
        length = maps.shape[axis]
        if length % parts == 0:
            cut = (parts, length // parts)
            maps = maps.reshape(*maps.shape[:axis], *cut, *maps.shape[axis + 1 :])
            maps = jnp.mean(maps, axis=axis + 1)
        else:
            windows = [(i * length // parts, -(-(i + 1) * length // parts)) for i in range(parts)]
            means = [
                jnp.mean(lax.slice_in_dim(maps, start, end, axis=axis), axis=axis)
                for start, end in windows
            ]
            maps = jnp.stack(means, axis=axis)
    return maps


def pointwise(features: int, **options: Any) -> nn.Dense:
    """A 1x1 convolution of maps `n h w c`, with a Dense's parameters and options.

    On CPUs it is the product of matrices that Dense computes. Elsewhere it is a convolution: XLA's
    compiler for GPUs fuses what is around into the product and ends where it finds no tiles for it.
    """
    return nn.Dense(features, dot_general=_convolved, **options)


def _convolved(x: Array, kernel: Array, dimensions: Any, **options: Any) -> Array:
    def product(x: Array, kernel: Array) -> Array:
        return lax.dot_general(x, kernel, dimensions, **options)

    def convolution(x: Array, kernel: Array) -> Array:
        layout = ("NHWC", "HWIO", "NHWC")
        whole = kernel[None, None]
        return lax.conv_general_dilated(
            x, whole, (1, 1), "VALID", dimension_numbers=layout, **options
        )

    return lax.platform_dependent(x, kernel, cpu=product, default=convolution)


class Adapter(nn.Module):
    """Learned 1x1 convolution without bias and batch norm: student to teacher channels."""

    channels: int
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, maps: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        x = pointwise(self.channels, use_bias=False, dtype=self.dtype)(maps)  # a 1x1 convolution
        return nn.BatchNorm(use_running_average=False, momentum=0.9, axis_name=self.axis_name)(x)


def smaller_size(first: Array, second: Array) -> tuple[int, int]:
    """Height and width that both maps `b h w c` are pooled to: the smaller of each."""
    return min(first.shape[1], second.shape[1]), min(first.shape[2], second.shape[2])


# Devices and features


def gather(tree: Tree, axis_name: str | None) -> Tree:
    """Joins the clips of all devices along the first axis; the identity without an axis.

    Every device then computes the same loss. The transpose of the gather sums what all of
    them send back, so the mean of the per-device gradients is the one-device gradient.
    """
    if axis_name is None:
        return tree
    join = functools.partial(jax.lax.all_gather, axis_name=axis_name, axis=0, tiled=True)
    return jax.tree.map(join, tree)


@jax.custom_jvp
def clip_map(features: Float[Array, "b t h w c"]) -> Float[Array, "b h w c"]:
    """The map of a clip: mean over its segments, in float32.

    A sum of slices, four times faster than a reduction on CPUs; its derivative is the mean's,
    whose transpose is faster than that of slices.
    """
    segments = features.shape[1]
    slices = [features[:, i].astype(jnp.float32) for i in range(segments)]
    return functools.reduce(jnp.add, slices) / segments


@clip_map.defjvp
def _clip_map_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return clip_map(*primals), jnp.mean(tangents[0].astype(jnp.float32), axis=1)


def frame_maps(features: Float[Array, "b t h w c"]) -> Float[Array, "n h w c"]:
    """The maps of all frames, n = b t, in float32."""
    return features.astype(jnp.float32).reshape(-1, *features.shape[2:])


VERTICES: dict[str, Callable[[Array], Array]] = {"clip": clip_map, "frame": frame_maps}
"""What a relational method compares: clips (maps averaged over segments) or frames."""


def stage_maps(outputs: Outputs, layer: str, vertex: str = "clip") -> Float[Array, "n h w c"]:
    """The maps of `layer`, one per clip or one per frame."""
    maps = feature(outputs, layer)
    if maps.ndim != 5:
        raise ValueError(f"feature {layer!r} has shape {maps.shape}; a map b t h w c is needed")
    return VERTICES[check_choice("vertex", vertex, VERTICES)](maps)


def paired_maps(
    student: Outputs, teacher: Outputs, layer: str, vertex: str = "clip"
) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w d"]]:
    """The maps of `layer` of both networks, the larger average-pooled to the smaller."""
    check_same_clips(student, teacher, layer)
    maps = [stage_maps(model, layer, vertex) for model in (student, teacher)]
    size = smaller_size(*maps)
    return adaptive_average_pool(maps[0], size), adaptive_average_pool(maps[1], size)


def check_same_clips(student: Outputs, teacher: Outputs, layer: str) -> None:
    """Raises ValueError unless both networks saw as many clips and frames."""
    counts = [feature(model, layer).shape[:2] for model in (student, teacher)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"{layer} of the student holds (clips, frames) {counts[0]} and of the teacher "
            f"{counts[1]}; both must describe the same batch"
        )


def flat_features(outputs: Outputs, layer: str, vertex: str = "clip") -> Float[Array, "n *f"]:
    """`pooled` as it is, or the maps of a stage, one per clip or one per frame."""
    check_choice("vertex", vertex, VERTICES)
    features = feature(outputs, layer)
    if features.ndim != 2:
        return stage_maps(outputs, layer, vertex)
    if vertex != "clip":
        raise ValueError(f"feature {layer!r} holds clips; vertex={vertex!r} needs a map b t h w c")
    return features.astype(jnp.float32)


def pooled_features(outputs: Outputs, layer: str, vertex: str = "clip") -> Float[Array, "n d"]:
    """`flat_features` with maps averaged over space."""
    maps = feature(outputs, layer)
    if maps.ndim == 5 and vertex == "clip":  # at once: faster than by way of a clip's map
        return jnp.mean(maps.astype(jnp.float32), axis=(1, 2, 3))
    features = flat_features(outputs, layer, vertex)
    return features if features.ndim == 2 else jnp.mean(features, axis=(1, 2))


def pooled_pair(
    student: Outputs, teacher: Outputs, layer: str, vertex: str = "clip"
) -> tuple[Float[Array, "_ d"], Float[Array, "_ e"]]:
    """`pooled_features` of both networks; the loss checks that they describe the same batch."""
    return pooled_features(student, layer, vertex), pooled_features(teacher, layer, vertex)


def feature(outputs: Outputs, layer: str) -> Array:
    """One feature of a model. Raises ValueError that lists the features it offers."""
    if layer not in outputs.features:
        offers = sorted(outputs.features)
        raise ValueError(f"the model has no feature {layer!r}; it offers {offers}")
    return outputs.features[layer]


def compute_dtype(outputs: Outputs, layer: str) -> DTypeLike:
    """What layers learned on `layer` multiply in: the type of the network's map, at most float32.

    Their parameters and batch statistics are float32, as the network's are.
    """
    dtype = feature(outputs, layer).dtype
    return dtype if dtype.itemsize < 4 else jnp.float32


def current_epoch(epoch: Number | None, option: str, module: nn.Module) -> Float[Array, ""]:
    """The epoch as a float32 scalar; 1 while `module` is initialised without one.

    Raises ValueError when the caller left it out although `option` needs it.
    """
    if epoch is None and not module.is_initializing():
        raise ValueError(f"{option} needs the current epoch; pass epoch=..., counted from 1")
    return jnp.asarray(1.0 if epoch is None else epoch, jnp.float32)

"""Graphs of the clips of a batch: equations (1) and (2) of the infrared paper."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_irkd.distillers._checks import Mask, Number, check_choice, check_positive, unknown
from jax_irkd.distillers._common import magnitude
from jax_irkd.distillers._gram import inner_products, multiply

DISTANCES = ("mean", "sum")
LARGEST_DIRECT_BATCH = 16


def clip_graph(
    features: Float[Array, "b *f"],
    *,
    sigma: Number | str = 1.0,
    distance: str = "mean",
    where: Mask = None,
) -> Float[Array, "b b"]:
    """Q = D^(-1/2) E D^(-1/2), equations (1) and (2).

    Symmetric, not negative, with largest eigenvalue 1 and eigenvector D^(1/2) 1. Rows and columns
    of clips that do not count in `where` are 0.
    """
    squared = squared_distances(features.reshape(features.shape[0], -1), distance)
    counted = None if where is None else where[:, None] & where[None, :]
    similarity = jnp.exp(-squared * _inverse_bandwidth(squared, sigma, counted))
    if counted is not None:
        similarity = jnp.where(counted, similarity, 0.0)
    scale = jax.lax.rsqrt(jnp.sum(similarity, axis=1) + 1e-12)
    return similarity * scale[:, None] * scale[None, :]


def check_sigma(name: str, sigma: object) -> Number | str:
    """The value. Raises ValueError unless it is a positive number or "median"."""
    if not isinstance(sigma, str):
        return check_positive(name, sigma)
    if sigma != "median":
        raise ValueError(f"{unknown(name)} {sigma!r}; give a positive number or 'median'")
    return sigma


def _inverse_bandwidth(
    squared: Float[Array, "b b"], sigma: Number | str, counted: Mask
) -> Float[Array, ""]:
    """1 / (2 sigma^2), kept finite so that a distance of 0 stays similarity 1."""
    if not isinstance(sigma, str):
        return 0.5 / jnp.maximum(jnp.asarray(sigma, squared.dtype), 1e-15) ** 2
    others = ~same_clip(squared)
    if counted is not None:
        others &= counted
    return 0.5 / jnp.clip(jax.lax.stop_gradient(_median(squared, others)), 1e-30, 1e30)


def _median(values: Float[Array, "b b"], where: Bool[Array, "b b"]) -> Float[Array, ""]:
    """The median of the entries in `where`; 0.5 where there are none."""
    ordered = jnp.sort(jnp.where(where, values, jnp.finfo(values.dtype).max).reshape(-1))
    count = jnp.sum(where, dtype=jnp.int32)
    middle = jnp.maximum(count - 1, 0) // 2
    pair = jnp.take(ordered, jnp.stack([middle, jnp.maximum(count, 1) // 2]))
    return jnp.where(count == 0, 0.5, 0.5 * pair[0] + 0.5 * pair[1])


def same_clip(square: Array) -> Bool[Array, "b b"]:
    """The diagonal of a matrix of pairs."""
    clips = jax.lax.broadcasted_iota(jnp.int32, square.shape, 0)
    return clips == clips.T


def squared_distances(features: Float[Array, "b f"], distance: str) -> Float[Array, "b b"]:
    """Mean or sum over dimensions of (x_n - x_m)^2, exact also for nearly equal clips."""
    check_choice("distance", distance, DISTANCES)
    squared = _squared_distances(features)
    return squared / features.shape[1] if distance == "mean" else squared


@jax.custom_jvp
def _squared_distances(features: Float[Array, "b f"]) -> Float[Array, "b b"]:
    """From inner products, |x|^2 + |y|^2 - 2 <x, y>, where that keeps five digits: where every
    distance is at least a twentieth of what it is the difference of. GPUs take care always: an H100
    needs 0.7 ms of a step more to decide, at 8 clips and at 32."""
    return jax.lax.platform_dependent(features, **_VALUES)


@_squared_distances.defjvp
def _squared_distances_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (features,), (change,) = primals, tangents
    value = jax.lax.platform_dependent(features, **_VALUES)
    return value, jax.lax.platform_dependent(features, change, **_CHANGES)


def _checked(features: Float[Array, "b f"]) -> Float[Array, "b b"]:
    squared, safe = _from_products(features)
    return jax.lax.cond(safe, lambda x: squared, _careful, features)


def _checked_jvp(features: Float[Array, "b f"], change: Float[Array, "b f"]) -> Float[Array, "b b"]:
    def by_products(change: Array) -> Array:
        first = inner_products(change, features)
        own = jnp.diagonal(first)
        return 2 * (own[:, None] + own[None, :] - first - first.T)

    _, safe = _from_products(features)
    carefully = functools.partial(_careful_jvp, features)
    return jax.lax.cond(safe, by_products, carefully, change)


def _careful_jvp(features: Float[Array, "b f"], change: Float[Array, "b f"]) -> Float[Array, "b b"]:
    return jax.jvp(_careful, (features,), (change,))[1]


def _from_products(features: Float[Array, "b f"]) -> tuple[Float[Array, "b b"], Bool[Array, ""]]:
    products = inner_products(features, features)
    norms = jnp.diagonal(products)
    total = norms[:, None] + norms[None, :]
    own = same_clip(total)
    squared = jnp.where(own, 0.0, total - 2 * products)
    kept = own | (squared > 0.05 * total)
    return squared, jnp.all(kept & (total > 1e-15) & (total < 1e30))


def _careful(features: Float[Array, "b f"]) -> Float[Array, "b b"]:
    """Up to 16 clips by direct differences. More (frames as vertices) by the expansion into inner
    products of centred features; distances below its rounding error are 0."""
    clips = features.shape[0]
    direct = isinstance(clips, int) and clips <= LARGEST_DIRECT_BATCH
    return _differences(features) if direct else _expansion(features)


_VALUES = {"cuda": _careful, "rocm": _careful, "default": _checked}
_CHANGES = {"cuda": _careful_jvp, "rocm": _careful_jvp, "default": _checked_jvp}


@jax.custom_jvp
def _differences(features: Float[Array, "b f"]) -> Float[Array, "b b"]:
    """Sum over f of (x_n - x_m)^2."""
    return jnp.sum((features[:, None] - features[None]) ** 2, axis=-1)


@_differences.defjvp
def _differences_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """Both rows of a pair by way of the first: the backward pass reduces over one axis, not two.

    Without this rule XLA on CPUs spends twenty times as long on the gradient.
    """
    (features,), (change,) = primals, tangents
    differences = features[:, None] - features[None]
    first = jnp.sum(2 * differences * change[:, None], axis=-1)
    return _differences(features), first + first.T


def _expansion(features: Float[Array, "b f"]) -> Float[Array, "b b"]:
    """The same from inner products; scaled first, so that no square overflows."""
    scale = magnitude(features).reshape(())
    scaled = features / scale
    # The mean as a matrix product: XLA on CPUs is slow at reducing the first axis.
    ones = jnp.ones_like(scaled[:, :1])
    centred = scaled - multiply(ones.T, scaled) / jnp.sum(ones)
    products = inner_products(centred, centred)
    norms = jnp.diagonal(products)
    total = norms[:, None] + norms[None, :]
    squared = total - 2 * products
    return jnp.where(squared <= 1e-6 * total, 0.0, squared) * scale * scale

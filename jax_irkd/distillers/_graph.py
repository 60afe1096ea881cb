"""Graphs of the clips of a batch: equations (1) and (2) of the infrared paper."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Number, check_choice, check_positive, unknown
from jax_irkd.distillers._common import magnitude

DISTANCES = ("mean", "sum")
LARGEST_DIRECT_BATCH = 16


def clip_graph(
    features: Float[Array, "b *f"], *, sigma: Number | str = 1.0, distance: str = "mean"
) -> Float[Array, "b b"]:
    """Q = D^(-1/2) E D^(-1/2), equations (1) and (2).

    Symmetric, not negative, with largest eigenvalue 1 and eigenvector D^(1/2) 1.
    """
    squared = squared_distances(features.reshape(len(features), -1), distance)
    similarity = jnp.exp(-squared * _inverse_bandwidth(squared, sigma))
    scale = jax.lax.rsqrt(jnp.sum(similarity, axis=1) + 1e-12)
    return similarity * scale[:, None] * scale[None, :]


def check_sigma(name: str, sigma: object) -> Number | str:
    """The value. Raises ValueError unless it is a positive number or "median"."""
    if not isinstance(sigma, str):
        return check_positive(name, sigma)
    if sigma != "median":
        raise ValueError(f"{unknown(name)} {sigma!r}; give a positive number or 'median'")
    return sigma


def _inverse_bandwidth(squared: Float[Array, "b b"], sigma: Number | str) -> Float[Array, ""]:
    """1 / (2 sigma^2), kept finite so that a distance of 0 stays similarity 1."""
    if not isinstance(sigma, str):
        return 0.5 / jnp.maximum(jnp.asarray(sigma, jnp.float32), 1e-15) ** 2
    if len(squared) == 1:
        return jnp.ones(())
    others = squared[~np.eye(len(squared), dtype=bool)]
    return 0.5 / jnp.clip(jax.lax.stop_gradient(jnp.median(others)), 1e-30, 1e30)


def squared_distances(features: Float[Array, "b f"], distance: str) -> Float[Array, "b b"]:
    """Mean or sum over dimensions of (x_n - x_m)^2.

    Up to 16 clips by direct differences, exact also for nearly equal clips. More (frames as
    vertices) by the expansion into inner products of centred features: b^2 f multiplications
    in one matrix product; distances below its rounding error are 0.
    """
    check_choice("distance", distance, DISTANCES)
    direct = len(features) <= LARGEST_DIRECT_BATCH
    squared = _differences(features) if direct else _expansion(features)
    return squared / features.shape[1] if distance == "mean" else squared


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
    mean = jnp.full((1, len(scaled)), 1 / len(scaled))
    centred = scaled - jnp.matmul(mean, scaled, precision="highest")
    products = jnp.matmul(centred, centred.T, precision="highest")
    norms = jnp.diagonal(products)
    total = norms[:, None] + norms[None, :]
    squared = total - 2 * products
    return jnp.where(squared > 1e-6 * total, squared, 0.0) * scale * scale

"""Inner products of all pairs of rows: one matrix product for the value, one for the gradient.

Squares overflow from 1e19 on and vanish below 1e-19. Rows are scaled only where the products say
that they need it: reading a batch of maps once more to find out takes as long as the product.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._common import EPSILON, magnitude

Rows = Float[Array, "b f"]
Square = Float[Array, "b b"]

SAFE = 1e-15, 1e30
"""Squared lengths of rows that need no scale."""


def multiply(first: Array, second: Array) -> Array:
    """The matrix product in full precision on every device."""
    return jnp.matmul(first, second, precision="highest")


def inner_products(first: Float[Array, "n f"], second: Float[Array, "m f"]) -> Float[Array, "n m"]:
    """<x_n, y_m> in full precision, without a transposed copy of the rows for the gradient."""
    over_features = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(first, second, over_features, precision="highest")


@jax.custom_jvp
def gram(rows: Rows) -> tuple[Square, Float[Array, "b 1"]]:
    """P and s with <x_n, x_m> = s_n s_m P_nm, where no entry of P overflows.

    s has no gradient; that of P is exact for rows of any length.
    """
    plain = inner_products(rows, rows)
    lengths = jnp.diagonal(plain)
    safe = jnp.all((lengths > SAFE[0]) & (lengths < SAFE[1]))
    return jax.lax.cond(safe, lambda x, p: (p, jnp.ones_like(x[:, :1])), _scaled, rows, plain)


def _scaled(rows: Rows, plain: Square) -> tuple[Square, Float[Array, "b 1"]]:
    del plain
    scale = magnitude(rows, axis=1)
    rows = rows / scale
    return inner_products(rows, rows), scale


@gram.defjvp
def _gram_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """Both rows of a pair by way of the first: one product for the transpose instead of two."""
    (rows,), (change,) = primals, tangents
    products, scale = gram(rows)
    first = inner_products(change / scale, rows) / scale.T
    return (products, scale), (first + first.T, jnp.zeros_like(scale))


def cosines(rows: Rows) -> Square:
    """<x_n, x_m> / (|x_n| |x_m|), lengths at least 1e-12; 0, with gradient 0, for zero rows."""
    products, scale = gram(rows)
    squared = jnp.diagonal(products)
    empty = squared == 0
    length = jnp.where(empty, 0.0, jnp.sqrt(jnp.where(empty, 1.0, squared)))
    inverse = jnp.where(empty, 0.0, 1 / jnp.maximum(length, EPSILON / scale[:, 0]))
    return products * inverse[:, None] * inverse[None, :]

"""From one loss per example to what was asked for: mean, sum or all of them.

    mean   sum over the examples that count of weight x loss, over how many count
    sum    the same, not divided
    none   weight x loss for every example, 0 for those that do not count

`where` says which examples count (all by default), `weights` multiplies their losses and leaves
the denominator alone. Where no example counts, the mean is 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Mask, Weights

REDUCTIONS = ("mean", "sum", "none")


def reduce(
    losses: Float[Array, "*n"], reduction: str, where: Mask = None, weights: Weights = None
) -> Float[Array, "..."]:
    """`losses` reduced as the module says. All arrays have one shape."""
    if weights is not None:
        losses = losses * weights
    if reduction == "mean":
        return mean(losses, where)
    kept = losses if where is None else jnp.where(where, losses, 0.0)
    return kept if reduction == "none" else jnp.sum(kept)


def mean(
    values: Float[Array, "..."], where: Mask = None, axis: int | tuple[int, ...] | None = None
) -> Float[Array, "..."]:
    """Mean over the entries where `where`, which broadcasts; 0 where there are none."""
    if where is None:
        return jnp.mean(values, axis=axis)
    where = jnp.broadcast_to(where, values.shape)
    count = jnp.sum(where, axis=axis, dtype=values.dtype)
    total = jnp.sum(jnp.where(where, values, 0.0), axis=axis)
    return total / jnp.maximum(count, 1.0)

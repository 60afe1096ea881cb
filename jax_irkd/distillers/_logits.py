"""Divergences of softmax distributions that keep their digits in float32.

Two things cost digits in the textbook forms. KL = sum q (log q - log p) adds terms of the size
of log q / p to reach its square, which fails for similar networks or high temperatures;
`divergence` sums terms that are each of the size of the result. And log(sum exp) rounds
1 + 1e-10 to 1 where a prediction is nearly certain; here the largest entry is left out of the
sum and log1p is taken.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_irkd.distillers._checks import Labels, Number, check_labels, one_hot

# 1 / n! with alternating signs, n = 8 .. 2, highest power first.
SERIES = (1 / 40320, -1 / 5040, 1 / 720, -1 / 120, 1 / 24, -1 / 6, 1 / 2)

FAR = 3e38
"""Below every logit that can win."""

LARGEST = 1e33
"""Bound of |z| / temperature relative to the top: finite for every finite logit."""


class Softmax(NamedTuple):
    """softmax(z / temperature) as r = (z - top) / temperature and log sum exp(r)."""

    relative: Float[Array, "*b k"]
    top: Float[Array, "*b 1"]
    log_sum: Float[Array, "*b 1"]

    @property
    def log(self) -> Float[Array, "*b k"]:
        """The log-probabilities."""
        return self.relative - self.log_sum


def softmax(
    logits: Float[Array, "*b k"], temperature: Number = 1.0, mask: Bool[Array, "*b k"] | None = None
) -> Softmax:
    """The softmax over the entries in `mask`; elsewhere `relative` is 0.

    The difference to the top comes before the division, which keeps the digits at |z| = 1e4.
    """
    kept = jnp.ones(logits.shape, bool) if mask is None else mask
    position = jnp.argmax(jnp.where(kept, logits, -FAR), axis=-1, keepdims=True)
    is_top = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == position
    top = jnp.sum(jnp.where(is_top, logits, 0.0), axis=-1, keepdims=True)
    below = kept & ~is_top
    relative = jnp.where(below, jnp.maximum((logits - top) / temperature, -LARGEST), 0.0)
    others = jnp.sum(jnp.where(below, jnp.exp(relative), 0.0), axis=-1, keepdims=True)
    return Softmax(relative, top, jnp.log1p(others))


def divergence(
    teacher: Softmax, student: Softmax, mask: Bool[Array, "*b k"] | None = None
) -> Float[Array, "*b"]:
    """KL(teacher || student) per row, over the entries in `mask`."""
    ratio = (teacher.relative - student.relative) - (teacher.log_sum - student.log_sum)
    terms = _divergence_terms(teacher.log, student.log, ratio)
    return jnp.sum(terms if mask is None else jnp.where(mask, terms, 0.0), axis=-1)


def binary_divergence(
    teacher: Float[Array, "*b"], student: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """KL between two Bernoulli distributions given by their log odds."""
    gap = teacher - student
    near = jnp.abs(gap) < 1
    small = jnp.where(near, gap, 0.0)
    total = jnp.zeros_like(gap)
    for sign in (1, -1):
        log_q, log_p = jax.nn.log_sigmoid(sign * teacher), jax.nn.log_sigmoid(sign * student)
        # log q - log p = log(1 + (1 - q)(e^gap - 1)), without a difference of rounded numbers.
        close = jnp.log1p(jax.nn.sigmoid(-sign * teacher) * jnp.expm1(sign * small))
        total += _divergence_terms(log_q, log_p, jnp.where(near, close, log_q - log_p))
    return total


def cross_entropy(logits: Float[Array, "*b k"], labels: Labels) -> Float[Array, ""]:
    """Mean over the batch of -log softmax(z)_y; a label that is no class counts as 0."""
    labels = check_labels("labels", labels, logits.shape[:-1], logits.shape[-1])
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    chosen = one_hot(labels, logits.shape[-1], logits.dtype)
    return -jnp.mean(jnp.sum(chosen * softmax(logits).log, axis=-1))


def _divergence_terms(
    log_q: Float[Array, "*n"], log_p: Float[Array, "*n"], ratio: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """q log(q / p) + p - q, which sums to KL(q || p) and is never negative.

    With d = log q / p it is q (d + e^-d - 1) = q d^2 (1/2 - d/6 + d^2/24 - ...), a series
    where d is small.
    """
    near = jnp.abs(ratio) < 0.5
    d = jnp.where(near, ratio, 0.0)
    series = functools.reduce(lambda total, factor: total * d + factor, SERIES) * d**2
    q = jnp.exp(log_q)
    return jnp.where(near, q * series, q * ratio + jnp.exp(log_p) - q)

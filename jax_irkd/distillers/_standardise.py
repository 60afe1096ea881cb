"""Logit standardisation (Sun et al., CVPR 2024, arXiv:2403.01427): an option of `st` and `dkd`."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._common import magnitude

SMALLEST = 1e-7
"""Added to the deviation, as in the authors' code."""


def standardised(logits: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
    """(z - mean) / (deviation + 1e-7) over the classes: the student need not match the scale.

    The deviation is that of the authors' code, with k - 1 in the denominator. Equal logits become
    0 and get no gradient.
    """
    centred = logits - jnp.mean(logits, axis=-1, keepdims=True)
    scale = magnitude(centred, axis=-1)
    x = centred / scale  # squares of the rest fit float32
    squares = jnp.sum(x**2, axis=-1, keepdims=True)
    equal = squares == 0
    deviation = jnp.sqrt(jnp.where(equal, 1.0, squares) / max(logits.shape[-1] - 1, 1))
    return jnp.where(equal, 0.0, x / (deviation + SMALLEST / scale))

"""Networks with fewer bits: bfloat16 arithmetic, and int8 weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8, PyTree

PRECISIONS = ("float32", "bf16", "int8")


class Quantised(NamedTuple):
    """A kernel as whole numbers: values * scale, one scale per output channel (the last axis)."""

    values: Int8[Array, "*s d"]
    scale: Float[Array, " d"]


def quantise(params: PyTree) -> PyTree:
    """Every kernel symmetrically in int8: q = round(w / s), s = max |w| / 127 per output channel.

    Biases and norms stay float32. The error of a weight is at most s / 2.
    """
    return jax.tree.map(_quantise_leaf, params)


def _quantise_leaf(leaf: Array) -> Array | Quantised:
    if leaf.ndim < 2:
        return leaf
    kernel = np.asarray(leaf, np.float32)
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = np.where(largest > 0, largest, 1.0).astype(np.float32) / 127
    return Quantised(jnp.asarray(np.round(kernel / scale), jnp.int8), jnp.asarray(scale))


def dequantise(params: PyTree) -> PyTree:
    """float32 kernels from `quantise`d ones, inside a program that is given the int8 ones."""

    def restore(leaf):
        if not isinstance(leaf, Quantised):
            return leaf
        return leaf.values.astype(jnp.float32) * leaf.scale

    return jax.tree.map(restore, params, is_leaf=lambda leaf: isinstance(leaf, Quantised))


def to_bfloat16(params: PyTree) -> PyTree:
    """Kernels rounded to bfloat16; biases and norms stay float32."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim >= 2 else x, params)


def with_precision(model: Any, variables: PyTree, precision: str) -> tuple[Any, PyTree]:
    """The model and the variables to store. Raises ValueError for an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose one of {list(PRECISIONS)}")
    dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
    if hasattr(model, "dtype"):
        model = model.clone(dtype=dtype)
    change = {"float32": lambda params: params, "bf16": to_bfloat16, "int8": quantise}[precision]
    return model, {**variables, "params": change(variables["params"])}

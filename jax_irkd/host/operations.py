"""Floating point operations of a program, counted as it is written."""

import math
from collections.abc import Callable

import jax


def operations(function: Callable, *arguments) -> float:
    """Those of one call of the jitted `function` with arrays (or shapes) like `arguments`.

    Counted on the program for the processor: of one for a GPU JAX counts none before it is
    compiled, and afterwards none of the libraries' convolutions. NaN where JAX may not use the
    processor (JAX_PLATFORMS=cuda).
    """
    try:
        processor = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return math.nan
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    with jax.default_device(processor):
        found = function.lower(*shapes).cost_analysis() or {}
    return float(found.get("flops", math.nan))

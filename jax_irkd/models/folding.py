"""Batch norms folded into the convolutions before them: a frozen network without them."""

import functools
import sys
from typing import Any

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from jax_irkd.models.resnet import EPSILON
from jax_irkd.models.tsn import TSN


def without_norms(model: nn.Module | None, variables: Any) -> tuple[nn.Module | None, Any]:
    """A frozen TSN in its lightest form: batch norms folded on the host, quick convolutions.

    Other models come back as they are, for only TSN's layer names say which convolution a norm
    follows, and so does a TSN without norms. Of variables that are shapes only, shapes come back.
    Kernels and biases of maps come in the type of the maps: else every call would convert them.
    """
    if not isinstance(model, TSN) or not model.norm:
        return model, variables
    light = functools.partial(_light, dtype=model.dtype)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(variables)):
        folded = jax.eval_shape(light, variables)
    else:
        folded = light(jax.device_get(variables))
    return model.clone(norm=False, winograd=sys.maxsize), folded


def _light(variables: dict[str, Any], dtype: DTypeLike) -> dict[str, Any]:
    params = fold_batch_norm(variables)["params"]
    maps = jax.tree.map(lambda leaf: leaf.astype(dtype), params["backbone"])
    return {"params": params | {"backbone": maps}}


def fold_batch_norm(variables: dict[str, Any]) -> dict[str, Any]:
    """Variables for the same network built with `norm=False`.

    With running mean m and variance v, scale g and shift s,

        g (k * x - m) / sqrt(v + eps) + s = (a k) * x + (s - a m),  a = g / sqrt(v + eps)

    so every kernel takes the factor a per output channel, and the convolution a bias.
    Outputs agree to rounding in inference; there is nothing left to train a norm with.

    Raises ValueError when there is no batch norm to fold.
    """
    if "batch_stats" not in variables:
        raise ValueError("no batch_stats to fold: the variables are of a network without norms")
    return {"params": _fold(variables["params"], variables["batch_stats"])}


def _fold(params: dict[str, Any], statistics: dict[str, Any]) -> dict[str, Any]:
    folded = {}
    for name, child in params.items():
        if name in statistics and "mean" in statistics[name]:
            continue
        norm = _norm_of(name)
        if norm != name and norm in params:
            folded[name] = _scale(child, params[norm], statistics[norm], shift=name != "offset")
        else:
            folded[name] = _fold(child, statistics[name]) if name in statistics else child
    return folded


def _norm_of(name: str) -> str:
    """The norm after a convolution: conv1 has norm1, the stem's conv and offset share one."""
    if name == "projection":
        return "projection_norm"
    return "norm" if name == "offset" else name.replace("conv", "norm")


def _scale(
    conv: dict[str, Any], norm: dict[str, Any], statistics: dict[str, Any], *, shift: bool
) -> dict[str, Any]:
    # A power, not jnp.sqrt: NumPy arrays stay on the host, where nothing has to be compiled.
    factor = norm["scale"] / (statistics["var"] + EPSILON) ** 0.5
    scaled = {"kernel": conv["kernel"] * factor}  # output channels come last in every kernel
    if shift:
        scaled["bias"] = norm["bias"] - statistics["mean"] * factor
    return scaled

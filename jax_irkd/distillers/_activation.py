"""MGCAM's activation maps: what equations (4) and (5) compare of every stage."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Mask, check_choice
from jax_irkd.distillers._common import unit_rows
from jax_irkd.distillers.at import attention_vector

ACTIVATIONS = ("mean", "mean_sq", "l2", "minmax", "conv1x1")
NORMALISATIONS = ("none", "l2", "minmax")


def activation_map(
    maps: Float[Array, "b h w c"],
    activation: str = "mean",
    normalisation: str = "none",
    where: Mask = None,
) -> Float[Array, "b h w 1"]:
    """One channel per position: the A_i of equations (4) and (5)."""
    check_activation(activation, normalisation, "mgcam_loss: ")
    if activation == "conv1x1":
        raise ValueError(
            "mgcam_loss: activation 'conv1x1' is learned; use the Distiller, not the pure loss"
        )
    if activation == "l2":
        return attention_vector(maps, 2).reshape(*maps.shape[:3], 1)
    values = maps**2 if activation == "mean_sq" else maps
    values = jnp.mean(values, axis=-1, keepdims=True)
    return _normalised(values, "minmax" if activation == "minmax" else normalisation, where)


def check_activation(activation: str, normalisation: str, loss: str = "") -> None:
    """Raises ValueError unless they are known and fit each other."""
    check_choice(f"{loss}activation", activation, ACTIVATIONS)
    check_choice(f"{loss}normalisation", normalisation, NORMALISATIONS)
    if activation in ("l2", "minmax", "conv1x1") and normalisation != "none":
        raise ValueError(
            f"{loss}activation {activation!r} takes no normalisation of its own; "
            f"leave normalisation at 'none', got {normalisation!r}"
        )


def _normalised(
    maps: Float[Array, "b h w 1"], normalisation: str, where: Mask
) -> Float[Array, "b h w 1"]:
    if normalisation == "l2":
        return unit_rows(maps.reshape(maps.shape[0], -1)).reshape(maps.shape)
    if normalisation == "minmax":
        counted = True if where is None else where[:, None, None, None]
        largest = float(jnp.finfo(maps.dtype).max)
        low = jnp.min(maps, where=counted, initial=largest)
        high = jnp.max(maps, where=counted, initial=-largest)
        flat = high <= low  # not where one is NaN
        return jnp.where(flat, 0.0, maps - low) / jnp.where(flat, 1.0, high - low)
    return maps

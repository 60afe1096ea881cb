"""Infrared video action recognition that learns from RGB, in JAX and Flax.

The pure losses are re-exported here and imported on first use, so that
`from jax_irkd import dkd_loss` loads jax and flax and nothing heavier.
"""

import importlib

_LOSSES = {
    "st_loss": "st",
    "dkd_loss": "dkd",
    "at_loss": "at",
    "sp_loss": "sp",
    "cc_loss": "cc",
    "rkd_loss": "rkd",
    "ccskd_channel_loss": "ccskd",
    "selective_st_loss": "ccskd",
    "mgcam_loss": "mgcam",
}

__all__ = sorted(_LOSSES)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name in _LOSSES:
        return getattr(importlib.import_module(f"jax_irkd.distillers.{_LOSSES[name]}"), name)
    raise AttributeError(f"module 'jax_irkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LOSSES])

"""Infrared video action recognition that learns from RGB, in JAX and Flax.

The pure losses and the `Recognizer` are re-exported here and imported on first use, so that
`from jax_irkd import dkd_loss` loads jax and flax and nothing heavier.
"""

import importlib

# Public name: module of this package.
_DOORS = {
    "st_loss": "distillers.st",
    "dkd_loss": "distillers.dkd",
    "at_loss": "distillers.at",
    "sp_loss": "distillers.sp",
    "cc_loss": "distillers.cc",
    "rkd_loss": "distillers.rkd",
    "ccskd_channel_loss": "distillers.ccskd",
    "selective_st_loss": "distillers.ccskd",
    "mgcam_loss": "distillers.mgcam",
    "fitnet_loss": "distillers.fitnet",
    "Recognizer": "deployment.recognizer",
}

__all__ = sorted(_DOORS)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name in _DOORS:
        return getattr(importlib.import_module(f"jax_irkd.{_DOORS[name]}"), name)
    raise AttributeError(f"module 'jax_irkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_DOORS])

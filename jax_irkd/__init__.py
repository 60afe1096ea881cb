"""Infrared video action recognition that learns from RGB, in JAX and Flax.

The pure losses and the `Recognizer` are re-exported here and imported on first use, so that
`from jax_irkd import dkd_loss` loads jax and flax and nothing heavier.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers, which do not see `__getattr__`
    from jax_irkd.deployment.recognizer import Recognizer as Recognizer
    from jax_irkd.distillers.at import at_loss as at_loss
    from jax_irkd.distillers.cc import cc_loss as cc_loss
    from jax_irkd.distillers.ccskd import ccskd_channel_loss as ccskd_channel_loss
    from jax_irkd.distillers.ccskd import selective_st_loss as selective_st_loss
    from jax_irkd.distillers.crd import crd_loss as crd_loss
    from jax_irkd.distillers.dist import dist_loss as dist_loss
    from jax_irkd.distillers.dkd import dkd_loss as dkd_loss
    from jax_irkd.distillers.fitnet import fitnet_loss as fitnet_loss
    from jax_irkd.distillers.fsp import fsp_loss as fsp_loss
    from jax_irkd.distillers.ft import ft_loss as ft_loss
    from jax_irkd.distillers.mgcam import mgcam_loss as mgcam_loss
    from jax_irkd.distillers.mlkd import mlkd_loss as mlkd_loss
    from jax_irkd.distillers.nst import nst_loss as nst_loss
    from jax_irkd.distillers.ofd import ofd_loss as ofd_loss
    from jax_irkd.distillers.pkt import pkt_loss as pkt_loss
    from jax_irkd.distillers.reviewkd import reviewkd_loss as reviewkd_loss
    from jax_irkd.distillers.rkd import rkd_angle_loss as rkd_angle_loss
    from jax_irkd.distillers.rkd import rkd_distance_loss as rkd_distance_loss
    from jax_irkd.distillers.rkd import rkd_loss as rkd_loss
    from jax_irkd.distillers.simkd import simkd_loss as simkd_loss
    from jax_irkd.distillers.sp import sp_loss as sp_loss
    from jax_irkd.distillers.st import st_loss as st_loss
    from jax_irkd.distillers.vid import vid_loss as vid_loss

# A wheel has `configs` and `tfds_builders` inside this package, a checkout beside it.
if not os.path.isdir(os.path.join(__path__[0], "configs")):
    __path__.append(os.path.dirname(__path__[0]))

# Public name: module of this package.
_DOORS = {
    "st_loss": "distillers.st",
    "dkd_loss": "distillers.dkd",
    "at_loss": "distillers.at",
    "sp_loss": "distillers.sp",
    "cc_loss": "distillers.cc",
    "rkd_loss": "distillers.rkd",
    "rkd_distance_loss": "distillers.rkd",
    "rkd_angle_loss": "distillers.rkd",
    "ccskd_channel_loss": "distillers.ccskd",
    "selective_st_loss": "distillers.ccskd",
    "mgcam_loss": "distillers.mgcam",
    "fitnet_loss": "distillers.fitnet",
    "ft_loss": "distillers.ft",
    "pkt_loss": "distillers.pkt",
    "vid_loss": "distillers.vid",
    "nst_loss": "distillers.nst",
    "fsp_loss": "distillers.fsp",
    "ofd_loss": "distillers.ofd",
    "reviewkd_loss": "distillers.reviewkd",
    "crd_loss": "distillers.crd",
    "dist_loss": "distillers.dist",
    "mlkd_loss": "distillers.mlkd",
    "simkd_loss": "distillers.simkd",
    "Recognizer": "deployment.recognizer",
}

__all__ = sorted(set(_DOORS) - {"Recognizer"})  # which loads OpenCV
__version__ = "0.2.0"


if not TYPE_CHECKING:  # with it a checker would let every misspelt name pass

    def __getattr__(name: str) -> Any:
        if name in _DOORS:
            return getattr(importlib.import_module(f"jax_irkd.{_DOORS[name]}"), name)
        raise AttributeError(f"module 'jax_irkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_DOORS])

"""What a stream's network sees: pictures of the flow, at several moments of a clip."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from jax_irkd.errors import UserError
from jax_irkd.tstdd import flow as flows
from jax_irkd.tstdd.network import LAYERS

STREAMS = ("local", "history", "difference")


class LabelledClip(NamedTuple):
    """A clip whose flow is kept."""

    clip_id: str
    label: int


def check(section: ConfigDict) -> None:
    """Raises UserError for fields of tstdd that do not fit each other (`fields` has the ranges)."""
    if section.resolution > min(section.size):
        raise UserError(
            f"tstdd.resolution is {section.resolution}; it must be at most the shorter side of "
            f"tstdd.size, {tuple(section.size)}"
        )
    unknown = [layer for layer in section.layers if layer not in LAYERS]
    if unknown or not section.layers:
        raise UserError(f"unknown tstdd.layers {unknown}; choose from {list(LAYERS)}")


def channels(stream: str, stack: int) -> int:
    """Channels of a stream's pictures."""
    return {"local": 2 * stack, "history": 1, "difference": 3}[stream]


def moments(fields: int, stack: int, stride: int) -> list[int]:
    """First fields of the stacks of a clip, every `stride` fields; at least one."""
    return list(range(0, max(fields - stack, 0) + 1, stride))


def make(
    stream: str, stored: UInt8[np.ndarray, "u h w 2"], section: ConfigDict, starts: Sequence[int]
) -> Float[np.ndarray, "p h w c"]:
    """Pictures of a stream at `starts`; `difference` has one for the whole clip, whatever these.

    A stack covers `section.stack` fields from its start; the history is the one at its end.
    """
    flow = flows.restore(stored)
    if stream == "difference":
        return flows.stacked_difference(flow)[None].astype(np.float32)
    if stream == "local":
        return np.stack([flows.stacked_flow(flow, start, section.stack) for start in starts])
    history = flows.motion_history(flow, section.decay)
    ends = np.minimum(np.asarray(starts) + section.stack, len(flow)) - 1
    return history[ends][..., None]


def crop(
    pictures: Float[np.ndarray, "p h w c"], side: int, place: tuple[float, float] = (0.5, 0.5)
) -> Float[np.ndarray, "p s s c"]:
    """A square of `side`; `place` says how much of what is left over lies above and to the left."""
    height, width = pictures.shape[1:3]
    top, left = (round(p * (n - side)) for p, n in zip(place, (height, width)))
    return pictures[:, top : top + side, left : left + side]


def mirror(stream: str, pictures: Float[np.ndarray, "p h w c"]) -> Float[np.ndarray, "p h w c"]:
    """Left and right exchanged; flow to the right then goes to the left."""
    turned = pictures[:, :, ::-1].copy()
    if stream == "local":
        turned[..., 0::2] *= -1
    return turned


def draw(
    stream: str, stored: UInt8[np.ndarray, "u h w 2"], section: ConfigDict, seed: Sequence[int]
) -> Float[np.ndarray, "s s c"]:
    """One training picture: a random moment, place and side, decided by `seed` alone."""
    rng = np.random.default_rng(seed)
    start = int(rng.integers(max(len(stored) - section.stack, 0) + 1))
    picture = make(stream, stored, section, [start])
    picture = crop(picture, section.resolution, tuple(rng.random(2)))
    return (mirror(stream, picture) if rng.random() < 0.5 else picture)[0]

"""Paired augmentation on the device: one spatial draw serves both modalities.

Everything is drawn per clip from a key, so the result depends neither on the batch a clip is in
nor on the number of devices. Frames arrive as uint8 and leave normalised.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8

from jax_irkd.data import mixing
from jax_irkd.data.pixels import INFRARED_MEAN, INFRARED_STD, RGB_MEAN, RGB_STD

# What is drawn from a clip's key beside its crop and its colours, which `split` gives: keys that
# fold in 0 and 1. Dropout is 4.
ERASING, MIXING = 2, 3
_OFFSETS = np.array([0.0, 0.25, 0.5, 0.75, 1.0], np.float32)
# RGB to luma and two colour coordinates (NTSC, FCC 1953), and back.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)


class Crop(NamedTuple):
    """A crop in units that fit any modality.

    `size` (height, width) is a share of the frame's shorter side, `offset` (down, right) a share
    of what the crop leaves over, `flip` mirrors left and right.
    """

    size: Float[Array, " 2"]
    offset: Float[Array, " 2"]
    flip: Bool[Array, ""]


def centre_crop(scale: float) -> Crop:
    """The crop of the test protocol: a centred square of `scale` times the shorter side."""
    return Crop(jnp.full(2, scale), jnp.full(2, 0.5), jnp.array(False))


CROPS = (1, 3, 5, 10)


def evaluation_crops(count: int, scale: float, wide: bool = True) -> Crop:
    """The crops of a test with `count` of them (of `CROPS`), stacked, each of size `scale`.

    1 is the centre; 3 are the two ends of the longer side and its middle, the longer side being the
    width if `wide`; 5 the corners and the centre; 10 these and their mirror images (TSN's).
    """
    if count not in CROPS:
        raise ValueError(f"{count} crops; choose one of {list(CROPS)}")
    centre, ends = [(0.5, 0.5)], ((0.5, 0.0), (0.5, 1.0)) if wide else ((0.0, 0.5), (1.0, 0.5))
    corners = [(down, right) for down in (0.0, 1.0) for right in (0.0, 1.0)]
    offsets = {1: centre, 3: [*centre, *ends]}.get(count, [*centre, *corners])
    flips = [False] * len(offsets) + [True] * (count - len(offsets))
    offsets = offsets * (count // len(offsets))
    return Crop(jnp.full((count, 2), scale), jnp.array(offsets), jnp.array(flips))


def draw_crop(key: Key[Array, ""], scales: Sequence[float], flip: bool) -> Crop:
    """TSN's multi-scale crop: sides from `scales` at most one apart, position on a 5 x 5 grid."""
    scale_key, shift_key, offset_key, flip_key = jax.random.split(key, 4)
    row = jax.random.randint(scale_key, (), 0, len(scales))
    shift = jax.random.randint(shift_key, (), -1, 2)
    column = jnp.clip(row + shift, 0, len(scales) - 1)
    sizes = jnp.asarray(scales, jnp.float32)
    offset = jax.random.choice(offset_key, jnp.asarray(_OFFSETS), (2,))
    flipped = jax.random.bernoulli(flip_key) & flip
    return Crop(jnp.stack([sizes[row], sizes[column]]), offset, flipped)


def crop_frames(
    frames: Float[Array, "t h w c"], crop: Crop, resolution: int
) -> Float[Array, "t r r c"]:
    """`crop` of every frame, resized to `resolution` with antialiased bilinear weights.

    Two matrix products; on CUDA a weighted sum of the few pixels that have a weight, which one
    kernel computes from the frames as they are: the products would transpose them all, twice.
    """
    height, width = frames.shape[1:3]
    side = crop.size * min(height, width)
    start = crop.offset * (jnp.array([height, width]) - side)
    rows = resize_weights(height, start[0], side[0], resolution)
    columns = resize_weights(width, start[1], side[1], resolution, flip=crop.flip)

    def multiply(frames, rows, columns):
        return jnp.einsum("thwc,hr,wq->trqc", frames, rows, columns)

    reach = math.ceil(2 * max(min(height, width) / resolution, 1.0)) + 1
    gather = functools.partial(_gather, taps=reach)
    return jax.lax.platform_dependent(frames, rows, columns, cuda=gather, default=multiply)


def _gather(
    frames: Float[Array, "t h w c"],
    rows: Float[Array, "h r"],
    columns: Float[Array, "w q"],
    taps: int,
) -> Float[Array, "t r q c"]:
    """The sum of the products, of the at most `taps` places in a row with a weight."""
    for axis, weights in ((1, rows), (2, columns)):
        length = weights.shape[0]
        first = jnp.argmax(weights > 0, axis=0)
        places = jnp.minimum(first + jnp.arange(min(taps, length))[:, None], length - 1)
        shares = jnp.take_along_axis(weights, places, axis=0)
        shares = jnp.where(first + jnp.arange(len(places))[:, None] < length, shares, 0.0)
        shares = jnp.expand_dims(shares, [1, 3, 4] if axis == 1 else [1, 2, 4])
        frames = sum(
            share * jnp.take(frames, place, axis=axis) for place, share in zip(places, shares)
        )
    return frames


def resize_weights(
    length: int,
    start: Float[Array, ""],
    side: Float[Array, ""],
    resolution: int,
    flip: Bool[Array, ""] | bool = False,
) -> Float[Array, "n r"]:
    """Triangle-kernel weights that resize the span [start, start + side) of `length` pixels."""
    shares = (jnp.arange(resolution) + 0.5) / resolution
    centres = start + jnp.where(flip, 1 - shares, shares) * side - 0.5
    support = jnp.maximum(side / resolution, 1.0)
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(jnp.arange(length)[:, None] - centres) / support)
    return weights / weights.sum(0)


def jitter_colours(
    frames: Float[Array, "t h w 3"],
    key: Key[Array, ""],
    strength: float,
    hue: float = 0.0,
    grey: float = 0.0,
) -> Float[Array, "t h w 3"]:
    """Brightness, contrast, saturation and hue, and now and then no colour at all.

    The first three are scaled by a factor in [1 - strength, 1 + strength]; the hue turns by at
    most `hue` of the colour circle either way (0.5: any hue), as a rotation about the grey axis of
    YIQ, which keeps the luma; with probability `grey` only the luma is left.
    One draw for all frames of a clip; values stay in [0, 1].
    """
    brightness, contrast, saturation = jax.random.uniform(
        key, (3,), minval=1 - strength, maxval=1 + strength
    )
    turn_key, grey_key = jax.random.split(jax.random.fold_in(key, 1))
    angle = 2 * jnp.pi * hue * jax.random.uniform(turn_key, minval=-1.0)
    colourless = jax.random.bernoulli(grey_key, grey)
    frames = frames * brightness
    frames = frames.mean() + contrast * (frames - frames.mean())
    change = colour_matrix(jnp.where(colourless, 0.0, saturation), angle)
    mixed = [sum(frames[..., c] * change[d, c] for c in range(3)) for d in range(3)]
    return jnp.clip(jnp.stack(mixed, axis=-1), 0.0, 1.0)


def colour_matrix(saturation: Float[Array, ""], angle: Float[Array, ""]) -> Float[Array, "3 3"]:
    """Scales the saturation of RGB colours and turns their hue by `angle` radians.

    In YIQ a grey's two colour coordinates are 0, so both are one change of these two.
    """
    cos, sin = saturation * jnp.cos(angle), saturation * jnp.sin(angle)
    row = jnp.stack
    turn = row([row([cos, -sin]), row([sin, cos])])
    luma, colour = _YIQ[:1], _YIQ[1:]
    return jnp.asarray(_RGB[:, :1] @ luma) + _RGB[:, 1:] @ turn @ colour


def normalise(frames: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """(x - mean) / std for values in [0, 1]: ImageNet's for three channels, infrared's for one."""
    infrared = frames.shape[-1] == 1
    mean, std = (INFRARED_MEAN, INFRARED_STD) if infrared else (RGB_MEAN, RGB_STD)
    return (frames - jnp.asarray(mean)) / jnp.asarray(std)


def prepare_clip(
    frames: UInt8[Array, "t h w c"],
    crop: Crop,
    resolution: int,
    jitter: tuple[Key[Array, ""], float, float, float] | None = None,
) -> Float[Array, "t r r c"]:
    """uint8 frames to what a network reads: cropped, resized, jittered (RGB only), normalised."""
    cropped = crop_frames(frames.astype(jnp.float32) / 255.0, crop, resolution)
    if jitter is not None and cropped.shape[-1] == 3:
        cropped = jitter_colours(cropped, *jitter)
    return normalise(cropped)


def prepare_training(
    clips: dict[str, UInt8[Array, "b t _ _ _"]],
    keys: Key[Array, " b"],
    *,
    resolution: int,
    scales: Sequence[float],
    flip: bool,
    colour_jitter: float,
    hue_jitter: float = 0.0,
    grey_share: float = 0.0,
    erasing: float = 0.0,
) -> dict[str, Float[Array, "b t r r _"]]:
    """Every modality of a training batch under the same crop and flip, clip by clip.

    `jitter_colours` explains the colours and `grey_share`; they change RGB frames only. With
    probability `erasing` a rectangle of a clip becomes 0, the mean (`mixing.draw_erased`).
    """
    colours = (colour_jitter, hue_jitter, grey_share)

    def one(key, clip):
        crop_key, jitter_key = jax.random.split(key)
        crop = draw_crop(crop_key, scales, flip)
        jitter = (jitter_key, *colours) if any(colours) else None
        made = {name: prepare_clip(x, crop, resolution, jitter) for name, x in clip.items()}
        if not erasing:
            return made
        erased = mixing.draw_erased(jax.random.fold_in(key, ERASING), erasing, resolution)
        return {name: jnp.where(erased[:, :, None], 0.0, x) for name, x in made.items()}

    return jax.vmap(one)(keys, clips)


def prepare_evaluation(
    clips: dict[str, UInt8[Array, "b t _ _ _"]],
    *,
    resolution: int,
    scale: float,
    crop: Crop | None = None,
) -> dict[str, Float[Array, "b t r r _"]]:
    """Every modality of a test batch under `crop`, the centre crop if there is none."""
    chosen = centre_crop(scale) if crop is None else crop
    one = jax.vmap(lambda frames: prepare_clip(frames, chosen, resolution))
    return {name: one(frames) for name, frames in clips.items()}

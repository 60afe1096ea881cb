"""Erasing and mixing of prepared clips: random erasing, mixup and CutMix.

All frames of a clip and both of its modalities get the same rectangle or share, so that a teacher
and its student still look at one scene.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

AREA, RATIO = (0.02, 1 / 3), (0.3, 3.3)  # of what is erased (Zhong et al., AAAI 2020)


class Mixed(NamedTuple):
    """Clips that each hold `shares` of their own and the rest of the clip at `partners`."""

    clips: dict[str, Float[Array, "b t r r _"]]
    shares: Float[Array, " b"]
    partners: Int[Array, " b"]


def box(
    centre: Float[Array, " 2"], size: Float[Array, " 2"], resolution: int
) -> Bool[Array, "r r"]:
    """The pixels whose centres lie in a rectangle; `centre` and `size` are shares of the frame."""
    places = (jnp.arange(resolution) + 0.5) / resolution
    inside = jnp.abs(places[:, None] - centre) < size / 2
    return inside[:, 0, None] & inside[None, :, 1]


def draw_erased(key: Key[Array, ""], probability: float, resolution: int) -> Bool[Array, "r r"]:
    """The rectangle that random erasing takes away, or nothing.

    Its share of the frame is uniform in `AREA`, the ratio of its sides log-uniform in `RATIO`; a
    side longer than the frame is as long as the frame. It lies anywhere inside.
    """
    happens_key, area_key, ratio_key, place_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, minval=AREA[0], maxval=AREA[1])
    low, high = jnp.log(RATIO[0]), jnp.log(RATIO[1])
    ratio = jnp.exp(jax.random.uniform(ratio_key, minval=low, maxval=high))
    size = jnp.minimum(jnp.sqrt(area * jnp.stack([ratio, 1 / ratio])), 1.0)
    centre = size / 2 + jax.random.uniform(place_key, (2,)) * (1 - size)
    return box(centre, size, resolution) & jax.random.bernoulli(happens_key, probability)


def mix(
    clips: dict[str, Float[Array, "b t r r _"]],
    keys: Key[Array, " b"],
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> Mixed:
    """Every clip mixed with its neighbour: clips 0 and 1, 2 and 3, …

    x_i' = m_i x_i + (1 - m_i) x_j, where j is the neighbour of i. With mixup m_i is a number drawn
    from Beta(`mixup`, `mixup`) (Zhang et al., ICLR 2018). With CutMix it is 0 in a square and 1
    around it (Yun et al., ICCV 2019): the square has the share 1 - Beta(`cutmix`, `cutmix`) of the
    frame and lies anywhere; what is beyond the border is cut off. With both, each clip gets one of
    them with probability 1/2. `shares` are the means of m_i.

    The draws are a clip's own, and neighbours stay on one device where it has an even number of
    clips: the result does not depend on the number of devices. Raises ValueError for an odd number.
    """
    count, resolution = keys.shape[0], next(iter(clips.values())).shape[2]
    if count % 2:
        raise ValueError(f"{count} clips cannot be mixed in twos")
    masks = jax.vmap(lambda key: _draw_kept(key, mixup, cutmix, resolution))(keys)
    partners = jnp.arange(count) ^ 1
    weights = masks[:, None, :, :, None]
    mixed = {name: weights * x + (1 - weights) * x[partners] for name, x in clips.items()}
    return Mixed(mixed, masks.mean((1, 2)), partners)


def _draw_kept(
    key: Key[Array, ""], mixup: float, cutmix: float, resolution: int
) -> Float[Array, "r r"]:
    """How much of each pixel is the clip's own."""
    which_key, share_key, cut_key, place_key = jax.random.split(key, 4)
    blended = cut = jnp.ones((resolution, resolution))
    if mixup:
        blended = blended * jax.random.beta(share_key, mixup, mixup)
    if cutmix:
        side = jnp.sqrt(1 - jax.random.beta(cut_key, cutmix, cutmix))
        centre = jax.random.uniform(place_key, (2,))
        cut = 1.0 - box(centre, jnp.stack([side, side]), resolution)
    if mixup and cutmix:
        return jnp.where(jax.random.bernoulli(which_key), blended, cut)
    return blended if mixup else cut

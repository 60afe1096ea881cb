"""Temporal shift (TSM; Lin et al., ICCV 2019, arXiv:1811.08383): segments see their neighbours.

A convolution over frames knows nothing of their order. Let a share of its input channels come from
the segment before and as many from the one after, and it sees three moments at once; with one
shift a block, later blocks see further. There is nothing to learn and nothing to multiply.

What looks at the past only can be computed frame by frame, as they come: `shift_from_past`.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Shaped

KINDS = ("none", "shift", "causal")
SHARE = 0.125  # of the channels each way, as in TSM's code
PAST = "past"  # the collection of what a stream's next frame needs of the one before


def check_temporal(kind: str, share: float, channels: int) -> None:
    """Raises ValueError for an unknown kind and for a share that cannot be shifted.

    `channels` is the smallest number of them that a shift will get.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown temporal {kind!r}; choose one of {list(KINDS)}")
    if kind == "none":
        return
    most = 0.5 if kind == "shift" else 1.0
    if not 0 < share <= most:
        raise ValueError(
            f"temporal_share is {share}; with temporal={kind!r} it must be above 0 and at most "
            f"{most}"
        )
    if shifted_channels(channels, share) < 1:
        raise ValueError(
            f"temporal_share {share} of {channels} channels is less than one channel; the share "
            f"must be {1 / channels:.4g} or more, or the network wider"
        )


def shifted_channels(channels: int, share: float) -> int:
    """floor(share * channels): how many come from each neighbour."""
    return int(share * channels + 1e-6)  # A third of 3 is 1, whatever 1/3 is in binary.


def temporal_shift(
    maps: Shaped[Array, "n h w c"], *, segments: int, kind: str = "shift", share: float = SHARE
) -> Shaped[Array, "n h w c"]:
    """Maps of clips' frames, some of their channels taken from the neighbouring segments.

    Frame t of a clip gets, with k = floor(share c),

        shift:  x[t + 1, :k], x[t - 1, k:2k], x[t, 2k:]
        causal: x[t - 1, :k], x[t, k:]
        none:   x[t]

    and zeros in place of segments before the first and after the last: a clip of one segment has
    zeros there only. n counts the frames of whole clips, `segments` of each, one clip after the
    other; clips do not mix. In TSM's code the share is 1 / fold_div. Gradients flow to `maps`.

    Raises ValueError for an unknown kind or an impossible share.
    """
    check_temporal(kind, share, maps.shape[-1])
    if kind == "none":
        return maps
    count = shifted_channels(maps.shape[-1], share)
    clips = maps.reshape(-1, segments, *maps.shape[1:])
    ahead = count if kind == "shift" else 0
    parts = [
        _moved(clips[..., :ahead], later=False),
        _moved(clips[..., ahead : ahead + count], later=True),
        clips[..., ahead + count :],
    ]
    # XLA computes a concatenation in one pass over its result, pads and slices within it.
    shifted = jnp.concatenate([part for part in parts if part.shape[-1]], axis=-1)
    return shifted.reshape(maps.shape)


def _moved(clips: Shaped[Array, "b t h w c"], *, later: bool) -> Shaped[Array, "b t h w c"]:
    """Every segment one step later or earlier, zeros in the place that gets free."""
    kept, ends = (clips[:, :-1], (1, 0)) if later else (clips[:, 1:], (0, 1))
    return jnp.pad(kept, ((0, 0), ends, *[(0, 0)] * 3))


def shift_from_past(
    maps: Shaped[Array, "n h w c"], *, share: float = SHARE
) -> Shaped[Array, "n h w c"]:
    """The causal `temporal_shift` of n consecutive frames of one stream, that goes on.

    With k = floor(share c), frame t gets x[t - 1, :k], x[t, k:]. The frame before the first one is
    that of the call before: the collection `PAST` holds its k channels, zeros at the beginning. So
    a stream in parts gives what one clip of all its frames gives. Called inside a module, which is
    to be applied with `mutable=[PAST]`.
    """
    return _Past(share, name="past_shift")(maps)


class _Past(nn.Module):
    share: float

    @nn.compact
    def __call__(self, maps: Shaped[Array, "n h w c"]) -> Shaped[Array, "n h w c"]:
        _, height, width, channels = maps.shape
        count = shifted_channels(channels, self.share)
        shape = (1, height, width, count)
        past = self.variable(PAST, "channels", jnp.zeros, shape, maps.dtype)
        moved = jnp.concatenate([past.value, maps[:-1, ..., :count]])
        if not self.is_initializing():
            past.value = maps[-1:, ..., :count]
        parts = [moved, maps[..., count:]]
        return jnp.concatenate([part for part in parts if part.shape[-1]], axis=-1)

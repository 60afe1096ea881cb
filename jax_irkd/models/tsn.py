"""Temporal segment networks (Wang et al., ECCV 2016, arXiv:1608.00859): clips to logits."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jax_irkd.models.outputs import Outputs
from jax_irkd.models.resnet import ResNet, check_depth, check_frozen
from jax_irkd.models.temporal import (
    PAST,
    SHARE,
    check_temporal,
    shift_from_past,
    temporal_shift,
)


class TSN(nn.Module):
    """A ResNet on every segment, and the mean of the segments' logits.

    logits = mean_t head(dropout(pool(resnet(clips[:, t]))))

    Clips are normalised frames. The head and everything after the last stage are float32
    whatever `dtype` is. Dropout draws from `dropout_keys`, one key a clip, so that a clip's
    draw depends neither on its neighbours nor on the number of devices; they are needed
    only when training with a rate above 0. The head starts at normal(0, `head_std`), as
    in TSN's code.

    temporal: none, shift or causal: whether blocks see the neighbouring segments, both or the
        past only (`temporal.temporal_shift`). The parameters are the same.
    temporal_share: the share of a block's input channels that comes from each of them.
    stream: clips are consecutive frames of one stream, each of one segment (`frame_logits`).
    `ResNet` explains the other fields.

    Raises ValueError for an unknown depth, an impossible rate, temporal or share, for a stream of a
    network that looks ahead, and for dropout without keys.
    """

    num_classes: int
    depth: int = 18
    width: int = 64
    dropout: float = 0.8
    partial_bn: bool = False
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    norm: bool = True
    input_offset: bool = False
    zero_init_residual: bool = False
    remat: bool = False
    winograd: int = 0
    head_std: float = 0.001
    temporal: str = "none"
    temporal_share: float = SHARE
    frozen: str = "none"
    stream: bool = False

    def __post_init__(self):
        check_depth(self.depth)
        check_frozen(self.frozen)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        check_temporal(self.temporal, self.temporal_share, self.width)
        if self.stream and self.temporal == "shift":
            raise ValueError(
                "temporal='shift' looks at the segment after each, so that frames cannot be "
                "computed as they come; use temporal='causal' or 'none', or whole clips"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "b t h w c"],
        *,
        train: bool,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Outputs:
        batch, segments = clips.shape[:2]
        shift = functools.partial(
            temporal_shift, segments=segments, kind=self.temporal, share=self.temporal_share
        )
        if self.stream and self.temporal == "causal":
            shift = functools.partial(shift_from_past, share=self.temporal_share)
        backbone = ResNet(
            depth=self.depth,
            width=self.width,
            dtype=self.dtype,
            axis_name=self.axis_name,
            partial_bn=self.partial_bn,
            norm=self.norm,
            input_offset=self.input_offset,
            zero_init_residual=self.zero_init_residual,
            remat=self.remat,
            winograd=self.winograd,
            frozen=self.frozen,
            shift=shift,
            name="backbone",
        )
        features = backbone(clips.reshape(batch * segments, *clips.shape[2:]), train=train)
        pooled = features["pooled"]
        head = nn.Dense(
            self.num_classes, kernel_init=nn.initializers.normal(self.head_std), name="head"
        )
        kept = pooled
        if train and self.dropout:
            kept = dropout(pooled.reshape(batch, segments, -1), dropout_keys, self.dropout)
        logits = head(kept.reshape(pooled.shape))
        features = {
            name: feature.reshape(batch, segments, *feature.shape[1:])
            for name, feature in features.items()
        }
        features["pooled"] = features["pooled"].mean(axis=1)
        logits = logits.reshape(batch, segments, -1).mean(axis=1)
        return Outputs(logits, features, dict(head.variables["params"]))


def streams(model: nn.Module) -> bool:
    """Whether there are `frame_logits`: no frame's depend on the frames after it."""
    return getattr(model, "temporal", "shift") != "shift"


def frame_logits(
    model: TSN, variables: dict[str, Any], frames: Float[Array, "n h w c"], past: dict[str, Any]
) -> tuple[Float[Array, "n k"], dict[str, Any]]:
    """Logits of n consecutive frames of a stream, float32, and the past that the next ones need.

    The mean over the frames of a clip is the clip's logits: with `temporal` none for any frames,
    with causal for those since the beginning of the stream, where `past` is `no_past`. Without a
    shift there is no past, and frames do not depend on each other.

    Raises ValueError for a network with temporal="shift".
    """
    streaming = model.clone(stream=True)
    outputs, after = streaming.apply(
        {**variables, PAST: past}, frames[:, None], train=False, mutable=[PAST]
    )
    return outputs.logits.astype(jnp.float32), after.get(PAST, {})


def no_past(model: TSN, frame: tuple[int, int, int]) -> dict[str, Any]:
    """What `frame_logits` takes before the first frame, `h w c` being its shape: zeros.

    Raises ValueError for a network with temporal="shift".
    """
    init = functools.partial(model.clone(stream=True).init, train=False)
    clips = jax.ShapeDtypeStruct((1, 1, *frame), jnp.float32)
    shapes = jax.eval_shape(init, jax.random.key(0), clips).get(PAST, {})
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def dropout(
    pooled: Float[Array, "b t d"], keys: Key[Array, " b"] | None, rate: float
) -> Float[Array, "b t d"]:
    """Inverted dropout with one key a clip."""
    if keys is None:
        raise ValueError(f"training with dropout {rate} needs dropout_keys, one key a clip")
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, pooled.shape[1:]))(keys)
    return jnp.where(keep, pooled / (1 - rate), 0.0)

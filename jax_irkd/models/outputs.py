"""What a clip model returns."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Outputs(NamedTuple):
    """Clip logits and the features a distillation method may read.

    `logits` are averaged over the segments (TSN consensus). `features` holds the
    post-ReLU maps `stem` and `stage1` to `stage4`, shape `b t h w c`, and `pooled`,
    shape `b d`: the last stage averaged over space and segments, before dropout.
    """

    logits: Float[Array, "b k"]
    features: dict[str, Array]

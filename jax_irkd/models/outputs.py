"""What a clip model returns."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Outputs(NamedTuple):
    """Clip logits and the features a distillation method may read.

    `logits` are averaged over the segments (TSN consensus). `features` holds the
    post-ReLU maps `stem` and `stage1` to `stage4`, shape `b t h w c`, what they are before
    the ReLU (`stage1_preact` to `stage4_preact`), and `pooled`, shape `b d`: the last stage
    averaged over space and segments, before dropout. `head` holds the weights of the linear
    classifier on pooled features, `kernel` d k and `bias` k, of a model that has one.
    """

    logits: Float[Array, "b k"]
    features: dict[str, Array]
    head: dict[str, Array] | None = None

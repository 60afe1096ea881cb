"""Hints of FitNets (Romero et al., ICLR 2015, arXiv:1412.6550): regression on feature maps.

The defaults are ours, measured on generated clips: stages 3 and 4 of every frame before their last
ReLU, the teacher's maps standardised by channel, weight 8. The paper regresses on one middle
layer, and first trains up to there by the hint alone; RepDistiller and mdistiller add it to the
cross-entropy with weight 100 and leave the teacher's maps as they are (`layers=("stage2",),
standardise=False, weight=100`).
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Mask, Number, Weights
from jax_irkd.distillers._common import (
    compute_dtype,
    magnitude,
    paired_maps,
    pointwise,
)
from jax_irkd.distillers._inputs import squared, takes
from jax_irkd.distillers._method import StageMethod
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs


@takes("b *f", equal=True, relational=False, largest=squared)
def fitnet_loss(
    student_features: Float[Array, "b *f"],
    teacher_features: Float[Array, "b *f"],
    *,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Mean over clips, positions and channels of (r(s) - t)^2, the paper's equation 3.

    The student's features s have passed a learned regressor r to the teacher's channels. The
    paper writes half the squared norm; the mean, as in the public codes, does not depend on the
    size of the maps.

    Gradients flow to both arguments.

    Args:
        student_features: `(b, ...)`, after the regressor.
        teacher_features: the same shape; `jax_irkd.distillers.fitnet.standardise` takes its
            channels to one scale.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import fitnet_loss
        >>> print(fitnet_loss(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        2.5
    """
    squared = (student_features - teacher_features) ** 2
    losses = jnp.mean(squared, axis=tuple(range(1, squared.ndim)))
    return reduce(losses, reduction, where, weights)


def standardise(
    maps: Float[Array, "b h w c"], axis_name: str | None = None
) -> Float[Array, "b h w c"]:
    """(x - mean_c) / sqrt(variance_c + 1e-5) by channel: batch norm without scale and offset.

    Mean and variance are those of all clips and positions, over all devices of `axis_name`. A
    channel of zeros stays 0.
    """
    scale = magnitude(maps).reshape(())
    if axis_name is not None:
        scale = jax.lax.pmax(scale, axis_name)
    x = maps / scale  # squares of the rest fit float32
    centred = x - _mean(x, axis_name)
    variance = _mean(centred**2, axis_name)
    return centred * jax.lax.rsqrt(variance + jnp.maximum(1e-5 / scale**2, 1e-30))


def _mean(x: Float[Array, "b h w c"], axis_name: str | None) -> Float[Array, "1 1 1 c"]:
    mean = jnp.mean(x, axis=(0, 1, 2), keepdims=True)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


class Distiller(StageMethod):
    """Applies `fitnet_loss` to every stage in `layers`, through a learned 1x1 convolution each.

    A stage's name alone means its maps after the last ReLU, `_preact` behind it those before.

    `vertex` is frame (the maps of every frame) or clip (averaged over the segments). The larger
    map is average-pooled to the smaller first. `standardise` takes the channels of the teacher
    to mean 0 and variance 1 over the batch. `reduce` is mean or sum over the stages.
    """

    layers: Sequence[str] = ("stage3_preact", "stage4_preact")
    weight: Number = 8.0
    vertex: str = "frame"
    standardise: bool = True
    axis_name: str | None = None

    balanced_share: ClassVar[float] = 1.0  # as all that imitate maps

    def stage(self, layer: str, student: Outputs, teacher: Outputs) -> Float[Array, ""]:
        guided, hint = paired_maps(student, teacher, layer, self.vertex)
        if self.standardise:
            hint = standardise(hint, self.axis_name)
        dtype, name = compute_dtype(student, layer), f"regressor_{layer}"
        regressor = pointwise(hint.shape[-1], dtype=dtype, name=name)  # a 1x1 convolution
        return fitnet_loss(regressor(guided), hint)

"""Variational information distillation (Ahn et al., CVPR 2019, arXiv:1904.05835).

Weight 1 on the sum over the stages, three 1x1 convolutions and a variance that starts at 5, as in
the authors' code, RepDistiller and mdistiller.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Real

from jax_irkd.distillers._checks import Mask, Number, Weights, check_positive
from jax_irkd.distillers._common import compute_dtype, paired_maps, pointwise
from jax_irkd.distillers._inputs import squared, takes
from jax_irkd.distillers._method import StageMethod
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs

SMALLEST = 1e-5
"""The least variance, that of the authors' code."""


@takes("b *f", equal=True, relational=False, largest=squared)
def vid_loss(
    student_features: Float[Array, "b *f c"],
    teacher_features: Float[Array, "b *f c"],
    variance: Real[Array, "..."] | float = 1.0,
    *,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Negative log-likelihood of the teacher's features, as the student predicts them.

    mean of ((t - mu)^2 / variance_c + log variance_c) / 2 over clips, positions and channels c,
    the paper's Gaussian without its constant. mu is what a learned regressor
    makes of the student's features. It has no least value: where the fit is good it is negative.

    Gradients flow to the three arrays.

    Args:
        student_features: `(b, ..., c)`, predicted means, channels last.
        teacher_features: the same shape.
        variance: positive, one number or one for each channel. Learned with the
            regressor in the paper, from 5 on in the authors' code; 1 halves the squared error.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import vid_loss
        >>> mean, target = jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 2.0]])
        >>> print(f"{vid_loss(mean, target, jnp.array([4.0, 1.0])):.4f}")  # (4/4 + log 4) / 4
        0.5966
    """
    variance = jnp.asarray(variance, student_features.dtype)
    if not isinstance(variance, jax.core.Tracer) and not np.all(np.asarray(variance) > 0):
        raise ValueError(f"vid_loss: variance must be positive, got {variance!r}")
    terms = (teacher_features - student_features) ** 2 / variance + jnp.log(variance)
    losses = 0.5 * jnp.mean(terms.reshape(terms.shape[0], -1), axis=1)
    return reduce(losses, reduction, where, weights)


class Regressor(nn.Module):
    """Three 1x1 convolutions without bias and ReLUs between them, and a variance per channel."""

    channels: int
    variance: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n h w d"], Float[Array, " d"]]:
        x = pointwise(self.channels, use_bias=False, dtype=self.dtype)(maps)
        for _ in range(2):
            x = pointwise(self.channels, use_bias=False, dtype=self.dtype)(nn.relu(x))
        start = np.log(np.expm1(self.variance))
        raw = self.param("raw_variance", nn.initializers.constant(start), (self.channels,))
        return x, jax.nn.softplus(raw) + SMALLEST


class Distiller(StageMethod):
    """Applies `vid_loss` to every stage in `layers`, each with a learned regressor.

    `vertex` is clip (maps averaged over the segments) or frame. The larger map is average-pooled
    to the smaller first. `reduce` is mean or sum over the stages; `variance` that of the start.
    """

    weight: Number = 1.0
    variance: Number = 5.0
    vertex: str = "frame"
    reduce: str = "sum"

    def __post_init__(self) -> None:
        check_positive("variance", self.variance)
        super().__post_init__()

    def stage(self, layer: str, student: Outputs, teacher: Outputs) -> Float[Array, ""]:
        maps, target = paired_maps(student, teacher, layer, self.vertex)
        dtype, name = compute_dtype(student, layer), f"regressor_{layer}"
        regressor = Regressor(target.shape[-1], float(self.variance), dtype, name=name)
        means, variance = regressor(maps)
        return vid_loss(means, target, variance)

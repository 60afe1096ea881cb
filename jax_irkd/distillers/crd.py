"""Contrastive representation distillation (Tian et al., ICLR 2020, arXiv:1910.10699), in a batch.

The paper contrasts every clip with 16384 stored embeddings by noise-contrastive estimation. Here
the other clips of the batch are the negatives and the objective is InfoNCE, which bounds the
same mutual information; contrasting two views of a scene both ways is CMC (Tian et al., ECCV
2020, arXiv:1906.05849), for which RGB and infrared are two views. Temperature 0.07,
128 dimensions and weight 0.8 are those of the authors' code (RepDistiller), as are both
directions and negatives of other classes only.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jax_irkd.distillers._checks import (
    Labels,
    Mask,
    Number,
    Weights,
    check_temperature,
    check_whole,
)
from jax_irkd.distillers._common import pooled_features, unit_rows
from jax_irkd.distillers._graph import same_clip
from jax_irkd.distillers._inputs import takes
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs

NEVER = -1e30
"""The logit of a pair that is no negative."""


@takes("b d", equal=True, relational=True, temperature=check_temperature)
def crd_loss(
    student_embedding: Float[Array, "b d"],
    teacher_embedding: Float[Array, "b d"],
    labels: Labels | None = None,
    *,
    temperature: Number = 0.07,
    symmetric: bool = True,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> Float[Array, "..."]:
    """Picks the teacher's embedding of a clip among those of the batch, and the other way round.

    -log exp(c_nn) / sum over m of exp(c_nm), with c_nm the cosine of the student's clip n and the
    teacher's clip m over `temperature`; mean over the clips. With `symmetric` the same with c
    transposed, the teacher's clip as the anchor, is added. Zero for a clip without negatives.

    Gradients flow to both arguments; an all-zero embedding gets none.

    Args:
        student_embedding: `(b, d)`, rows of any length; they are scaled to unit length.
        teacher_embedding: the same shape.
        labels: integers `(b,)`, one-hot or soft rows `(b, k)`. Clips of the anchor's label are then
            no negatives. None: every other clip is one.
        temperature: positive; may be traced. RepDistiller's and mdistiller's.
        symmetric: whether both directions are added, as in RepDistiller and CMC.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import crd_loss
        >>> rows = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> print(f"{crd_loss(rows, rows, temperature=1.0):.4f}")  # 2 log(1 + e^-1)
        0.6265
    """
    student, teacher = unit_rows(student_embedding), unit_rows(teacher_embedding)
    cosines = jnp.matmul(student, teacher.T, precision="highest")
    negative = _negatives(cosines, labels, where)
    losses = _picked(cosines, negative, temperature)
    if symmetric:
        losses += _picked(cosines.T, negative, temperature)
    return reduce(losses, reduction, where, weights)


def _negatives(
    cosines: Float[Array, "b b"], labels: Labels | None, where: Mask
) -> Bool[Array, "b b"]:
    """Which clips m an anchor n is told from."""
    if labels is None:
        negative = ~same_clip(cosines)
    else:
        negative = labels[:, None] != labels[None]
        negative = negative.any(axis=-1) if negative.ndim == 3 else negative
    return negative if where is None else negative & where[None]


def _picked(
    cosines: Float[Array, "b b"], negative: Bool[Array, "b b"], temperature: Number
) -> Float[Array, " b"]:
    """log(1 + sum over the negatives of exp((c_nm - c_nn) / temperature))."""
    lead = (cosines - jnp.diagonal(cosines)[:, None]) / temperature
    return jax.nn.softplus(jax.nn.logsumexp(jnp.where(negative, lead, NEVER), axis=1))


class Distiller(Method):
    """Applies `crd_loss` to learned linear embeddings of `layer` (pooled, or averaged over space).

    `size` is that of the embeddings. `negatives` is `other_classes` or `all` other clips; the class
    of a mixed clip is the one with the larger share.
    `vertex="frame"` (with a stage) contrasts frames; those of one clip are then told from each
    other only with `negatives="all"`.
    """

    layer: str = "pooled"
    weight: Number = 0.8
    temperature: Number = 0.07
    size: Number = 128
    symmetric: bool = True
    negatives: str = "other_classes"
    vertex: str = "clip"
    axis_name: str | None = None

    choices: ClassVar[dict[str, tuple[str, ...]]] = {"negatives": ("other_classes", "all")}

    def __post_init__(self) -> None:
        check_temperature("temperature", self.temperature)
        super().__post_init__()

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        pair = [
            self._embed(name, pooled_features(model, self.layer, self.vertex))
            for name, model in (("student", student), ("teacher", teacher))
        ]
        classes = None
        if self.negatives == "other_classes":
            known = labels if labels.ndim == 1 else jnp.argmax(labels, axis=-1)
            classes = jnp.repeat(known, pair[0].shape[0] // labels.shape[0], axis=0)
        loss = crd_loss(
            pair[0],
            pair[1],
            classes,
            temperature=self.temperature,
            symmetric=self.symmetric,
            axis_name=self.axis_name,
        )
        return {"crd": self.weight * loss}

    def _embed(self, name: str, features: Float[Array, "b d"]) -> Float[Array, "b e"]:
        return nn.Dense(int(check_whole("size", self.size, 1)), name=name)(features)

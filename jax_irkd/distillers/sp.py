"""Similarity-preserving distillation (Tung and Mori, ICCV 2019, arXiv:1907.09682).

Weight 3000 on the mean over the stages (Knowledge-Distillation-Zoo, the default here);
mdistiller and RepDistiller use the last stage alone: `layers=("stage4",)`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Mask, Number, Weights
from jax_irkd.distillers._common import (
    EPSILON,
    flat_features,
    unit_rows,
)
from jax_irkd.distillers._gram import gram
from jax_irkd.distillers._inputs import takes
from jax_irkd.distillers._method import StageMethod
from jax_irkd.distillers._reduction import mean, reduce
from jax_irkd.models.outputs import Outputs


@takes("b *f")
def sp_loss(
    student_features: Float[Array, "b *s"],
    teacher_features: Float[Array, "b *t"],
    *,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> Float[Array, "..."]:
    """Mean squared difference of row-normalised batch similarities.

    ||G_S - G_T||_F^2 / b^2, where row i of G holds the inner products of clip i
    with every clip, scaled to unit length. The networks may differ in feature
    size, not in batch. Zero when the two similarity matrices agree and for one clip.

    Gradients flow to both arguments; the row of an all-zero clip gets none.

    Args:
        student_features: `(b, ...)`; more than two axes are flattened.
        teacher_features: `(b, ...)` of any size.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import sp_loss
        >>> student, teacher = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0], [1.0]])
        >>> print(f"{sp_loss(student, teacher):.4f}")  # 1 - 2^-0.5
        0.2929
    """
    differences = _similarity(student_features) - _similarity(teacher_features)
    return reduce(mean(differences**2, where, axis=1), reduction, where, weights)


def _similarity(features: Float[Array, "b *f"]) -> Float[Array, "b b"]:
    products, scale = gram(features.reshape(features.shape[0], -1))
    # Row n is s_n s_m P_nm: s_n and the largest s leave with the length of the row.
    largest = jnp.max(scale)
    return unit_rows(products * (scale.T / largest), EPSILON / (scale * largest))


class Distiller(StageMethod):
    """Applies `sp_loss` to every feature in `layers` (stage maps or `pooled`).

    `reduce` is mean or sum over the layers. `vertex="frame"` compares all frames of the
    batch instead of clips, whose maps are averaged over their segments.
    """

    weight: Number = 3000.0
    vertex: str = "clip"
    axis_name: str | None = None

    def stage(self, layer: str, student: Outputs, teacher: Outputs) -> Float[Array, ""]:
        pair = [flat_features(model, layer, self.vertex) for model in (student, teacher)]
        return sp_loss(pair[0], pair[1], axis_name=self.axis_name)

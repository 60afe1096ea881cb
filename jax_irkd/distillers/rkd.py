"""Relational knowledge distillation (Park et al., CVPR 2019, arXiv:1904.05068).

Distance 25 and angle 50 are the weights of the classification codes (default here); the
authors' metric-learning examples use 1 and 2.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Labels, Number, check_choice
from jax_irkd.distillers._common import (
    EPSILON,
    VERTICES,
    gather,
    magnitude,
    pooled_features,
)
from jax_irkd.distillers._inputs import takes
from jax_irkd.distillers._method import Method
from jax_irkd.models.outputs import Outputs


@takes("b *f")
def rkd_loss(
    student_features: Float[Array, "b *s"],
    teacher_features: Float[Array, "b *t"],
    *,
    distance_weight: Number = 25.0,
    angle_weight: Number = 50.0,
) -> Float[Array, ""]:
    """Difference of pairwise distances and of the angles in all triplets of clips.

    With the Huber function h (knee at 1):
    distance_weight mean_nm h(d_S / mu_S - d_T / mu_T) over b^2 entries, d the distance of two
    clips and mu its mean over n != m, plus
    angle_weight mean_nmk h(psi_S - psi_T) over b^3 entries, psi_nmk the cosine of the angle
    at clip n between clips m and k. Features of more than two axes are flattened.

    Invariant to shifts and positive scalings of either set of features. Zero for one or two
    clips. Two equal rows have distance 1e-6, angle 0 and no gradient between them.

    Gradients flow to both arguments.
    """
    distance, angle = rkd_terms(student_features, teacher_features)
    return distance_weight * distance + angle_weight * angle


@takes("b *f")
def rkd_terms(
    student_features: Float[Array, "b *s"], teacher_features: Float[Array, "b *t"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The distance and the angle term of `rkd_loss`, without weights."""
    student_distances, student_cosines = _relations(student_features)
    teacher_distances, teacher_cosines = _relations(teacher_features)
    return (
        _huber(student_distances - teacher_distances),
        _huber(student_cosines - teacher_cosines),
    )


def _relations(features: Float[Array, "b *f"]) -> tuple[Float[Array, "b b"], Float[Array, "b b b"]]:
    """Distances over their mean, and psi.

    Row n of `products` holds the inner products of the differences f_m - f_n and f_k - f_n;
    its diagonal the squared distances. Differences are taken directly: the expansion into
    inner products of features would lose the small ones.
    """
    scale = magnitude(features).reshape(())
    flat = (features / scale).reshape(len(features), -1)
    differences = flat[None] - flat[:, None]
    products = jnp.einsum("nmf,nkf->nmk", differences, differences, precision="highest")
    squared = jnp.diagonal(products, axis1=1, axis2=2)

    apart = squared > 1e-24  # closer rows are equal: their direction would be rounding
    norm = jnp.sqrt(jnp.where(apart, squared, 1.0))
    inverse = jnp.where(apart, 1 / jnp.maximum(norm, EPSILON / scale), 0.0)
    cosines = products * inverse[:, :, None] * inverse[:, None, :]
    return _relative_distances(squared, jnp.maximum(EPSILON / scale**2, 1e-30)), cosines


def _relative_distances(
    squared: Float[Array, "b b"], smallest: Float[Array, ""]
) -> Float[Array, "b b"]:
    """sqrt(max(squared, smallest)) over its mean, the diagonal left out and set to 0."""
    batch = len(squared)
    if batch == 1:
        return jnp.zeros((1, 1))
    cut = squared <= smallest
    distances = jnp.where(cut, jnp.sqrt(smallest), jnp.sqrt(jnp.where(cut, 1.0, squared)))
    distances = jnp.where(jnp.eye(batch, dtype=bool), 0.0, distances)
    return distances / (jnp.sum(distances) / (batch * (batch - 1)))


def _huber(differences: Float[Array, "..."]) -> Float[Array, ""]:
    size = jnp.abs(differences)
    return jnp.mean(jnp.where(size < 1, 0.5 * differences**2, size - 0.5))


class Distiller(Method):
    """Applies `rkd_loss` to `layer`, the pooled features or a stage averaged over space.

    `vertex="frame"` (with a stage such as `stage4`) relates all frames of the batch.
    """

    layer: str = "pooled"
    weight: Number = 1.0
    distance_weight: Number = 25.0
    angle_weight: Number = 50.0
    vertex: str = "clip"
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_choice("vertex", self.vertex, VERTICES)
        super().__post_init__()

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        pair = [pooled_features(model, self.layer, self.vertex) for model in (student, teacher)]
        distance, angle = rkd_terms(*gather(pair, self.axis_name))
        return {
            "rkd_distance": self.weight * self.distance_weight * distance,
            "rkd_angle": self.weight * self.angle_weight * angle,
        }

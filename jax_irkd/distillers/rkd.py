"""Relational knowledge distillation (Park et al., CVPR 2019, arXiv:1904.05068).

Distance 25 and angle 50 are the weights of the classification codes (default here); the
authors' metric-learning examples use 1 and 2.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Labels, Mask, Number, Weights
from jax_irkd.distillers._common import (
    EPSILON,
    magnitude,
    pooled_pair,
)
from jax_irkd.distillers._gram import inner_products
from jax_irkd.distillers._inputs import takes
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import mean, reduce
from jax_irkd.models.outputs import Outputs

BLOCK = 2**20
"""Bytes of differences that one round of a loop makes. CPUs like them in their cache (4 MiB took
a quarter longer at b 64); a GPU waits for every kernel of every round: 8 clips are one
round."""


@takes("b *f")
def rkd_loss(
    student_features: Float[Array, "b *s"],
    teacher_features: Float[Array, "b *t"],
    *,
    distance_weight: Number = 25.0,
    angle_weight: Number = 50.0,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> Float[Array, "..."]:
    """Difference of pairwise distances and of the angles in all triplets of clips.

    With the Huber function h (knee at 1):
    distance_weight mean_nm h(d_S / mu_S - d_T / mu_T) over b^2 entries, d the distance of two
    clips and mu its mean over n != m, plus
    angle_weight mean_nmk h(psi_S - psi_T) over b^3 entries, psi_nmk the cosine of the angle
    at clip n between clips m and k.

    Invariant to shifts and positive scalings of either set of features. Zero for one or two
    clips. Two equal rows have distance 1e-6, angle 0 and no gradient between them.

    Gradients flow to both arguments.

    Args:
        student_features: `(b, ...)`; more than two axes are flattened.
        teacher_features: `(b, ...)` of any size.
        distance_weight: any number; may be traced. As for classification; metric learning has 1.
        angle_weight: any number; may be traced. As for classification; metric learning has 2.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import rkd_loss
        >>> student = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> teacher = jnp.array([[0.0], [1.0], [2.0]])
        >>> print(f"{rkd_loss(student, 3 * student + 1):.4f} {rkd_loss(student, teacher):.4f}")
        0.0000 8.2740
    """
    pair = student_features, teacher_features
    losses = distance_weight * _distance_losses(*pair, where)
    losses += angle_weight * _angle_losses(*pair, where)
    return reduce(losses, reduction, where, weights)


@takes("b *f")
def rkd_distance_loss(
    student_features: Float[Array, "b *s"],
    teacher_features: Float[Array, "b *t"],
    *,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> Float[Array, "..."]:
    """Difference of pairwise distances: the first part of `rkd_loss`, with weight 1.

    mean_nm h(d_S / mu_S - d_T / mu_T) over b^2 entries, with the Huber function h (knee at 1), d
    the distance of two clips and mu its mean over n != m. Zero for one clip; two equal rows have
    distance 1e-6 and no gradient between them.

    Gradients flow to both arguments.

    Args:
        student_features: `(b, ...)`; more than two axes are flattened.
        teacher_features: `(b, ...)` of any size.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import rkd_distance_loss
        >>> student = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> teacher = jnp.array([[0.0], [1.0], [2.0]])
        >>> print(f"{rkd_distance_loss(student, teacher):.4f}")
        0.0717
    """
    losses = _distance_losses(student_features, teacher_features, where)
    return reduce(losses, reduction, where, weights)


@takes("b *f")
def rkd_angle_loss(
    student_features: Float[Array, "b *s"],
    teacher_features: Float[Array, "b *t"],
    *,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> Float[Array, "..."]:
    """Difference of the angles in all triplets: the second part of `rkd_loss`, with weight 1.

    mean_nmk h(psi_S - psi_T) over b^3 entries, with the Huber function h (knee at 1) and psi_nmk
    the cosine of the angle at clip n between clips m and k. Zero for one or two clips; two equal
    rows have angle 0 and no gradient between them.

    Gradients flow to both arguments.

    Args:
        student_features: `(b, ...)`; more than two axes are flattened.
        teacher_features: `(b, ...)` of any size.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import rkd_angle_loss
        >>> student = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> teacher = jnp.array([[0.0], [1.0], [2.0]])
        >>> print(f"{rkd_angle_loss(student, teacher):.4f}")
        0.1296
    """
    losses = _angle_losses(student_features, teacher_features, where)
    return reduce(losses, reduction, where, weights)


def _distance_losses(student: Array, teacher: Array, where: Mask) -> Float[Array, " b"]:
    """For each clip the mean over the others and itself."""
    student, teacher = (_relative_distances(*_flat(x), where) for x in (student, teacher))
    return mean(_huber(student - teacher), where, axis=1)


def _angle_losses(student: Array, teacher: Array, where: Mask) -> Float[Array, " b"]:
    """For each clip the mean over all pairs of clips seen from it.

    A few clips at a time, and the same again for the gradient, so that no more than their b x b
    matrices of cosines are ever kept.
    """
    (student, student_scale), (teacher, teacher_scale) = _flat(student), _flat(teacher)
    both = None if where is None else where[:, None] & where[None, :]

    @jax.checkpoint
    def seen_from(clip: tuple[Array, Array]) -> Float[Array, ""]:
        cosines = [
            _cosines(flat - one[None], scale)
            for one, flat, scale in zip(clip, (student, teacher), (student_scale, teacher_scale))
        ]
        return mean(_huber(cosines[0] - cosines[1]), both)

    return jax.lax.map(seen_from, (student, teacher), batch_size=_at_once(student, teacher))


def _flat(features: Float[Array, "b *f"]) -> tuple[Float[Array, "b d"], Float[Array, ""]]:
    """The features over a power of two, which squares cannot overflow, and that power."""
    scale = magnitude(features).reshape(())
    return (features / scale).reshape(features.shape[0], -1), scale


def _at_once(*flat: Float[Array, "b _"]) -> int | None:
    """Clips whose differences from all others take BLOCK bytes; None is one, for unknown sizes too
    and instead of two, which cost more memory than they save time (2.7 for 1.9 MB at b 64)."""
    if not all(isinstance(size, int) for x in flat for size in x.shape):
        return None
    clips = BLOCK // max(1, *(x.size * x.dtype.itemsize for x in flat))
    return clips if clips > 2 else None


def _cosines(differences: Float[Array, "b d"], scale: Float[Array, ""]) -> Float[Array, "b b"]:
    """psi_n from the differences f_m - f_n of one clip n.

    Differences are taken directly: the expansion into inner products of features would lose the
    small ones.
    """
    squared = jnp.sum(differences**2, axis=1)
    apart = squared > 1e-24  # closer rows are equal: their direction would be rounding
    norm = jnp.sqrt(jnp.where(apart, squared, 1.0))
    inverse = jnp.where(apart, 1 / jnp.maximum(norm, EPSILON / scale), 0.0)
    units = differences * inverse[:, None]
    return inner_products(units, units)


def _relative_distances(
    flat: Float[Array, "b d"], scale: Float[Array, ""], where: Mask
) -> Float[Array, "b b"]:
    """sqrt(max(squared, 1e-12)) over its mean, the diagonal left out and set to 0."""
    squared = jax.lax.map(
        jax.checkpoint(lambda one: jnp.sum((flat - one[None]) ** 2, axis=1)),
        flat,
        batch_size=_at_once(flat),
    )
    smallest = jnp.maximum(EPSILON / scale**2, 1e-30)
    cut = squared <= smallest
    distances = jnp.where(cut, jnp.sqrt(smallest), jnp.sqrt(jnp.where(cut, 1.0, squared)))
    clips = jax.lax.broadcasted_iota(jnp.int32, squared.shape, 0)
    others = clips != clips.T
    if where is not None:
        others &= where[:, None] & where[None, :]
    distances = jnp.where(others, distances, 0.0)
    count = jnp.sum(others, dtype=squared.dtype)
    total = jnp.sum(distances)
    return distances * jnp.where(count == 0, 0.0, count / jnp.where(count == 0, 1.0, total))


def _huber(differences: Float[Array, "..."]) -> Float[Array, "..."]:
    size = jnp.abs(differences)
    return jnp.where(size < 1, 0.5 * differences**2, size - 0.5)


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

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        pair = pooled_pair(student, teacher, self.layer, self.vertex)
        distance = rkd_distance_loss(*pair, axis_name=self.axis_name)
        angle = rkd_angle_loss(*pair, axis_name=self.axis_name)
        return {
            "rkd_distance": self.weight * self.distance_weight * distance,
            "rkd_angle": self.weight * self.angle_weight * angle,
        }

"""Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018, arXiv:1803.10837).

Weight 30000 on the mean over pairs of clips, as in RepDistiller and mdistiller (the default here).
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_irkd.distillers._checks import Labels, Mask, Number, Weights
from jax_irkd.distillers._common import pooled_pair, unit_rows
from jax_irkd.distillers._inputs import takes
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs

SMALLEST = 1e-7
"""Added to every probability, as in the authors' code."""


@takes("b *f")
def pkt_loss(
    student_features: Float[Array, "b *s"],
    teacher_features: Float[Array, "b *t"],
    *,
    itself: bool = True,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> Float[Array, "..."]:
    """Divergence of the similarities of each clip to the batch, taken as probabilities.

    1/b^2 sum over n, m of t_nm log(t_nm / s_nm), with s_nm = k_nm / sum over l of k_nl and
    k = (1 + cosine) / 2 of the student's features of clips n and m, t the teacher's. The mean
    over pairs is the authors' code's, the paper sums. 1e-7 is added to both inside the logarithm.

    Gradients flow to both arguments; an all-zero row gets none. Zero for a single clip.

    Args:
        student_features: `(b, ...)`; more than two axes are flattened.
        teacher_features: `(b, ...)` of any size.
        itself: whether a clip's similarity to itself, which is 1, belongs to the distribution. It
            does in the authors' code, and not in the paper.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import pkt_loss
        >>> student, teacher = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0], [1.0]])
        >>> print(f"{pkt_loss(student, teacher):.4f}")
        0.0294
    """
    batch = student_features.shape[0]
    pairs = jnp.ones((batch, batch), bool) if itself else ~jnp.eye(batch, dtype=bool)
    pairs = pairs if where is None else pairs & where[None]
    student, teacher = (_neighbours(f, pairs) for f in (student_features, teacher_features))
    q, p = teacher + SMALLEST, student + SMALLEST
    ratio = jnp.log1p((teacher - student) / p)  # log q / p
    terms = q * _excess(ratio) - SMALLEST * ratio
    per_clip = jnp.sum(jnp.where(pairs, terms, 0.0), axis=1)
    count = batch if where is None else jnp.maximum(jnp.sum(where, dtype=terms.dtype), 1.0)
    return reduce(per_clip / count, reduction, where, weights)


def _excess(r: Float[Array, "..."]) -> Float[Array, "..."]:
    """r + e^-r - 1, whose mean over q is the divergence, without its cancellation near 0.

    Divergences add q log q / p; as q and p have one sum, q (e^-r - 1) = p - q may be added too.
    """
    near = jnp.abs(r) < 0.1
    x = jnp.where(near, r, 0.0)
    series = x**2 * (1 / 2 - x * (1 / 6 - x * (1 / 24 - x * (1 / 120 - x / 720))))
    return jnp.where(near, series, r + jnp.expm1(-r))


def _neighbours(features: Float[Array, "b *f"], pairs: Bool[Array, "b b"]) -> Float[Array, "b b"]:
    """(1 + cosine) / 2 of the `pairs`, every row divided by its sum."""
    rows = unit_rows(features.reshape(features.shape[0], -1))
    cosines = jnp.matmul(rows, rows.T, precision="highest")
    kernel = jnp.where(pairs, jnp.maximum(1 + cosines, 0.0) / 2, 0.0)
    total = jnp.sum(kernel, axis=1, keepdims=True)
    return kernel / jnp.where(total > 0, total, 1.0)


class Distiller(Method):
    """Applies `pkt_loss` to `layer`, the pooled features or a stage averaged over space.

    `vertex="frame"` (with a stage) relates all frames of the batch.
    """

    layer: str = "pooled"
    weight: Number = 30000.0
    itself: bool = True
    vertex: str = "clip"
    axis_name: str | None = None

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        pair = pooled_pair(student, teacher, self.layer, self.vertex)
        loss = pkt_loss(*pair, itself=self.itself, axis_name=self.axis_name)
        return {"pkt": self.weight * loss}

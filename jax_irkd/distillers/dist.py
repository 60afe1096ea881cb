"""DIST: distillation from a stronger teacher (Huang et al., NeurIPS 2022, arXiv:2205.10536).

The paper weighs both parts with 2 beside the cross-entropy and takes temperature 1 on ImageNet
(the defaults here) and 4 on CIFAR-100. The authors' `DIST` has weights 1 inside and the factor
outside, in the configuration of a run; mmseg's copy multiplies by temperature^2 as here.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Labels, Mask, Number, between
from jax_irkd.distillers._common import unit_rows
from jax_irkd.distillers._inputs import takes
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import mean
from jax_irkd.models.outputs import Outputs

check_temperature = between(1e-30, 1e15)
"""Its square is a factor."""


@takes("*b k", equal=True, relational=True, temperature=check_temperature)
def dist_loss(
    student_logits: Float[Array, "*b k"],
    teacher_logits: Float[Array, "*b k"],
    *,
    inter_weight: Number = 2.0,
    intra_weight: Number = 2.0,
    temperature: Number = 1.0,
    axis: int = -1,
    where: Mask = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Correlation of the predictions within each clip and, class by class, over the batch.

    With P the softmax of the logits over `temperature` and rho Pearson's correlation:
    temperature^2 (inter_weight mean_n (1 - rho(P_S[n], P_T[n])) + intra_weight mean_c
    (1 - rho(P_S[:, c], P_T[:, c]))). A row or column without
    variance has correlation 0, so that a single clip has an intra part of 1 and no gradient there.

    Gradients flow to both arguments. Where the temperature is more than 1e6 times the spread of the
    logits, predictions are equal but for rounding.

    Args:
        student_logits: `(..., k)`; all leading axes are the batch.
        teacher_logits: the same shape.
        inter_weight: of the relation between classes, the paper's beta; may be traced. The paper's,
            whose code has 1 here and 2 outside.
        intra_weight: of the relation between clips within a class, the paper's gamma; may be
            traced. As the other.
        temperature: from 1e-30 to 1e15; may be traced. The paper's on ImageNet, 4 on CIFAR-100.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import dist_loss
        >>> rows = jnp.array([[2.0, 0.0], [0.0, 2.0]])
        >>> print(f"{dist_loss(rows, rows[::-1]):.4f}")  # correlations of -1: 2 * 2 + 2 * 2
        8.0000
    """
    inter, intra = dist_terms(
        student_logits, teacher_logits, temperature=temperature, axis=axis, where=where
    )
    return inter_weight * inter + intra_weight * intra


@takes("*b k", equal=True, relational=True, temperature=check_temperature)
def dist_terms(
    student_logits: Float[Array, "*b k"],
    teacher_logits: Float[Array, "*b k"],
    *,
    temperature: Number = 1.0,
    axis: int = -1,
    where: Mask = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The inter-class and the intra-class term of `dist_loss`, without weights.

    Args:
        student_logits: `(..., k)`; all leading axes are the batch.
        teacher_logits: the same shape.
        temperature: from 1e-30 to 1e15; may be traced.
    """
    student, teacher = (predictions(z, temperature) for z in (student_logits, teacher_logits))
    counts = None if where is None else where.reshape(-1)
    inter = mean(_uncorrelated(student, teacher), counts)
    along = None if counts is None else counts[None]
    intra = jnp.mean(_uncorrelated(student.T, teacher.T, along))
    if counts is not None:
        intra = jnp.where(jnp.any(counts), intra, 0.0)
    return temperature**2 * inter, temperature**2 * intra


def predictions(logits: Float[Array, "*b k"], temperature: Number) -> Float[Array, "n k"]:
    """softmax(z / temperature), one row an example, at any temperature."""
    rows = logits.reshape(-1, logits.shape[-1])
    top = jax.lax.stop_gradient(jnp.max(rows, axis=1, keepdims=True))
    return jax.nn.softmax((rows - top) / temperature, axis=1)


def _uncorrelated(
    student: Float[Array, "n k"], teacher: Float[Array, "n k"], where: Mask = None
) -> Float[Array, " n"]:
    """1 - rho of every row, as half the squared distance of unit vectors: exact near 0."""
    u, v = (unit_rows(_centred(x, where)) for x in (student, teacher))
    flat = sum(jnp.all(x == 0, axis=1).astype(x.dtype) for x in (u, v))
    return 0.5 * jnp.sum((u - v) ** 2, axis=1) + 0.5 * flat


def _centred(x: Float[Array, "n k"], where: Mask) -> Float[Array, "n k"]:
    """Rows minus their mean; 0 where what is left is rounding."""
    centred = x - mean(x, where, axis=1)[:, None]
    centred = centred if where is None else jnp.where(where, centred, 0.0)
    rounding = 4 * jnp.finfo(x.dtype).eps * jnp.max(x, axis=1, keepdims=True)
    constant = jnp.max(jnp.abs(centred), axis=1, keepdims=True) <= rounding
    return jnp.where(constant, 0.0, centred)  # NaN is not constant


class Distiller(Method):
    """Applies `dist_loss` to the clip logits."""

    weight: Number = 1.0
    inter_weight: Number = 2.0
    intra_weight: Number = 2.0
    temperature: Number = 1.0
    axis_name: str | None = None

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        inter, intra = dist_terms(
            student.logits,
            teacher.logits,
            temperature=self.temperature,
            axis_name=self.axis_name,
        )
        return {
            "dist_inter": self.weight * self.inter_weight * inter,
            "dist_intra": self.weight * self.intra_weight * intra,
        }

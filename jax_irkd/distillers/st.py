"""Soft targets (Hinton, Vinyals and Dean, NIPS workshop 2014, arXiv:1503.02531).

Weights: 0.1 beside a full cross-entropy (Knowledge-Distillation-Zoo, the default here);
mdistiller and RepDistiller use 0.9 beside 0.1 times the cross-entropy (`weight=0.9,
cross_entropy_weight=0.1`), and mdistiller's ImageNet set-up 0.5 beside 0.5 with temperature 1.
"""

from typing import ClassVar

from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Labels, Mask, Number, Weights, check_temperature
from jax_irkd.distillers._inputs import over_temperature, takes
from jax_irkd.distillers._logits import cross_entropy, divergence
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import reduce
from jax_irkd.distillers._standardise import standardised
from jax_irkd.models.outputs import Outputs


@takes("*b k", equal=True, largest=over_temperature, temperature=check_temperature)
def st_loss(
    student_logits: Float[Array, "*b k"],
    teacher_logits: Float[Array, "*b k"],
    *,
    temperature: Number = 4.0,
    standardise: bool = False,
    axis: int = -1,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Divergence of the student's softened prediction from the teacher's.

    temperature^2 KL(q || p), mean over the batch, with p and q the softmax of student and
    teacher logits over `temperature`. Zero when the logits agree up to a constant per clip.

    `standardise` takes mean and deviation out of every row of logits first, so that the student
    learns the teacher's order and not its scale (Sun et al., CVPR 2024, arXiv:2403.01427; their
    base temperature is 2, and their weights are 9 times larger).

    Gradients flow to both arguments: temperature (p - q) / b to the student. Stop the teacher's
    with `jax.lax.stop_gradient` where it learns nothing.

    Args:
        student_logits: `(..., k)`, scores of k classes before the softmax, any leading axes.
        teacher_logits: the same shape.
        temperature: positive, from 1e-30 to 1e30; may be traced. As in mdistiller and RepDistiller.
        standardise: whether to standardise the logits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import st_loss
        >>> student, teacher = jnp.array([[1.0, 0.0, 3.0]]), jnp.array([[2.0, 0.0, 1.0]])
        >>> print(f"{st_loss(student, teacher, temperature=4.0):.4f}")
        0.8649
    """
    if standardise:
        student_logits, teacher_logits = map(standardised, (student_logits, teacher_logits))
    losses = divergence(teacher_logits, student_logits, temperature)
    return reduce(losses, reduction, where, weights)


class Distiller(Method):
    """Applies `st_loss` to the clip logits.

    The training step adds the cross-entropy with weight 1. A `cross_entropy_weight` w other
    than 1 makes that w, by a second term `st_cross_entropy` of (w - 1) times the cross-entropy
    (without label smoothing; under jit a label that is not a class adds nothing to it).
    """

    weight: Number = 0.1
    temperature: Number = 4.0
    cross_entropy_weight: Number = 1.0
    standardise: bool = False

    without_share: ClassVar[tuple[str, ...]] = ("cross_entropy_weight",)

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        loss = st_loss(
            student.logits,
            teacher.logits,
            temperature=self.temperature,
            standardise=self.standardise,
        )
        terms = {"st": self.weight * loss}
        if self.cross_entropy_weight != 1:
            entropy = cross_entropy(student.logits, labels)
            terms["st_cross_entropy"] = (self.cross_entropy_weight - 1.0) * entropy
        return terms

"""Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv:2203.08679).

The official code uses target weight 1, non-target weight 8, temperature 4, outer weight 1
and a warm-up of 20 epochs on CIFAR (1, 0.5, 1 and one epoch for ResNet-34 to 18 on
ImageNet). The defaults are those of the infrared paper: 0.7, 0.35, outer weight 0.1 on
NTU RGB+D (0.01 on PKU-MMD), no warm-up.
"""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_irkd.distillers._checks import Labels, Mask, Number, Weights, check_temperature, one_hot
from jax_irkd.distillers._common import current_epoch
from jax_irkd.distillers._inputs import over_temperature, takes
from jax_irkd.distillers._logits import (
    Odds,
    binary_divergence,
    clipped,
    compare,
    difference,
    divergence,
    energy_difference,
    same,
)
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import reduce
from jax_irkd.distillers._standardise import standardised
from jax_irkd.models.outputs import Outputs


@takes("*b k", equal=True, largest=over_temperature, temperature=check_temperature)
def dkd_loss(
    student_logits: Float[Array, "*b k"],
    teacher_logits: Float[Array, "*b k"],
    labels: Labels,
    *,
    target_weight: Number = 0.7,
    nontarget_weight: Number = 0.35,
    temperature: Number = 4.0,
    standardise: bool = False,
    axis: int = -1,
    where: Mask = None,
    ignore_index: int | None = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Soft targets split into the labelled class and the rest.

    temperature^2 (target_weight TCKD + nontarget_weight NCKD), mean over the batch.
    TCKD = KL(b_T || b_S) with b = [p_y, 1 - p_y]; NCKD = KL(r_T || r_S) with r the softmax
    over the classes other than the label y; both of logits over `temperature`.

    `standardise` takes mean and deviation out of every row of logits first, so that the student
    learns the teacher's order and not its scale (Sun et al., CVPR 2024, arXiv:2403.01427; their
    base temperature is 2, and their weights are 9 times larger).

    In log space, so exact where the official code overflows or fails to mask the target.
    Gradients flow to both arguments. Under jit a clip whose label is not a class counts as 0
    in the mean; outside jit such a label raises, as do soft labels and fewer than two classes.

    Args:
        student_logits: `(..., k)`, scores of k classes before the softmax, any leading axes.
        teacher_logits: the same shape.
        labels: the classes, integers of the leading shape or one-hot rows.
        target_weight: any number; may be traced. The infrared paper's; DKD's own is 1.
        nontarget_weight: any number; may be traced. The infrared paper's; DKD's own is 8.
        temperature: positive, from 1e-30 to 1e30; may be traced. DKD's own.
        standardise: whether to standardise the logits.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import dkd_loss
        >>> student, teacher = jnp.array([[1.0, 0.0, 3.0]]), jnp.array([[2.0, 0.0, 1.0]])
        >>> labels = jnp.array([0])
        >>> own = {"target_weight": 1.0, "nontarget_weight": 8.0}  # of the DKD paper
        >>> print(f"{dkd_loss(student, teacher, labels, **own):.4f}")
        4.4076
    """
    classes = student_logits.shape[-1]
    if classes < 2:
        raise ValueError(f"dkd_loss needs at least 2 classes, got {classes}")
    if standardise:
        student_logits, teacher_logits = map(standardised, (student_logits, teacher_logits))
    is_target = _targets(labels, classes, where)
    rest = ~is_target
    odds = _odds(teacher_logits, student_logits, temperature, rest)
    target = binary_divergence(odds, temperature)
    nontarget = divergence(teacher_logits, student_logits, temperature, rest)
    losses = target_weight * target + nontarget_weight * nontarget
    losses = jnp.where(is_target.any(axis=-1), losses, 0.0)
    return reduce(losses, reduction, where, weights)


def _targets(labels: Labels, classes: int, where: Mask) -> Bool[Array, "*b k"]:
    """Where the label is. Raises ValueError for soft labels, unless traced."""
    is_target = one_hot(labels, classes, labels.dtype) == 1
    known = is_target if where is None else is_target | ~where[..., None]
    if not isinstance(known, jax.core.Tracer) and not known.any(axis=-1).all():
        raise ValueError(
            "dkd_loss: labels must be one class each, as an integer or one-hot. For mixup take "
            "share * dkd_loss(..., first_labels) + (1 - share) * dkd_loss(..., second_labels)"
        )
    return is_target


def _odds(
    teacher: Float[Array, "*b k"],
    student: Float[Array, "*b k"],
    temperature: Number,
    rest: Bool[Array, "*b k"],
) -> Odds:
    """temperature log(p_y / (1 - p_y)) of both networks; their difference with all its digits."""
    both = compare(teacher, student, temperature, rest)
    networks = both.teacher, both.student
    targets = [jnp.sum(jnp.where(rest, 0.0, z), axis=-1, keepdims=True) for z in (teacher, student)]
    leads = [clipped(target - own.top) for target, own in zip(targets, networks)]
    odds = [lead - own.energy for lead, own in zip(leads, networks)]
    tops = both.teacher.top - both.student.top
    gap = difference(leads[0], leads[1], targets[0] - targets[1], tops) + both.rounding
    gap -= energy_difference(*networks, temperature)
    gap = same(gap, odds[0] - odds[1])
    return Odds(*(x[..., 0] for x in (*odds, gap)))


class Distiller(Method):
    """Applies `dkd_loss` to the clip logits.

    Of labels that give two classes a share each (mixup, CutMix) each is the target once, and the
    two losses are weighted by the shares. `warmup_epochs` W > 0 multiplies it by
    min(epoch / W, 1), epochs counted from 1.
    """

    weight: Number = 0.1
    target_weight: Number = 0.7
    nontarget_weight: Number = 0.35
    temperature: Number = 4.0
    warmup_epochs: Number = 0
    standardise: bool = False

    without_share: ClassVar[tuple[str, ...]] = ("warmup_epochs",)

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        towards = functools.partial(
            dkd_loss,
            student.logits,
            teacher.logits,
            target_weight=self.target_weight,
            nontarget_weight=self.nontarget_weight,
            temperature=self.temperature,
            standardise=self.standardise,
        )
        if labels.ndim == student.logits.ndim:
            shares, targets = jax.lax.top_k(labels, 2)
            loss = towards(targets[:, 0], weights=shares[:, 0])
            loss += towards(targets[:, 1], weights=shares[:, 1])
        else:
            loss = towards(labels)
        if self.warmup_epochs > 0:
            now = current_epoch(epoch, f"warmup_epochs={self.warmup_epochs}", self)
            loss = loss * jnp.minimum(now / self.warmup_epochs, 1.0)
        return {"dkd": self.weight * loss}

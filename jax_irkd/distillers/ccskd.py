"""Complementary channel and sample distillation, CCSKD (official code: gjplab/CCSKD).

Four parts on top of the cross-entropy, with the weights of the official code: 0.1 selective
soft targets, 0.1 soft targets, 6 channels, 6 relations. Every student stage first passes a
learned connector (1x1 convolution, batch norm, ReLU) to the teacher's channels.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import (
    Labels,
    Mask,
    Number,
    Weights,
    check_choice,
    check_not_negative,
    check_positive,
    one_hot,
)
from jax_irkd.distillers._common import (
    Adapter,
    compute_dtype,
    current_epoch,
    pooled_features,
    stage_maps,
)
from jax_irkd.distillers._inputs import over_temperature, squared, takes
from jax_irkd.distillers._logits import cross_entropy, divergence, is_first_largest, predict
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import reduce
from jax_irkd.distillers.rkd import rkd_loss
from jax_irkd.distillers.st import st_loss
from jax_irkd.models.outputs import Outputs

OFFICIAL_EPOCHS = {"cifar": 200, "imagenet": 100}
SCHEDULES = ("constant", *OFFICIAL_EPOCHS)


@takes("*b c", equal=True, largest=squared)
def ccskd_channel_loss(
    student_pooled: Float[Array, "*b c"],
    teacher_pooled: Float[Array, "*b c"],
    *,
    axis: int = -1,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Mean over clips and channels of (s - t)^2, globally averaged maps of one stage.

    Gradients flow to both arguments.

    Args:
        student_pooled: `(..., c)`, after a learned connector to the teacher's channels.
        teacher_pooled: the same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import ccskd_channel_loss
        >>> print(ccskd_channel_loss(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])))
        2.5
    """
    losses = jnp.mean((student_pooled - teacher_pooled) ** 2, axis=-1)
    return reduce(losses, reduction, where, weights)


@takes("*b k", equal=True, largest=over_temperature, decay=check_not_negative)
def selective_st_loss(
    student_logits: Float[Array, "*b k"],
    teacher_logits: Float[Array, "*b k"],
    labels: Labels,
    *,
    decay: Number = 1.0,
    axis: int = -1,
    where: Mask = None,
    ignore_index: int | None = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Soft targets that weigh clips by whether the teacher is right (temperature 1).

    Mean over the batch of sum_c m q (log(m q) - m log p) with p, q the softmax of student and
    teacher and m = decay (1 + [argmax q = label]). As in the official code m scales targets
    and log-probabilities, so this is m^2 KL(q || p) plus an offset that depends on the teacher
    only; its gradient is m^2 (p - q) / b. With soft labels [...] is what they give the class.

    Gradients flow to both arguments, not through m. Under jit a label that is not a class
    counts as a wrong teacher; outside jit it raises ValueError.

    Args:
        student_logits: `(..., k)`, scores of k classes before the softmax, any leading axes.
        teacher_logits: the same shape.
        labels: integers of the leading shape, or one-hot or soft rows `(..., k)`.
        decay: not negative; may be traced. The official code's schedule starts there.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import selective_st_loss
        >>> student, teacher = jnp.array([[1.0, 0.0, 3.0]]), jnp.array([[2.0, 0.0, 1.0]])
        >>> print(f"{selective_st_loss(student, teacher, jnp.array([0])):.4f}")
        6.8032
    """
    chosen = one_hot(labels, student_logits.shape[-1], student_logits.dtype)
    right = jnp.sum(jnp.where(is_first_largest(teacher_logits), chosen, 0.0), axis=-1)
    m = decay * (1.0 + right)
    log_q = predict(teacher_logits, 1.0, None).log
    negative_entropy = jnp.sum(jnp.exp(log_q) * log_q, axis=-1)
    offset = m * (1 - m) * negative_entropy + xlogy(m, m)
    losses = m**2 * divergence(teacher_logits, student_logits, 1.0) + offset
    return reduce(losses, reduction, where, weights)


def schedule_factors(
    epoch: Number, schedule: str, num_epochs: Number | None = None
) -> dict[str, Float[Array, ""]]:
    """What multiplies each weight in an epoch, counted from 1.

    `constant`: all 1. `cifar` (200 epochs): cross-entropy and selective part are off up to
    epoch 60; the channel weight falls by 0.9 at 60 and at 160. `imagenet` (100 epochs): off up
    to epoch 30; channel and relation weights fall by 0.9 every 30. In both the `decay` of the
    selective part falls by 0.9 every 30 epochs. With `num_epochs` the epochs are stretched,
    so that the first phase is always the first 30 % of the run.
    """
    check_choice("schedule", schedule, SCHEDULES)
    one = jnp.ones((), jnp.float32)
    names = ("cross_entropy", "selective", "soft_targets", "channel", "relation", "decay")
    factors = dict.fromkeys(names, one)
    if schedule == "constant":
        return factors
    official = OFFICIAL_EPOCHS[schedule]
    if num_epochs is not None:
        check_positive("num_epochs", num_epochs)
        epoch = epoch * official / num_epochs  # in this order: boundaries stay exact
    epoch = jnp.asarray(epoch, jnp.float32)
    factors["decay"] = 0.9 ** jnp.floor(epoch / 30)
    if schedule == "cifar":
        started = epoch > 60
        factors["channel"] = 0.9 ** ((epoch >= 60) * one + (epoch >= 160) * one)
    else:
        started = epoch > 30
        factors["channel"] = factors["relation"] = factors["decay"]
    factors["cross_entropy"] = factors["selective"] = started.astype(jnp.float32)
    return factors


class Distiller(Method):
    """Applies the four parts: connectors and losses on the clip maps of `layers`.

    `weight` multiplies everything. `schedule` is one of constant, cifar, imagenet (see
    `schedule_factors`, where `num_epochs` is the length of the run). A schedule switches the
    cross-entropy off at first: the extra term `ccskd_cross_entropy` then takes away the
    cross-entropy that the training step adds with weight 1.

    Under jit, a label that is not a class adds nothing to that term.
    """

    layers: Sequence[str] = ("stage1", "stage2", "stage3", "stage4")
    weight: Number = 1.0
    selective_weight: Number = 0.1
    soft_target_weight: Number = 0.1
    channel_weight: Number = 6.0
    relation_weight: Number = 6.0
    distance_weight: Number = 1.0
    angle_weight: Number = 2.0
    schedule: str = "constant"
    num_epochs: Number | None = None
    axis_name: str | None = None

    balanced_share: ClassVar[float] = 1.0  # as all that imitate maps
    without_share: ClassVar[tuple[str, ...]] = ("schedule",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"schedule": SCHEDULES}

    def __post_init__(self) -> None:
        if self.num_epochs is not None:
            check_positive("num_epochs", self.num_epochs)
        super().__post_init__()

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        scheduled = self.schedule != "constant"
        now = current_epoch(epoch, f"schedule={self.schedule!r}", self) if scheduled else 1.0
        factors = schedule_factors(now, self.schedule, self.num_epochs)
        channel, relation = self._feature_losses(student, teacher)
        selective = selective_st_loss(
            student.logits, teacher.logits, labels, decay=factors["decay"]
        )
        soft = st_loss(student.logits, teacher.logits, temperature=1.0)
        terms = {
            "ccskd_selective": self.selective_weight * factors["selective"] * selective,
            "ccskd_soft_targets": self.soft_target_weight * factors["soft_targets"] * soft,
            "ccskd_channel": self.channel_weight * factors["channel"] * channel,
            "ccskd_relation": self.relation_weight * factors["relation"] * relation,
        }
        terms = {name: self.weight * term for name, term in terms.items()}
        if scheduled:
            entropy = cross_entropy(student.logits, labels)
            terms["ccskd_cross_entropy"] = (factors["cross_entropy"] - 1.0) * entropy
        return terms

    def _feature_losses(
        self, student: Outputs, teacher: Outputs
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Channel and relation part, each summed over the stages."""
        channel = relation = jnp.zeros(())
        for layer in self.layers:
            target = pooled_features(teacher, layer)
            dtype = compute_dtype(student, layer)
            name = f"connector_{layer}"
            connector = Adapter(target.shape[-1], dtype, self.axis_name, name=name)
            maps = nn.relu(connector(stage_maps(student, layer)))
            pooled = jnp.mean(maps, axis=(1, 2)), target
            channel += ccskd_channel_loss(*pooled)
            relation += rkd_loss(
                *pooled,
                axis_name=self.axis_name,
                distance_weight=self.distance_weight,
                angle_weight=self.angle_weight,
            )
        return channel, relation

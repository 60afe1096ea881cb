"""SimKD: the teacher's classifier on the student's features (Chen et al., CVPR 2022,
arXiv:2203.14001).

A projector takes the student's last maps to the teacher's; weight 1 on the mean squared error and
a projector of half the teacher's channels, as in the authors' code (`-c 0 -d 0 -b 1`). There the
student has no classifier of its own: it is tested with projector and the teacher's classifier. The
training runs here test a student by its own classifier, which learns from the cross-entropy beside
the projector; how the teacher's does on projected features is logged (`simkd/accuracy`).
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Labels, Mask, Number, Weights, check_positive
from jax_irkd.distillers._common import compute_dtype, paired_maps
from jax_irkd.distillers._inputs import squared, takes
from jax_irkd.distillers._logits import cross_entropy
from jax_irkd.distillers._method import Method
from jax_irkd.distillers.fitnet import fitnet_loss
from jax_irkd.models.outputs import Outputs


@takes("b h w c", equal=True, largest=squared)
def simkd_loss(
    student_map: Float[Array, "b h w c"],
    teacher_map: Float[Array, "b h w c"],
    *,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Mean squared difference of the projected map of the student and the teacher's last map.

    mean (p(s) - t)^2 over clips, positions and channels, with p a learned projector. The teacher's
    classifier on p(s) (`jax_irkd.distillers.simkd.simkd_logits`) gives the predictions.

    Gradients flow to both arguments.

    Args:
        student_map: `(b, h, w, c)`, after the projector.
        teacher_map: the same shape, what the teacher's pooling and classifier work on.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import simkd_loss
        >>> print(simkd_loss(jnp.ones((1, 2, 2, 3)), 3 * jnp.ones((1, 2, 2, 3))))
        4.0
    """
    return fitnet_loss(student_map, teacher_map, where=where, weights=weights, reduction=reduction)


def simkd_logits(
    projected: Float[Array, "b *p c"], kernel: Float[Array, "c k"], bias: Float[Array, " k"]
) -> Float[Array, "b k"]:
    """The teacher's classifier on projected maps of the student, averaged over all positions."""
    batch, channels = projected.shape[0], projected.shape[-1]
    pooled = jnp.mean(projected.reshape(batch, -1, channels), axis=1)
    return jnp.matmul(pooled, kernel, precision="highest") + bias


class Projector(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with batch norm and ReLU: to the teacher's channels."""

    channels: int
    factor: float
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        narrow = max(1, round(self.channels / self.factor))
        for channels, size in ((narrow, 1), (narrow, 3), (self.channels, 1)):
            window, margin = (size, size), size // 2
            x = nn.Conv(channels, window, padding=margin, use_bias=False, dtype=self.dtype)(x)
            norm = nn.BatchNorm(use_running_average=False, momentum=0.9, axis_name=self.axis_name)
            x = nn.relu(norm(x))
        return x


class Distiller(Method):
    """Applies `simkd_loss` to the maps of `layer` through a learned projector.

    `factor` is the teacher's channels over the projector's. `classifier_weight` adds the
    cross-entropy of the teacher's classifier on the projected features (0 in the paper).
    `vertex` is frame or clip (maps averaged over the segments).

    Sows `accuracy`, the teacher's classifier on the projected features of the batch, into
    `diagnostics`, where the teacher's outputs bring their `head`.
    """

    layer: str = "stage4"
    weight: Number = 1.0
    factor: Number = 2.0
    classifier_weight: Number = 0.0
    vertex: str = "frame"
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_positive("factor", self.factor)
        super().__post_init__()

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        maps, target = paired_maps(student, teacher, self.layer, self.vertex)
        dtype = compute_dtype(student, self.layer)
        channels, factor = target.shape[-1], float(self.factor)
        projector = Projector(channels, factor, dtype, self.axis_name, name="projector")
        projected = projector(maps)
        terms = {"simkd": self.weight * simkd_loss(projected, target)}
        if teacher.head is not None:
            clips = projected.reshape(labels.shape[0], -1, target.shape[-1])
            logits = simkd_logits(clips, **teacher.head)
            if not self.is_initializing():
                known = labels if labels.ndim == 1 else jnp.argmax(labels, -1)
                self.sow("diagnostics", "accuracy", jnp.mean(jnp.argmax(logits, -1) == known))
            if self.classifier_weight != 0:
                entropy = cross_entropy(logits, labels)
                terms["simkd_classifier"] = self.weight * self.classifier_weight * entropy
        elif self.classifier_weight != 0:
            raise ValueError(
                f"classifier_weight {self.classifier_weight} needs the teacher's classifier, and "
                "its Outputs have no head; give them one, or classifier_weight 0"
            )
        return terms

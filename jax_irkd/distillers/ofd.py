"""Overhaul of feature distillation (Heo et al., ICCV 2019, arXiv:1904.01866).

Maps before their ReLU. Weight 1e-3 on sums over positions and channels, deeper stages counting
twice the one before, and a 1x1 convolution with batch norm on the student's side, as in the
authors' code and mdistiller. The margins of the teacher's channels are taken from the batch; the
code takes what the last batch norm of a stage would give if its output were all there is.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from jax_irkd.distillers._checks import Labels, Mask, Number, Weights
from jax_irkd.distillers._common import Adapter, compute_dtype, paired_maps
from jax_irkd.distillers._inputs import squared, takes
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs


@takes("b *f", equal=True, relational=False, largest=squared)
def ofd_loss(
    student_features: Float[Array, "b *f c"],
    teacher_features: Float[Array, "b *f c"],
    margin: Real[Array, "..."] | float = 0.0,
    *,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Partial squared distance to the teacher's responses, cut off at a margin below zero.

    With t = max(T, m_c): the sum over positions and channels c of (s - t)^2, but 0 where
    s <= t <= 0: a student that is further below zero than the teacher has nothing to learn there.
    Mean over the clips.

    Gradients flow to both arguments.

    Args:
        student_features: `(b, ..., c)` before the ReLU, channels last, after a learned connector.
        teacher_features: the same shape, before the ReLU.
        margin: not above 0, one number or one for each channel. 0 is a plain ReLU; the paper's are
            the means of the teacher's negative responses, `jax_irkd.distillers.ofd.negative_means`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import ofd_loss
        >>> student, teacher = jnp.array([[-3.0, -0.25, 1.0]]), jnp.array([[-1.0, -2.0, 2.0]])
        >>> print(ofd_loss(student, teacher, -0.5))  # 0, (-0.25 + 0.5)^2 and 1
        1.0625
    """
    margin = jnp.asarray(margin, student_features.dtype)
    if not isinstance(margin, jax.core.Tracer) and not np.all(np.asarray(margin) <= 0):
        raise ValueError(f"ofd_loss: margin must not be above 0, got {margin!r}")
    target = jnp.maximum(teacher_features, margin)
    agreed = (student_features <= target) & (target <= 0)
    squares = jnp.where(agreed, 0.0, (student_features - target) ** 2)
    losses = jnp.sum(squares.reshape(squares.shape[0], -1), axis=1)
    return reduce(losses, reduction, where, weights)


def negative_means(
    features: Float[Array, "b *f c"], axis_name: str | None = None
) -> Float[Array, " c"]:
    """E[x | x < 0] of every channel, over all devices of `axis_name`; 0 where nothing is below 0.

    The margins of the paper.
    """
    flat = features.reshape(-1, features.shape[-1])
    sums = jnp.sum(jnp.minimum(flat, 0.0), axis=0), jnp.sum(flat < 0, axis=0, dtype=flat.dtype)
    total, count = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    return total / jnp.maximum(count, 1.0)


class Distiller(Method):
    """Applies `ofd_loss` to every map in `layers`, from shallow to deep, before their ReLUs.

    The losses are added, each counting twice the one before it and the last one once. `vertex`
    is frame or clip (maps averaged over the segments).
    """

    layers: Sequence[str] = ("stage1_preact", "stage2_preact", "stage3_preact", "stage4_preact")
    weight: Number = 1e-3
    vertex: str = "frame"
    axis_name: str | None = None

    balanced_share: ClassVar[float] = 1.0  # as all that imitate maps

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        total = jnp.zeros(())
        for number, layer in enumerate(self.layers):
            maps, target = paired_maps(student, teacher, layer, self.vertex)
            dtype = compute_dtype(student, layer)
            name = f"connector_{layer}"
            connector = Adapter(target.shape[-1], dtype, self.axis_name, name=name)
            loss = ofd_loss(connector(maps), target, negative_means(target, self.axis_name))
            total += loss / 2 ** (len(self.layers) - 1 - number)
        return {"ofd": self.weight * total}

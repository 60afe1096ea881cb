"""Knowledge review (Chen et al., CVPR 2021, arXiv:2104.09044).

Every stage of the student, fused by attention with what the deeper ones had to say, reviews the
teacher's map of its stage. Weight 1, at most 512 channels inside and maps of the teacher before
their last ReLU, as in the authors' code for ImageNet, where mdistiller warms up for one epoch; on
CIFAR-100 it has weights from 0.6 to 8 and a warm-up of 20 epochs.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import (
    Labels,
    Mask,
    Number,
    Weights,
    check_not_negative,
    check_whole,
)
from jax_irkd.distillers._common import (
    adaptive_average_pool,
    check_same_clips,
    compute_dtype,
    current_epoch,
    pointwise,
    stage_maps,
)
from jax_irkd.distillers._inputs import squared, takes
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs

LEVELS = (4, 2, 1)
"""Sizes that the maps are pooled to; each counts half of the one before."""


@takes("b h w c", equal=True, largest=squared)
def reviewkd_loss(
    student_map: Float[Array, "b h w c"],
    teacher_map: Float[Array, "b h w c"],
    *,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """The hierarchical context loss of one stage: differences at several coarsenesses.

    (sum over l of w_l mean (pool_l(S) - pool_l(T))^2) / sum over l of w_l, with the full map at
    weight 1, then average pooling to 4 x 4, 2 x 2 and 1 x 1 at 1/2, 1/4 and 1/8. Sizes that are
    not below the map's shorter side are left out, and the next takes their weight, as in the
    authors' code.

    Gradients flow to both arguments.

    Args:
        student_map: `(b, h, w, c)`, the student's fused map in the teacher's channels and size.
        teacher_map: the same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import reviewkd_loss
        >>> teacher = jnp.array([[[[1.0], [3.0]], [[1.0], [3.0]]]])
        >>> print(f"{reviewkd_loss(0 * teacher, teacher):.4f}")  # (5 + 4 / 2) / 1.5
        4.6667
    """
    difference = student_map - teacher_map
    total, factor, factors = _mean_square(difference), 1.0, 1.0
    for level in LEVELS:
        if level < min(difference.shape[1:3]):
            factor /= 2
            factors += factor
            pooled = adaptive_average_pool(difference, (level, level))  # of sums: of differences
            total += factor * _mean_square(pooled)
    return reduce(total / factors, reduction, where, weights)


def _mean_square(maps: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    return jnp.mean(maps**2, axis=(1, 2, 3))


class Fusion(nn.Module):
    """Attention-based fusion: the map of a stage and the fused one of the deeper stages.

    Both get `inner` channels, the deeper one the size of this one; a 1x1 convolution and a sigmoid
    say how much of each to take, position by position. Returns the fused map, and what a 3x3
    convolution makes of it in the teacher's size and channels.
    """

    inner: int
    channels: int
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        maps: Float[Array, "n h w c"],
        deeper: Float[Array, "n h2 w2 i"] | None,
        size: tuple[int, int],
    ) -> tuple[Float[Array, "n h w i"], Float[Array, "n h3 w3 d"]]:
        x = self._norm(pointwise(self.inner, use_bias=False, dtype=self.dtype)(maps))
        if deeper is not None:
            y = nearest(deeper, (x.shape[1], x.shape[2]))
            attend = pointwise(2, dtype=self.dtype, name="attention")
            share = nn.sigmoid(attend(jnp.concatenate([x, y], axis=-1)))
            x = x * share[..., :1] + y * share[..., 1:]
        x = nearest(x, size)
        out = nn.Conv(self.channels, (3, 3), padding=1, use_bias=False, dtype=self.dtype)(x)
        return x, self._norm(out)

    def _norm(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        norm = nn.BatchNorm(use_running_average=False, momentum=0.9, axis_name=self.axis_name)
        return norm(x)


def nearest(maps: Float[Array, "n h w c"], size: tuple[int, int]) -> Float[Array, "n h2 w2 c"]:
    """To the nearest position, by copies whose gradient is their sum.

    That of places taken several times is a scatter instead: GPUs add its numbers one by one, in
    another order every time, and CPUs take twice as long.
    """
    for axis, length in zip((1, 2), size):
        before = maps.shape[axis]
        copies = -(-length // before)
        maps = jnp.repeat(maps, copies, axis)
        if length % before:  # not every place as often: each copy at most once
            origins = (2 * np.arange(length) + 1) * before // (2 * length)
            places = copies * origins + np.arange(length) - np.searchsorted(origins, origins)
            maps = jnp.take(
                maps, places, axis, mode="clip", unique_indices=True, indices_are_sorted=True
            )
    return maps


class Distiller(Method):
    """Applies `reviewkd_loss` to every stage in `layers`, ordered from shallow to deep.

    After the deepest comes that stage averaged over space. The losses are summed. `preact` takes
    the teacher's maps before their last ReLU. `inner` is the most channels inside the fusions,
    `vertex` frame or clip (maps averaged over the segments). `warmup_epochs` W > 0 multiplies
    the loss by min(epoch / W, 1), epochs counted from 1.
    """

    layers: Sequence[str] = ("stage1", "stage2", "stage3", "stage4")
    weight: Number = 1.0
    preact: bool = True
    inner: Number = 512
    vertex: str = "frame"
    warmup_epochs: Number = 0
    axis_name: str | None = None

    balanced_share: ClassVar[float] = 1.0  # as all that imitate maps
    without_share: ClassVar[tuple[str, ...]] = ("warmup_epochs",)

    def __post_init__(self) -> None:
        check_whole("inner", self.inner, 1)
        check_not_negative("warmup_epochs", self.warmup_epochs)
        super().__post_init__()

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        maps, targets = [], []
        for layer in self.layers:
            check_same_clips(student, teacher, layer)
            maps.append(stage_maps(student, layer, self.vertex))
            taught = f"{layer}_preact" if self.preact else layer
            targets.append(stage_maps(teacher, taught, self.vertex))
        maps.append(_averaged(maps[-1]))
        targets.append(_averaged(stage_maps(teacher, self.layers[-1], self.vertex)))
        inner = min(int(self.inner), maps[-1].shape[-1])
        dtype = compute_dtype(student, self.layers[0])
        loss, fused = jnp.zeros(()), None
        for name, x, target in reversed(list(zip((*self.layers, "pooled"), maps, targets))):
            fusion = Fusion(inner, target.shape[-1], dtype, self.axis_name, name=f"fusion_{name}")
            fused, reviewed = fusion(x, fused, (target.shape[1], target.shape[2]))
            loss += reviewkd_loss(reviewed, target)
        if self.warmup_epochs > 0:
            now = current_epoch(epoch, f"warmup_epochs={self.warmup_epochs}", self)
            loss = loss * jnp.minimum(now / self.warmup_epochs, 1.0)
        return {"reviewkd": self.weight * loss}


def _averaged(maps: Float[Array, "n h w c"]) -> Float[Array, "n 1 1 c"]:
    return jnp.mean(maps, axis=(1, 2), keepdims=True)

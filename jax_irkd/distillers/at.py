"""Attention transfer (Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928).

Weight 1000 on the mean over the stages (Knowledge-Distillation-Zoo, the default here);
mdistiller, RepDistiller and the authors' code sum the stages: `reduce="sum"`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Labels, Number, check_choice, whole
from jax_irkd.distillers._common import (
    EPSILON,
    adaptive_average_pool,
    magnitude,
    smaller_size,
    stage_maps,
    unit_rows,
)
from jax_irkd.distillers._inputs import takes
from jax_irkd.distillers._method import Method
from jax_irkd.models.outputs import Outputs

REDUCE = {"mean": jnp.mean, "sum": jnp.sum}


@takes("b h w c", power=whole(1))
def at_loss(
    student_map: Float[Array, "b h w c"],
    teacher_map: Float[Array, "b h2 w2 c2"],
    *,
    power: Number = 2,
) -> Float[Array, ""]:
    """Mean squared difference of the normalised attention maps of one stage.

    a(F) = v / ||v|| with v = mean over channels of F^power, flattened per clip; the loss is
    the mean of (a(F_S) - a(F_T))^2 over clips and positions. Channels may differ; the larger
    map is first average-pooled to the smaller. `power` is a whole number; F^power keeps the
    sign of F where it is odd. An all-zero map has attention 0 and gradient 0.

    Gradients flow to both arguments.
    """
    size = smaller_size(student_map, teacher_map)
    student = attention_vector(adaptive_average_pool(student_map, size), power)
    teacher = attention_vector(adaptive_average_pool(teacher_map, size), power)
    return jnp.mean((student - teacher) ** 2)


def attention_vector(maps: Float[Array, "b h w c"], power: int) -> Float[Array, "b p"]:
    """a(F) of `at_loss`: mean over channels of F^power, flattened, unit length per clip."""
    scale = magnitude(maps, axis=(1, 2, 3))
    energy = jnp.mean((maps / scale) ** power, axis=-1)
    return unit_rows(energy.reshape(len(maps), -1), EPSILON / scale.reshape(-1, 1) ** power)


class Distiller(Method):
    """Applies `at_loss` to the clip maps of every stage in `layers`.

    `reduce` is mean or sum over the stages.
    """

    layers: Sequence[str] = ("stage1", "stage2", "stage3", "stage4")
    weight: Number = 1000.0
    power: Number = 2
    reduce: str = "mean"

    def __post_init__(self) -> None:
        check_choice("reduce", self.reduce, REDUCE)
        super().__post_init__()

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        stages = [
            at_loss(stage_maps(student, layer), stage_maps(teacher, layer), power=self.power)
            for layer in self.layers
        ]
        return {"at": self.weight * REDUCE[self.reduce](jnp.stack(stages))}

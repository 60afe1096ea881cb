"""Correlation congruence (Peng et al., ICCV 2019, arXiv:1904.01802).

Two public forms. `form="kernel"` (Knowledge-Distillation-Zoo, the default, weight 100)
compares Taylor-expanded Gaussian kernels and learns nothing. `form="embedding"`
(RepDistiller, after the authors' code; use weight 0.02) learns a linear embedding of both
networks and compares neighbours in the batch.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_irkd.distillers._checks import (
    Method,
    Number,
    Scalar,
    check_choice,
    check_number,
    check_whole,
    takes,
)
from jax_irkd.distillers._common import (
    VERTICES,
    gather,
    pooled_features,
    unit_rows,
    without_gradient,
)
from jax_irkd.models.outputs import Outputs

FORMS = ("kernel", "embedding")


@takes("b *f")
def cc_loss(
    student_features: Float[Array, "b *s"],
    teacher_features: Float[Array, "b *t"],
    *,
    gamma: Number = 0.4,
    order: Number = 2,
) -> Float[Array, ""]:
    """Mean squared difference of the correlation matrices of a batch.

    K_nm = sum over p = 0..order of e^(-2 gamma) (2 gamma)^p / p! <f_n, f_m>^p with rows f of
    unit length: the Taylor expansion of exp(-gamma ||f_n - f_m||^2). Features of more than
    two axes are flattened; their sizes may differ. Zero when the cosines agree.

    Gradients flow to both arguments; an all-zero row stays zero and gets none.
    Raises ValueError for a negative `gamma` or `order`.
    """
    check_number("gamma", gamma)
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, got {gamma!r}")
    order = check_whole("order", order, 0)
    student = _correlation(student_features, gamma, order)
    teacher = _correlation(teacher_features, gamma, order)
    return jnp.mean((student - teacher) ** 2)


def _correlation(features: Float[Array, "b *f"], gamma: Number, order: int) -> Float[Array, "b b"]:
    unit = unit_rows(features.reshape(len(features), -1))
    cosines = jnp.matmul(unit, unit.T, precision="highest")
    factors = [
        math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) for p in range(order + 1)
    ]
    return sum(factor * cosines**p for p, factor in enumerate(factors))


@takes("b d", equal=True)
def cc_embedding_loss(
    student_embedding: Float[Array, "b d"], teacher_embedding: Float[Array, "b d"]
) -> Float[Array, ""]:
    """Correlation of the errors of clips that are neighbours in the batch.

    1/(b-1) sum over n < b of sum_d e_nd e_(n+1)d with e = |student - teacher|. Depends on the
    order of the batch; 0 for a single clip, which has no neighbour.

    Gradients flow to both arguments.
    """
    if len(student_embedding) == 1:
        return 0.0 * jnp.sum(student_embedding - teacher_embedding)
    error = jnp.abs(student_embedding - teacher_embedding)
    return jnp.mean(jnp.sum(error[:-1] * error[1:], axis=1))


class Distiller(Method):
    """Applies one of the two losses to `layer`, pooled features or a stage averaged over space.

    `gamma` and `order` belong to the kernel, `size` to the embedding, which is a linear layer
    with bias for each network. `vertex="frame"` (with a stage) relates all frames.
    """

    layer: str = "pooled"
    weight: Number = 100.0
    form: str = "kernel"
    gamma: Number = 0.4
    order: Number = 2
    size: Number = 128
    vertex: str = "clip"
    axis_name: str | None = None

    def __post_init__(self) -> None:
        check_choice("form", self.form, FORMS)
        check_choice("vertex", self.vertex, VERTICES)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        student: Outputs,
        teacher: Outputs,
        labels: Int[Array, " b"],
        *,
        epoch: Scalar | None = None,
    ) -> dict[str, Float[Array, ""]]:
        del labels, epoch
        teacher = without_gradient(teacher)
        pair = [pooled_features(model, self.layer, self.vertex) for model in (student, teacher)]
        if self.form == "kernel":
            pair = gather(pair, self.axis_name)
            return {"cc": self.weight * cc_loss(*pair, gamma=self.gamma, order=self.order)}
        pair = [self._embed(name, part) for name, part in zip(("student", "teacher"), pair)]
        return {"cc": self.weight * cc_embedding_loss(*gather(pair, self.axis_name))}

    def _embed(self, name: str, features: Float[Array, "b d"]) -> Float[Array, "b e"]:
        # Uniform in +-1/sqrt(fan in), the initialisation of the published code.
        kernel = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        return nn.Dense(check_whole("size", self.size, 1), kernel_init=kernel, name=name)(features)

"""Correlation congruence (Peng et al., ICCV 2019, arXiv:1904.01802).

Three public forms. `form="kernel"` (Knowledge-Distillation-Zoo, the default, weight 100)
compares Taylor-expanded Gaussian kernels and learns nothing. `form="embedding"`
(RepDistiller, after the authors' code; use weight 0.02) learns a linear embedding of both
networks and compares neighbours in the batch. `form="embedding_kernel"` (torchdistill; use
weight 0.003) compares the kernels of such embeddings.
"""

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import (
    Labels,
    Mask,
    Number,
    Weights,
    check_not_negative,
    check_whole,
    choice,
)
from jax_irkd.distillers._common import (
    magnitude,
    pooled_pair,
)
from jax_irkd.distillers._gram import cosines, gram
from jax_irkd.distillers._inputs import squared, takes
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import mean, reduce
from jax_irkd.models.outputs import Outputs

KERNELS = ("gaussian", "bilinear")
FORMS = ("kernel", "embedding", "embedding_kernel")

LARGEST = 1e30
"""Bound of a power of an inner product of embeddings, so that kernels stay finite."""


def check_order(name: str, value: object) -> int:
    """The value. Raises ValueError unless it is a whole number of at least 0, and static."""
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} decides how many terms there are; make it static under jit")
    return int(check_whole(name, value, 0))


KERNEL: dict[str, Any] = {
    "kernel": choice(KERNELS),
    "gamma": check_not_negative,
    "order": check_order,
}


@takes("b *f", **KERNEL)
def cc_loss(
    student_features: Float[Array, "b *s"],
    teacher_features: Float[Array, "b *t"],
    *,
    kernel: str = "gaussian",
    gamma: Number = 0.4,
    order: Number = 2,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> Float[Array, "..."]:
    """Mean squared difference of the correlation matrices of a batch.

    K_nm = sum over p = 0..order of e^(-2 gamma) (2 gamma)^p / p! <f_n, f_m>^p with rows f of
    unit length: the Taylor expansion of exp(-gamma ||f_n - f_m||^2). Zero when the cosines
    agree. With `kernel="bilinear"`, another of the paper's, K_nm = <f_n, f_m>; gamma and order
    do not count.

    Gradients flow to both arguments; an all-zero row stays zero and gets none.

    Args:
        student_features: `(b, ...)`; more than two axes are flattened.
        teacher_features: `(b, ...)` of any size.
        kernel: gaussian or bilinear.
        gamma: not negative; may be traced. The paper's, as in Knowledge-Distillation-Zoo.
        order: a whole number from 0 on, never traced: it decides the number of terms. The paper's.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import cc_loss
        >>> student, teacher = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0], [1.0]])
        >>> print(cc_loss(student, teacher, kernel="bilinear"))  # cosines 0 and 1, twice of four
        0.5
    """
    student, teacher = (
        _kernel(cosines(features.reshape(features.shape[0], -1)), kernel, gamma, order)
        for features in (student_features, teacher_features)
    )
    return reduce(mean((student - teacher) ** 2, where, axis=1), reduction, where, weights)


def _kernel(
    products: Float[Array, "b b"], kernel: str, gamma: Number, order: Number
) -> Float[Array, "b b"]:
    """The products, or sum over p of e^(-2 gamma) (2 gamma)^p / p! products^p."""
    if kernel == "bilinear":
        return products
    total = term = jnp.ones_like(products)
    for p in range(1, int(order) + 1):
        term = term * products * (2 * gamma / p)
        total = total + term
    return jnp.exp(-2.0 * jnp.asarray(gamma, products.dtype)) * total


@takes("b d", equal=True, relational=True, largest=squared)
def cc_embedding_loss(
    student_embedding: Float[Array, "b d"],
    teacher_embedding: Float[Array, "b d"],
    *,
    where: Mask = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Correlation of the errors of clips that are neighbours in the batch.

    1/(b-1) sum over n < b of sum_d e_nd e_(n+1)d with e = |student - teacher|. Depends on the
    order of the batch; 0 for a single clip, which has no neighbour.

    Gradients flow to both arguments.

    Args:
        student_embedding: `(b, d)`.
        teacher_embedding: the same shape.
    """
    if student_embedding.shape[0] == 1:
        return 0.0 * jnp.sum(student_embedding - teacher_embedding)
    error = jnp.abs(student_embedding - teacher_embedding)
    both = None if where is None else where[:-1] & where[1:]
    return mean(jnp.sum(error[:-1] * error[1:], axis=1), both)


@takes("b d", relational=True, **KERNEL)
def cc_embedding_kernel_loss(
    student_embedding: Float[Array, "b d"],
    teacher_embedding: Float[Array, "b e"],
    *,
    kernel: str = "gaussian",
    gamma: Number = 0.4,
    order: Number = 2,
    where: Mask = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Distance of the correlation matrices of embeddings that are not normalised.

    ||K_S - K_T||_F / b^2, a root and not a square, with the K of `cc_loss` on rows of any length.
    Inner products are cut off where their highest power passes 1e30. Zero, with gradient 0,
    where the matrices agree.

    Gradients flow to both arguments.

    Args:
        student_embedding: `(b, d)`.
        teacher_embedding: `(b, e)`.
        kernel: gaussian or bilinear.
        gamma: not negative; may be traced. As in torchdistill.
        order: a whole number from 0 on, never traced.
    """
    largest = LARGEST if kernel == "bilinear" else LARGEST ** (1 / max(order, 1))
    kernels = []
    for rows in (student_embedding, teacher_embedding):
        products, scale = gram(rows)
        scale = jnp.minimum(scale, 1e15)
        products = jnp.clip(products * scale, -largest, largest) * scale.T
        kernels.append(_kernel(jnp.clip(products, -largest, largest), kernel, gamma, order))
    difference, clips = kernels[0] - kernels[1], jnp.sum(jnp.ones_like(student_embedding[:, 0]))
    # Equal kernels differ by rounding where XLA fuses the two in other ways; a root amplifies it.
    rounding = 4 * jnp.finfo(difference.dtype).eps * jnp.maximum(*map(jnp.abs, kernels))
    difference = jnp.where(jnp.abs(difference) <= rounding, 0.0, difference)
    if where is not None:
        difference = jnp.where(where[:, None] & where[None, :], difference, 0.0)
        clips = jnp.maximum(jnp.sum(where, dtype=difference.dtype), 1.0)
    return _length(difference) / clips**2


def _length(matrix: Float[Array, "b b"]) -> Float[Array, ""]:
    """The Frobenius norm, with gradient 0 at 0."""
    scale = magnitude(matrix).reshape(())
    squared = jnp.sum((matrix / scale) ** 2)
    empty = squared == 0
    return jnp.where(empty, 0.0, scale * jnp.sqrt(jnp.where(empty, 1.0, squared)))


class Distiller(Method):
    """Applies one of the three losses to `layer`, pooled features or a stage averaged over space.

    `kernel` (gaussian or bilinear), `gamma` and `order` belong to the kernels, `size` to the
    embeddings, a learned linear layer with bias for each network. `vertex="frame"` (with a stage)
    relates all frames.
    """

    layer: str = "pooled"
    weight: Number = 100.0
    form: str = "kernel"
    kernel: str = "gaussian"
    gamma: Number = 0.4
    order: Number = 2
    size: Number = 128
    vertex: str = "clip"
    axis_name: str | None = None

    choices: ClassVar[dict[str, tuple[str, ...]]] = {"form": FORMS, "kernel": KERNELS}

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        pair = pooled_pair(student, teacher, self.layer, self.vertex)
        if self.form != "kernel":
            pair = self._embed("student", pair[0]), self._embed("teacher", pair[1])
        axis = self.axis_name
        if self.form == "embedding":
            return {"cc": self.weight * cc_embedding_loss(pair[0], pair[1], axis_name=axis)}
        loss = cc_loss if self.form == "kernel" else cc_embedding_kernel_loss
        value = loss(
            pair[0],
            pair[1],
            kernel=self.kernel,
            gamma=self.gamma,
            order=self.order,
            axis_name=axis,
        )
        return {"cc": self.weight * value}

    def _embed(self, name: str, features: Float[Array, "b d"]) -> Float[Array, "b e"]:
        # Uniform in +-1/sqrt(fan in), the initialisation of the published code.
        kernel = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        return nn.Dense(int(check_whole("size", self.size, 1)), kernel_init=kernel, name=name)(
            features
        )

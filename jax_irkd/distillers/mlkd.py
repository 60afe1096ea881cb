"""Multi-level logit distillation (Jin, Wang and Lin, CVPR 2023).

Temperatures 2 to 6 and weight 0.9 are those of the authors' code, where the cross-entropy has
0.1. The code also halves the parts of weakly augmented images, by masks it multiplies with means;
the equations here are the paper's, without masks. Its strong augmentation belongs to the data.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Labels, Mask, Number, check_temperature
from jax_irkd.distillers._inputs import over_temperature, takes
from jax_irkd.distillers._method import Method
from jax_irkd.distillers.dist import predictions
from jax_irkd.distillers.st import st_loss
from jax_irkd.models.outputs import Outputs

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def check_temperatures(name: str, value: Any) -> Sequence[Number]:
    """The value. Raises ValueError unless it is a list of positive numbers."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a list of positive numbers, got {value!r}")
    return [check_temperature(name, temperature) for temperature in value]


@takes(
    "*b k",
    equal=True,
    relational=True,
    largest=over_temperature,
    temperatures=check_temperatures,
)
def mlkd_loss(
    student_logits: Float[Array, "*b k"],
    teacher_logits: Float[Array, "*b k"],
    *,
    instance_weight: Number = 1.0,
    batch_weight: Number = 1.0,
    class_weight: Number = 1.0,
    temperatures: Sequence[Number] = TEMPERATURES,
    axis: int = -1,
    where: Mask = None,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Agreement of predictions at several temperatures: of clips, pairs of clips and of classes.

    Sum over the temperatures of instance_weight temperature^2 mean_n KL(q_n || p_n) +
    batch_weight ||P P' - Q Q'||_F^2 / b + class_weight ||P' P - Q' Q||_F^2 / k, with the rows
    p of P and q of Q the softmax of student and teacher logits over the
    temperature. The second compares clips, the third classes.

    Gradients flow to both arguments.

    Args:
        student_logits: `(..., k)`; all leading axes are the batch.
        teacher_logits: the same shape.
        instance_weight: any number; may be traced. As in the authors' code.
        batch_weight: any number; may be traced. As in the authors' code.
        class_weight: any number; may be traced. As in the authors' code.
        temperatures: one or more positive numbers. Those of the authors' code.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import mlkd_loss
        >>> uniform, certain = jnp.zeros((1, 2)), jnp.array([[1e3, 0.0]])
        >>> loss = mlkd_loss(uniform, certain, temperatures=(1.0,), batch_weight=0, class_weight=0)
        >>> print(f"{loss:.4f}")  # log 2
        0.6931
    """
    parts = mlkd_terms(
        student_logits, teacher_logits, temperatures=temperatures, axis=axis, where=where
    )
    weights = instance_weight, batch_weight, class_weight
    return jnp.sum(jnp.stack([w * part for w, part in zip(weights, parts, strict=True)]))


@takes(
    "*b k",
    equal=True,
    relational=True,
    largest=over_temperature,
    temperatures=check_temperatures,
)
def mlkd_terms(
    student_logits: Float[Array, "*b k"],
    teacher_logits: Float[Array, "*b k"],
    *,
    temperatures: Sequence[Number] = TEMPERATURES,
    axis: int = -1,
    where: Mask = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """The instance, batch and class term of `mlkd_loss`, without weights.

    Args:
        student_logits: `(..., k)`; all leading axes are the batch.
        teacher_logits: the same shape.
        temperatures: one or more positive numbers.
    """
    pair = student_logits, teacher_logits
    counts = None if where is None else where.reshape(-1)
    instance = batch = classes = jnp.zeros((), student_logits.dtype)
    for temperature in temperatures:
        instance += st_loss(*pair, temperature=temperature, where=where)
        p, q = (_counted(predictions(z, temperature), counts) for z in pair)
        examples = p.shape[0] if counts is None else jnp.maximum(jnp.sum(counts, dtype=p.dtype), 1)
        batch += jnp.sum((_products(p) - _products(q)) ** 2) / examples
        classes += jnp.sum((_products(p.T) - _products(q.T)) ** 2) / p.shape[1]
    return instance, batch, classes


def _counted(rows: Float[Array, "n k"], where: Mask) -> Float[Array, "n k"]:
    return rows if where is None else jnp.where(where[:, None], rows, 0.0)


def _products(rows: Float[Array, "n d"]) -> Float[Array, "n n"]:
    return jnp.matmul(rows, rows.T, precision="highest")


class Distiller(Method):
    """Applies `mlkd_loss` to the clip logits."""

    weight: Number = 0.9
    instance_weight: Number = 1.0
    batch_weight: Number = 1.0
    class_weight: Number = 1.0
    temperatures: Sequence[Number] = TEMPERATURES
    axis_name: str | None = None

    free_fields: ClassVar[tuple[str, ...]] = ("temperatures",)

    def __post_init__(self) -> None:
        check_temperatures("temperatures", self.temperatures)
        super().__post_init__()

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        instance, batch, classes = mlkd_terms(
            student.logits,
            teacher.logits,
            temperatures=self.temperatures,
            axis_name=self.axis_name,
        )
        return {
            "mlkd_instance": self.weight * self.instance_weight * instance,
            "mlkd_batch": self.weight * self.batch_weight * batch,
            "mlkd_class": self.weight * self.class_weight * classes,
        }

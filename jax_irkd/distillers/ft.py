"""Factor transfer (Kim, Park and Kwak, NeurIPS 2018, arXiv:1802.04977).

Two public forms. `form="attention"` (RepDistiller, the default, weight 200) takes the mean square
over the channels as the factor and learns nothing. `form="paraphraser"` is the paper's: a
convolutional autoencoder of the teacher's maps gives its factors, a translator the student's; use
rate 0.5 and weight 500, the authors' on CIFAR-10 (torchdistill takes 1000 on ImageNet). They
train the paraphraser before the student, here it learns beside it from its reconstruction alone;
their code has biases where the layers here have batch norm.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import (
    Labels,
    Mask,
    Number,
    Weights,
    check_positive,
    whole,
)
from jax_irkd.distillers._common import compute_dtype, magnitude, paired_maps, unit_rows
from jax_irkd.distillers._inputs import takes
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs

FORMS = ("attention", "paraphraser")


@takes("b *f", equal=True, relational=False, power=whole(1))
def ft_loss(
    student_factors: Float[Array, "b *f"],
    teacher_factors: Float[Array, "b *f"],
    *,
    power: Number = 1,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Difference of the factors of each clip, scaled to unit length.

    mean over clips and entries of |f_S / ||f_S|| - f_T / ||f_T|||^power: the paper's norm of
    the difference, with the mean of the public codes for its sum. Zero when the factors agree up
    to a positive scale per clip.

    Gradients flow to both arguments; an all-zero clip gets none.

    Args:
        student_factors: `(b, ...)`, what the translator makes of the student's maps.
        teacher_factors: the same shape, what the paraphraser makes of the teacher's.
        power: a whole number from 1 on; may be traced. The authors' code takes 1 (L1).

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import ft_loss
        >>> student, teacher = jnp.array([[3.0, 4.0]]), jnp.array([[5.0, 0.0]])
        >>> print(f"{ft_loss(student, teacher):.4f}")  # (0.6, 0.8) against (1, 0)
        0.6000
    """
    batch = student_factors.shape[0]
    student, teacher = (unit_rows(f.reshape(batch, -1)) for f in (student_factors, teacher_factors))
    losses = jnp.mean(jnp.abs(student - teacher) ** power, axis=1)
    return reduce(losses, reduction, where, weights)


def energy(maps: Float[Array, "b h w c"]) -> Float[Array, "b h w"]:
    """Mean square over the channels, up to a scale per clip: RepDistiller's factor."""
    return jnp.mean((maps / magnitude(maps, axis=(1, 2, 3))) ** 2, axis=-1)


class Convolutions(nn.Module):
    """3x3 convolutions without bias, each with batch norm and a leaky ReLU of slope 0.1."""

    channels: Sequence[int]
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        for channels in self.channels:
            x = nn.Conv(channels, (3, 3), padding=1, use_bias=False, dtype=self.dtype)(x)
            norm = nn.BatchNorm(use_running_average=False, momentum=0.9, axis_name=self.axis_name)
            x = nn.leaky_relu(norm(x), 0.1)
        return x


class Distiller(Method):
    """Applies `ft_loss` to the maps of `layer`.

    `form="paraphraser"` adds the term `ft_reconstruction`: the mean squared error of the
    autoencoder, with weight 1; only its own layers get gradients from it. `rate` is its number of
    factors in units of the teacher's channels (the paper's k). `vertex` is clip (maps averaged
    over the segments) or frame.
    """

    layer: str = "stage4"
    weight: Number = 200.0
    form: str = "attention"
    rate: Number = 0.5
    power: Number = 1
    vertex: str = "clip"
    axis_name: str | None = None

    choices: ClassVar[dict[str, tuple[str, ...]]] = {"form": FORMS}

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)
        super().__post_init__()

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        student_map, teacher_map = paired_maps(student, teacher, self.layer, self.vertex)
        if self.form == "attention":
            factors = energy(student_map), energy(teacher_map)
            return {"ft": self.weight * ft_loss(*factors, power=self.power)}
        width = teacher_map.shape[-1]
        small = max(1, round(float(self.rate) * width))

        dtype = compute_dtype(student, self.layer)

        def layers(name: str, *channels: int) -> Convolutions:
            return Convolutions(channels, dtype, self.axis_name, name=name)

        teacher_factors = layers("paraphraser", width, small, small)(teacher_map)
        rebuilt = layers("decoder", small, width, width)(teacher_factors)
        translator = layers("translator", student_map.shape[-1], small, small)
        constant = jax.lax.stop_gradient(teacher_factors)
        return {
            "ft": self.weight * ft_loss(translator(student_map), constant, power=self.power),
            "ft_reconstruction": jnp.mean((rebuilt - teacher_map) ** 2),
        }

"""Attention transfer (Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928).

Weight 1000 on the mean over the stages (Knowledge-Distillation-Zoo, the default here);
mdistiller, RepDistiller and the authors' code sum the stages: `reduce="sum"`.
"""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Mask, Number, Weights, choice, whole
from jax_irkd.distillers._common import (
    EPSILON,
    adaptive_average_pool,
    magnitude,
    smaller_size,
    stage_maps,
    unit_rows,
)
from jax_irkd.distillers._inputs import takes
from jax_irkd.distillers._method import StageMethod
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs

SAFE = 1e-25, 1e25
"""Mean powers that are exact as they are."""
FORMS = ("code", "paper")


@takes("b h w c", power=whole(1), form=choice(FORMS))
def at_loss(
    student_map: Float[Array, "b h w c"],
    teacher_map: Float[Array, "b h2 w2 c2"],
    *,
    power: Number = 2,
    form: str = "code",
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Mean squared difference of the normalised attention maps of one stage.

    a(F) = v / ||v|| with v = mean over channels of F^power, flattened per clip; the loss is
    the mean of (a(F_S) - a(F_T))^2 over clips and positions. Channels may differ; the larger
    map is first average-pooled to the smaller. F^power keeps the sign of F where it is odd. An
    all-zero map has attention 0 and gradient 0.

    That is the form of the authors' code. `form="paper"` takes ||a(F_S) - a(F_T)|| of every clip
    instead, not squared and not over the number of positions, as the paper's equation 2 does; it
    has gradient 0 where the maps agree.

    Gradients flow to both arguments.

    Args:
        student_map: `(b, h, w, c)`.
        teacher_map: any size and channels.
        power: a whole number from 1 on; may be traced. The paper's p = 2.
        form: code or paper.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import at_loss
        >>> student, teacher = jnp.ones((1, 1, 2, 3)), jnp.array([[[[2.0], [0.0]]]])
        >>> print(f"{at_loss(student, teacher):.4f}")
        0.2929
    """
    size = smaller_size(student_map, teacher_map)
    student = attention_vector(adaptive_average_pool(student_map, size), power)
    teacher = attention_vector(adaptive_average_pool(teacher_map, size), power)
    if form == "paper":
        squares = jnp.sum((student - teacher) ** 2, axis=-1)
        losses = jnp.where(squares == 0, 0.0, jnp.sqrt(jnp.where(squares == 0, 1.0, squares)))
    else:
        losses = jnp.mean((student - teacher) ** 2, axis=-1)
    return reduce(losses, reduction, where, weights)


def attention_vector(maps: Float[Array, "b h w c"], power: Number) -> Float[Array, "b p"]:
    """a(F) of `at_loss`: mean over channels of F^power, flattened, unit length per clip."""
    traced = isinstance(power, jax.core.Tracer)
    energy, scale = _scaled(maps, power) if traced else _energy(maps, power)
    flat = energy.reshape(energy.shape[0], -1)
    return unit_rows(flat, EPSILON / scale.reshape(-1, 1) ** power)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _energy(
    maps: Float[Array, "b h w c"], power: Number
) -> tuple[Float[Array, "b h w"], Float[Array, "b 1 1 1"]]:
    """Mean over channels of (F / s)^power, and s: 1 where all powers fit float32, no gradient.

    Looking at the powers is cheaper than reading the maps once more before.
    """
    plain = jnp.mean(maps**power, axis=-1)
    largest = jnp.max(jnp.abs(plain), axis=(1, 2))
    safe = jnp.all((largest > SAFE[0]) & (largest < SAFE[1]))
    ones = jnp.ones_like(maps[:, :1, :1, :1])
    return jax.lax.cond(safe, lambda x: (plain, ones), lambda x: _scaled(x, power), maps)


@_energy.defjvp
def _energy_jvp(power: Number, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    (maps,), (change,) = primals, tangents
    energy, scale = _energy(maps, power)
    slope = power * (maps / scale) ** (power - 1)
    return (energy, scale), (jnp.mean(slope * (change / scale), axis=-1), jnp.zeros_like(scale))


def _scaled(
    maps: Float[Array, "b h w c"], power: Number
) -> tuple[Float[Array, "b h w"], Float[Array, "b 1 1 1"]]:
    scale = magnitude(maps, axis=(1, 2, 3))
    return jnp.mean((maps / scale) ** power, axis=-1), scale


class Distiller(StageMethod):
    """Applies `at_loss` to the clip maps of every stage in `layers`.

    `reduce` is mean or sum over the stages, `form` code or paper.
    """

    weight: Number = 1000.0
    power: Number = 2
    form: str = "code"

    choices: ClassVar[dict[str, tuple[str, ...]]] = {"form": FORMS}

    def stage(self, layer: str, student: Outputs, teacher: Outputs) -> Float[Array, ""]:
        pair = [stage_maps(model, layer) for model in (student, teacher)]
        return at_loss(pair[0], pair[1], power=self.power, form=self.form)

"""Neuron selectivity transfer (Huang and Wang, 2017, arXiv:1707.01219).

Weight 50 on the sum over the stages, as in RepDistiller and mdistiller.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Mask, Number, Weights
from jax_irkd.distillers._common import (
    adaptive_average_pool,
    paired_maps,
    smaller_size,
    unit_rows,
)
from jax_irkd.distillers._inputs import takes
from jax_irkd.distillers._method import StageMethod
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs


@takes("b h w c")
def nst_loss(
    student_map: Float[Array, "b h w c"],
    teacher_map: Float[Array, "b h2 w2 c2"],
    *,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Discrepancy between the networks' channels, each a unit vector of where it responds.

    Maximum mean discrepancy with the kernel k(x, y) = (x . y)^2, mean over the clips of
    mean_ij k(t_i, t_j) + mean_ij k(s_i, s_j) - 2 mean_ij k(s_i, t_j): the polynomial kernel that
    the paper found best (degree 2, offset 0). Channels may differ in number; the larger map is
    first average-pooled to the smaller. A silent channel counts as 0.

    Gradients flow to both arguments.

    Args:
        student_map: `(b, h, w, c)`.
        teacher_map: any size and channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import nst_loss
        >>> student = jnp.array([[[[1.0, 0.0], [0.0, 2.0]]]])  # a channel left, one right
        >>> teacher = jnp.array([[[[1.0, 3.0], [0.0, 0.0]]]])  # both left
        >>> print(f"{nst_loss(student, teacher):.4f}")  # 1/2 + 1 - 2/2
        0.5000
    """
    size = smaller_size(student_map, teacher_map)
    student, teacher = (
        _channels(adaptive_average_pool(maps, size)) for maps in (student_map, teacher_map)
    )
    return reduce(_discrepancy(student, teacher), reduction, where, weights)


def _channels(maps: Float[Array, "b h w c"]) -> Float[Array, "b c p"]:
    return unit_rows(jnp.moveaxis(maps.reshape(maps.shape[0], -1, maps.shape[-1]), 1, 2))


def _discrepancy(student: Float[Array, "b c p"], teacher: Float[Array, "b d p"]) -> Array:
    """||S'S / c - T'T / d||_F^2, which is the discrepancy without a difference of sums.

    With many positions it is the trace of products among channels instead: smaller matrices.
    """
    (channels, positions), others = student.shape[1:], teacher.shape[1]
    if positions <= channels + others:
        difference = _products(student, student) / channels - _products(teacher, teacher) / others
        return jnp.sum(difference**2, axis=(1, 2))
    student, teacher = (jnp.moveaxis(x, 1, 2) for x in (student, teacher))
    pairs = ((student, student), (teacher, teacher), (student, teacher))
    means = [jnp.mean(_products(*pair) ** 2, axis=(1, 2)) for pair in pairs]
    return means[0] + means[1] - 2 * means[2]


def _products(x: Float[Array, "b n p"], y: Float[Array, "b n q"]) -> Float[Array, "b p q"]:
    return jnp.einsum("bnp,bnq->bpq", x, y, precision="highest")


class Distiller(StageMethod):
    """Applies `nst_loss` to every stage in `layers`.

    `vertex` is clip (maps averaged over the segments) or frame; `reduce` is mean or sum over the
    stages.
    """

    weight: Number = 50.0
    vertex: str = "clip"
    reduce: str = "sum"

    def stage(self, layer: str, student: Outputs, teacher: Outputs) -> Float[Array, ""]:
        return nst_loss(*paired_maps(student, teacher, layer, self.vertex))

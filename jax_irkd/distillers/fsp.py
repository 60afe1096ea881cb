"""Flow of the solution procedure (Yim et al., CVPR 2017), "a gift from knowledge distillation".

Weight 50 on the sum over pairs of neighbouring stages, as in RepDistiller. The paper's networks
have equal channels, and its student first trains by this loss alone. Here the student's maps pass
a learned 1x1 convolution to the teacher's channels where theirs differ.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Labels, Mask, Number, Weights, choice
from jax_irkd.distillers._common import (
    adaptive_average_pool,
    compute_dtype,
    paired_maps,
    pointwise,
    smaller_size,
)
from jax_irkd.distillers._inputs import squared_twice, takes_maps
from jax_irkd.distillers._method import REDUCE, Method
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs


@takes_maps(largest=squared_twice, reduce_pairs=choice(REDUCE))
def fsp_loss(
    student_maps: Sequence[Float[Array, "b _ _ _"]],
    teacher_maps: Sequence[Float[Array, "b _ _ _"]],
    *,
    reduce_pairs: str = "sum",
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """Difference of how the features of one stage go with those of the next.

    Sum over neighbouring stages of the mean over the clips and channels i, j of
    (G_S - G_T)_ij^2, with G_ij the mean over the positions of F_i F_j, F_i a channel of the
    earlier and F_j one of the later stage (equations 1 and 2 of the paper, with means for its
    sums). The earlier map is average-pooled to the later one's size.

    Gradients flow to both arguments.

    Args:
        student_maps: one map `(b, h, w, c)` per stage, at least two.
        teacher_maps: as many, of the same channels.
        reduce_pairs: sum or mean over the pairs of stages. RepDistiller sums.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import fsp_loss
        >>> first, second = jnp.array([[[[1.0, 2.0]]]]), jnp.array([[[[3.0]]]])
        >>> print(fsp_loss([first, second], [0 * first, second]))  # flows 3 and 6 against 0
        22.5
    """
    channels = [[maps.shape[-1] for maps in stages] for stages in (student_maps, teacher_maps)]
    if channels[0] != channels[1] or len(channels[0]) < 2:
        raise ValueError(
            f"fsp_loss: the student's maps have {channels[0]} channels and the teacher's "
            f"{channels[1]}; they must be equal, and at least two stages"
        )
    pairs = []
    for i in range(len(student_maps) - 1):
        flows = [fsp_matrix(maps[i], maps[i + 1]) for maps in (student_maps, teacher_maps)]
        pairs.append(jnp.mean((flows[0] - flows[1]) ** 2, axis=(1, 2)))
    return reduce(REDUCE[reduce_pairs](jnp.stack(pairs), axis=0), reduction, where, weights)


def fsp_matrix(
    first: Float[Array, "b h w c"], second: Float[Array, "b h2 w2 d"]
) -> Float[Array, "b c d"]:
    """The mean over the positions of the products of a channel of each map."""
    size = smaller_size(first, second)
    first, second = (adaptive_average_pool(maps, size) for maps in (first, second))
    products = jnp.einsum("bhwc,bhwd->bcd", first, second, precision="highest")
    return products / (size[0] * size[1])


class Distiller(Method):
    """Applies `fsp_loss` to the stages in `layers`.

    A stage whose channels differ passes a learned 1x1 convolution of the student first. `vertex`
    is clip (maps averaged over the segments) or frame; `reduce` is mean or sum over the pairs.
    """

    layers: Sequence[str] = ("stage1", "stage2", "stage3", "stage4")
    weight: Number = 50.0
    vertex: str = "clip"
    reduce: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.layers) < 2:
            raise ValueError(f"layers must name at least two stages, got {self.layers}")

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        student_maps, teacher_maps = [], []
        for layer in self.layers:
            maps, target = paired_maps(student, teacher, layer, self.vertex)
            if maps.shape[-1] != target.shape[-1]:
                dtype, name = compute_dtype(student, layer), f"projection_{layer}"
                project = pointwise(target.shape[-1], use_bias=False, dtype=dtype, name=name)
                maps = project(maps)
            student_maps.append(maps)
            teacher_maps.append(target)
        loss = fsp_loss(student_maps, teacher_maps, reduce_pairs=self.reduce)
        return {"fsp": self.weight * loss}

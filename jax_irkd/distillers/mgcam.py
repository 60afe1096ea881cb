"""Multi-scale graph cross-attention (MGCAM), equations (1) to (6) of "An Approach for
RGB-to-Infrared Video Action Recognition".

They leave much open; the defaults are one consistent reading, every other
one is a field. For every reading with E in [0, 1] and temperature sqrt(b) the attention
is nearly uniform: at b = 8 two weights of a row differ by at most a factor 1.42. Compare a
run with `attention="uniform"` and `attention="identity"`.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_irkd.distillers._activation import (
    ACTIVATIONS,
    NORMALISATIONS,
    activation_map,
    check_activation,
)
from jax_irkd.distillers._checks import (
    Labels,
    Mask,
    Number,
    Weights,
    check_choice,
    check_temperature,
    choice,
    optional,
)
from jax_irkd.distillers._common import (
    Adapter,
    adaptive_average_pool,
    compute_dtype,
    gather,
    smaller_size,
    stage_maps,
)
from jax_irkd.distillers._gram import multiply
from jax_irkd.distillers._graph import DISTANCES, check_sigma, clip_graph, same_clip
from jax_irkd.distillers._inputs import squared, takes_maps
from jax_irkd.distillers._method import Method
from jax_irkd.distillers._reduction import reduce
from jax_irkd.models.outputs import Outputs

Maps = Sequence[Float[Array, "b _ _ _"]]
Compared = dict[tuple[int, int], tuple[Array, Array]]
Attention = Float[Array, "k k b b"]

ATTENTIONS = ("graph", "uniform", "identity")
PAIRS = ("all", "same")
CHOICES = {"distance": DISTANCES, "pairs": PAIRS, "attention": ATTENTIONS}
GRAPH = {
    "sigma": check_sigma,
    "temperature": optional(check_temperature),
    "attention": choice(ATTENTIONS),
    "distance": choice(DISTANCES),
}
MAPS = {
    "pairs": choice(PAIRS),
    "activation": choice(ACTIVATIONS),
    "normalisation": choice(NORMALISATIONS),
}


@takes_maps(relational=True, largest=squared, **GRAPH, **MAPS)
def mgcam_loss(
    student_maps: Maps,
    teacher_maps: Maps,
    *,
    sigma: Number | str = 1.0,
    temperature: Number | None = None,
    pairs: str = "all",
    attention: str = "graph",
    distance: str = "mean",
    activation: str = "mean",
    normalisation: str = "none",
    detach: bool = False,
    where: Mask = None,
    weights: Weights = None,
    reduction: str = "mean",
    axis_name: str | None = None,
) -> Float[Array, "..."]:
    """Distance of attended activation maps, over pairs of student and teacher stages.

        E[n, m] = exp(-mean_d (x_n - x_m)^2 / (2 sigma^2))            clips n, m of one stage
        Q = D^(-1/2) E D^(-1/2),  D = row sums of E
        A_ij = softmax_m(Q_i^S Q_j^T' / temperature)
        L = 1/k sum_ij mean((A_ij a_i^S - A_ij a_j^T)^2)

    with x a flattened map and a its mean over channels, pooled to the smaller of the two:
    equations (1) to (6) of the infrared paper. Of what they leave open the defaults are our
    reading, the nearest to the equations as printed (docs/paper.md, docs/mgcam.md).

    Zero for equal maps with `pairs="same"`. Defined for one clip (A = 1). Gradients flow to
    both arguments and stay finite for equal clips.

    Args:
        student_maps: k maps `(b, h, w, c)`, one per stage; sizes and channels may all differ.
        teacher_maps: as many, of any sizes.
        sigma: positive, may be traced; or "median": sigma^2 is the median squared distance of
            distinct clips, a constant to the gradient. The paper gives none.
        temperature: positive, may be traced; None is sqrt(b), the paper's.
        pairs: all i, j or the same stage only, with 1/k in front of both.
        attention: graph, uniform (1/b) or identity.
        distance: mean or sum over the dimensions of x.
        activation: mean, mean_sq (mean of squares), l2 (mean_sq, each clip's map divided by
            its norm) or minmax (mean, scaled to 0..1 over the batch). The Distiller can learn one.
        normalisation: none, l2 or minmax, after mean and mean_sq. Maps are normalised at their
            own size, then pooled.
        detach: whether to stop the gradient through A.

    Example:
        >>> import jax.numpy as jnp
        >>> from jax_irkd import mgcam_loss
        >>> student, teacher = jnp.ones((2, 2, 2, 3)), jnp.zeros((2, 1, 1, 5))
        >>> print(f"{mgcam_loss([student], [teacher]):.4f}")  # every a is 1 against 0
        1.0000
    """
    matrices = attention_matrices(
        student_maps,
        teacher_maps,
        sigma=sigma,
        temperature=temperature,
        attention=attention,
        distance=distance,
        where=where,
    )
    compared = activation_pairs(
        student_maps,
        teacher_maps,
        stage_pairs(len(student_maps), pairs),
        activation,
        normalisation,
        where,
    )
    losses = attended_distances(matrices, compared, detach=detach)
    return reduce(losses, reduction, where, weights)


@takes_maps(relational=True, largest=squared, **GRAPH)
def attention_matrices(
    student_maps: Maps,
    teacher_maps: Maps,
    *,
    sigma: Number | str = 1.0,
    temperature: Number | None = None,
    attention: str = "graph",
    distance: str = "mean",
    where: Mask = None,
    axis_name: str | None = None,
) -> Attention:
    """All A_ij of `mgcam_loss`: entry [i, j, n, m] is what student clip n takes of clip m.

    i counts student stages, j teacher stages. Every row sums to 1.
    """
    batch = student_maps[0].shape[0]
    dtype, shape = student_maps[0].dtype, (len(student_maps), len(student_maps), batch, batch)
    counted = jnp.ones((batch,), bool) if where is None else where
    counted = counted.reshape(1, 1, 1, batch)
    count = jnp.maximum(jnp.sum(counted, dtype=dtype), 1.0)
    if attention == "uniform":
        return jnp.broadcast_to(counted.astype(dtype) / count, shape)
    if attention == "identity":
        return jnp.broadcast_to(same_clip(jnp.empty((batch, batch))).astype(dtype), shape)
    student, teacher = (
        jnp.stack(
            [clip_graph(maps, sigma=sigma, distance=distance, where=where) for maps in stages]
        )
        for stages in (student_maps, teacher_maps)
    )
    scores = jnp.einsum("inp,jmp->ijnm", student, teacher, precision="highest")
    scores /= jnp.sqrt(count) if temperature is None else temperature
    return jax.nn.softmax(jnp.where(counted, scores, -1e30), axis=-1)


def stage_pairs(stages: int, pairs: str) -> list[tuple[int, int]]:
    """The (i, j) of equation (6)."""
    check_choice("pairs", pairs, PAIRS)
    if pairs == "same":
        return [(i, i) for i in range(stages)]
    return [(i, j) for i in range(stages) for j in range(stages)]


def activation_pairs(
    student_maps: Maps,
    teacher_maps: Maps,
    chosen: list[tuple[int, int]],
    activation: str,
    normalisation: str,
    where: Mask = None,
) -> Compared:
    """The activation maps of every chosen (i, j)."""
    student = [activation_map(maps, activation, normalisation, where) for maps in student_maps]
    teacher = [activation_map(maps, activation, normalisation, where) for maps in teacher_maps]
    return {(i, j): (student[i], teacher[j]) for i, j in chosen}


def attended_distances(
    attention: Attention, compared: Compared, *, detach: bool = False
) -> Float[Array, " b"]:
    """Equation (6) for every clip: 1/k sum over the given (i, j) of mean((A_ij s - A_ij t)^2).

    `compared` holds a student and a teacher map `b h w c` for each (i, j); the larger is
    pooled to the smaller. `detach` stops the gradient through A.
    """
    if detach:
        attention = jax.lax.stop_gradient(attention)
    total = jnp.zeros_like(attention[0, 0, :, 0])
    for (i, j), (student, teacher) in compared.items():
        size = smaller_size(student, teacher)
        difference = adaptive_average_pool(student, size) - adaptive_average_pool(teacher, size)
        flat = difference.reshape(difference.shape[0], -1)
        total += jnp.mean(multiply(attention[i, j], flat) ** 2, axis=1)
    return total / attention.shape[0]


def attention_contrast(attention: Attention) -> Float[Array, ""]:
    """Largest over smallest weight of a row, mean over rows and pairs; 1 is uniform."""
    smallest = jnp.maximum(jnp.min(attention, axis=-1), 1e-12)
    return jnp.mean(jnp.max(attention, axis=-1) / smallest)


class Distiller(Method):
    """Applies `mgcam_loss` to the maps of `layers`; the options are those of the loss.

    `vertex="clip"` averages the maps over the segments of a clip, `vertex="frame"` makes
    every frame of the batch a vertex. `activation="conv1x1"` replaces the channel mean by a
    learned adapter per pair of stages, compared with the teacher's full map.

    Sows `contrast` (see `attention_contrast`) into `diagnostics`.
    """

    layers: Sequence[str] = ("stage1", "stage2", "stage3", "stage4")
    weight: Number = 1.0
    vertex: str = "clip"
    distance: str = "mean"
    sigma: Number | str = 1.0
    temperature: Number | None = None
    activation: str = "mean"
    normalisation: str = "none"
    pairs: str = "all"
    attention: str = "graph"
    detach: bool = False
    axis_name: str | None = None

    free_fields: ClassVar[tuple[str, ...]] = ("sigma",)
    choices: ClassVar[dict[str, tuple[str, ...]]] = CHOICES

    def __post_init__(self) -> None:
        check_sigma("sigma", self.sigma)
        if self.temperature is not None:
            check_temperature("temperature", self.temperature)
        check_activation(self.activation, self.normalisation)
        super().__post_init__()

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        layers = self.layers
        local_student, local_teacher = self.maps(student), self.maps(teacher)
        student_maps, teacher_maps = gather((local_student, local_teacher), self.axis_name)
        weights = attention_matrices(
            student_maps,
            teacher_maps,
            sigma=self.sigma,
            temperature=self.temperature,
            attention=self.attention,
            distance=self.distance,
        )
        if not (self.is_initializing() or self.attention == "identity"):
            self.sow("diagnostics", "contrast", attention_contrast(weights))
        chosen = stage_pairs(len(layers), self.pairs)
        if self.activation == "conv1x1":
            dtype = compute_dtype(student, layers[0])
            compared = {
                (i, j): self._adapted(
                    f"adapter_{layers[i]}_{layers[j]}", dtype, local_student[i], local_teacher[j]
                )
                for i, j in chosen
            }
        else:
            compared = activation_pairs(
                student_maps, teacher_maps, chosen, self.activation, self.normalisation
            )
        losses = attended_distances(weights, compared, detach=self.detach)
        return {"mgcam": self.weight * jnp.mean(losses)}

    @nn.nowrap
    def maps(self, outputs: Outputs) -> list[Float[Array, "n h w c"]]:
        """The maps of `layers` that are compared, one per vertex."""
        return [stage_maps(outputs, layer, self.vertex) for layer in self.layers]

    def _adapted(
        self,
        name: str,
        dtype: DTypeLike,
        student: Float[Array, "b h w c"],
        teacher: Float[Array, "b h2 w2 c2"],
    ) -> tuple[Array, Array]:
        """One size, the teacher's channels, all devices."""
        size = smaller_size(student, teacher)
        student, teacher = (adaptive_average_pool(maps, size) for maps in (student, teacher))
        adapter = Adapter(teacher.shape[-1], dtype, self.axis_name, name=name)
        return gather((adapter(student), teacher), self.axis_name)

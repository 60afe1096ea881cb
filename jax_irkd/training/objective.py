"""What an update minimises: the cross-entropy and the terms of every distiller (Algorithm 1)."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jax_irkd.models.outputs import Outputs
from jax_irkd.training import balance as balances

Terms = dict[str, Array]
Clips = dict[str, Array]
Batch = dict[str, PyTree]

DROPOUT = 4  # what is folded into a clip's key for it; `data.augment` draws by 0 to 3


def cross_entropy(
    logits: Float[Array, "b k"],
    labels: Int[Array, " b"] | Float[Array, "b k"],
    smoothing: float = 0.0,
    weights: Float[Array, " k"] | None = None,
) -> Float[Array, ""]:
    """Mean over the clips of -sum_k w_k q_k log p_k.

    q is one-hot, or what `labels` give every class, mixed with a uniform `smoothing`; `weights` w
    are 1 where there are none. The mean is over the number of clips, not over their weights, which
    would depend on how clips are dealt out to devices.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1]) if labels.ndim == 1 else labels
    targets = optax.smooth_labels(targets, smoothing)
    targets = targets if weights is None else targets * weights
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets).mean()


def loss(
    params: PyTree,
    batch_stats: PyTree,
    batch: Batch,
    keys: Array,
    *,
    teacher: PyTree,
    epoch: Array,
    model: nn.Module,
    teacher_model: nn.Module | None,
    distillers: Mapping[str, nn.Module],
    prepare: Callable[[Clips, Array], Clips],
    mix: Callable[[Clips, Array], tuple[Clips, Array, Array]] | None = None,
    modality: str,
    label_smoothing: float,
    class_weights: Array | None,
) -> tuple[Terms, Any]:
    """The loss of every source: the cross-entropy and each distiller, at its own weight.

    Clips of the entry `extra` have the student's modality only: they count in the cross-entropy and
    in the batch statistics, and no distiller sees them. Its mean is therefore that over the pairs,
    on any number of devices, as every device has as many.

    `mix` gives clips that hold a share of their own and the rest of a partner (`data.mixing`); all
    modalities of a clip hold the same. Labels are then what each class has of a clip.
    """
    clips, soften = _prepared(batch["clips"], keys, prepare, mix)
    seen, classes = clips[modality], getattr(model, "num_classes", 0)
    labels = known = soften(batch["label"], classes)
    if extra := batch.get("extra"):
        more, soften = _prepared(extra["clips"], extra["keys"], prepare, mix)
        seen = jnp.concatenate([seen, more[modality]])
        known = jnp.concatenate([labels, soften(extra["label"], classes)])
        keys = jnp.concatenate([keys, extra["keys"]])
    student, updated = model.apply(
        {"params": params["model"], "batch_stats": batch_stats["model"]},
        seen,
        train=True,
        dropout_keys=jax.vmap(lambda key: jax.random.fold_in(key, DROPOUT))(keys),
        mutable=["batch_stats"],
    )
    entropy = cross_entropy(student.logits, known, label_smoothing, class_weights)
    hits = student.logits.argmax(-1) == (known if mix is None else known.argmax(-1))
    student = _first(student, len(labels)) if extra else student
    terms = {balances.LABELS: {"ce": entropy}}
    statistics: dict[str, PyTree] = {}
    diagnostics: Terms = {}
    if distillers:
        assert teacher_model is not None, "distillers compare with a teacher"
        taught = jax.lax.stop_gradient(teacher_model.apply(teacher, clips["rgb"], train=False))
    for name, distiller in distillers.items():
        variables = {
            "params": params["distillers"][name],
            "batch_stats": batch_stats["distillers"][name],
        }
        terms[name], changed = distiller.apply(
            variables, student, taught, labels, epoch=epoch, mutable=["batch_stats", "diagnostics"]
        )
        statistics[name] = changed.get("batch_stats", {})
        sown = changed.get("diagnostics", {})
        diagnostics |= {f"{name}/{key}": jnp.asarray(value[-1]) for key, value in sown.items()}
    diagnostics["accuracy"] = jnp.mean(hits.astype(jnp.float32))
    batch_stats = {"model": updated.get("batch_stats", {}), "distillers": statistics}
    losses = {name: added(own.values()) for name, own in terms.items()}
    return losses, (batch_stats, terms, diagnostics)


def _prepared(
    clips: Clips, keys: Array, prepare: Callable[..., Clips], mix: Callable | None
) -> tuple[Clips, Callable[[Array, int], Array]]:
    """What the networks see, and what makes distributions over the classes of labels if mixed."""
    clips = prepare(clips, keys)
    if mix is None:
        return clips, lambda labels, classes: labels
    clips, shares, partners = mix(clips, keys)

    def soften(labels: Array, classes: int) -> Array:
        own = jax.nn.one_hot(labels, classes)
        return shares[:, None] * own + (1 - shares[:, None]) * own[partners]

    return clips, soften


def _first(outputs: Outputs, count: int) -> Outputs:
    """What a network said of the first `count` clips."""
    features = {name: feature[:count] for name, feature in outputs.features.items()}
    return outputs._replace(logits=outputs.logits[:count], features=features)


def added(terms: Iterable[Array]) -> Array:
    """Their sum, in their order."""
    return functools.reduce(jnp.add, terms)

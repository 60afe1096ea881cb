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


def cross_entropy(
    logits: Float[Array, "b k"],
    labels: Int[Array, " b"],
    smoothing: float = 0.0,
    weights: Float[Array, " k"] | None = None,
) -> Float[Array, ""]:
    """Mean over the clips of -sum_k w_k q_k log p_k.

    q is one-hot, mixed with a uniform `smoothing`; `weights` w are 1 where there are none. The mean
    is over the number of clips, not over their weights, which would depend on how clips are dealt
    out to devices.
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
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
    modality: str,
    label_smoothing: float,
    class_weights: Array | None,
) -> tuple[Terms, Any]:
    """The loss of every source: the cross-entropy and each distiller, at its own weight.

    Clips of the entry `extra` have the student's modality only: they count in the cross-entropy and
    in the batch statistics, and no distiller sees them. Its mean is therefore that over the pairs,
    on any number of devices, as every device has as many.
    """
    clips, labels = prepare(batch["clips"], keys), batch["label"]
    seen, known = clips[modality], labels
    if extra := batch.get("extra"):
        seen = jnp.concatenate([seen, prepare(extra["clips"], extra["keys"])[modality]])
        known = jnp.concatenate([labels, extra["label"]])
        keys = jnp.concatenate([keys, extra["keys"]])
    student, updated = model.apply(
        {"params": params["model"], "batch_stats": batch_stats["model"]},
        seen,
        train=True,
        dropout_keys=jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys),
        mutable=["batch_stats"],
    )
    entropy = cross_entropy(student.logits, known, label_smoothing, class_weights)
    hits = student.logits.argmax(-1) == known
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


def _first(outputs: Outputs, count: int) -> Outputs:
    """What a network said of the first `count` clips."""
    features = {name: feature[:count] for name, feature in outputs.features.items()}
    return outputs._replace(logits=outputs.logits[:count], features=features)


def added(terms: Iterable[Array]) -> Array:
    """Their sum, in their order."""
    return functools.reduce(jnp.add, terms)

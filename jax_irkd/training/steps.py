"""One update and one evaluation of a network that may learn from another (Algorithm 1).

Pure functions of arrays; everything static is keyword-only and bound once. They run under an axis
name, given by `jax.pmap` in training and by `jax.vmap` in tests.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree, UInt

from jax_irkd.models.outputs import Outputs
from jax_irkd.training import balance as balances
from jax_irkd.training import objective
from jax_irkd.training.objective import Batch, Clips, Terms

AXIS = "batch"
# Of programs that run once.
_quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})
LossFn = Callable[..., tuple[Terms, Any]]


class TrainState(NamedTuple):
    """Everything an update changes. Randomness and data position follow from `step` and the seed.

    `params` and `batch_stats` have the entries `model` and `distillers`; `ema` is a running mean of
    the model's parameters, or empty. `rejected` counts the updates refused since the last good one.
    `balance` holds what is known of the distillers' gradients, empty without any.
    """

    step: Int[Array, ""]
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema: PyTree
    rejected: Int[Array, ""]
    balance: PyTree


def init_state(
    key: Array,
    *,
    segments: int,
    resolution: int,
    channels: int,
    model: nn.Module,
    distillers: Mapping[str, nn.Module],
    teacher: Callable[[Array], Outputs] | None,
    tx: optax.GradientTransformation,
    ema: bool = False,
    jit: Callable[[Callable], Callable] = _quick_jit,
) -> TrainState:
    """Fresh parameters for a model and the learnable parts of its distillers.

    `teacher` maps RGB clips to outputs; only the shapes of what it returns are used. `jit` compiles
    the initialisations; whoever wants the shapes only has nothing to compile.
    """
    model_key, *keys = jax.random.split(key, len(distillers) + 1)
    shape = (2, segments, resolution, resolution)
    single = alone(model)
    # Parameters do not depend on the size of the frames, and this program runs once: small
    # frames and little optimisation make for a quick start. NumPy's zeros need no program.
    init = jit(functools.partial(single.init, train=False))
    variables = init(model_key, np.zeros((2, 1, 32, 32, channels), np.float32))
    params = {"model": variables["params"], "distillers": {}}
    batch_stats = {"model": variables.get("batch_stats", {}), "distillers": {}}
    if distillers:
        assert teacher is not None, "distillers compare with a teacher"
        forward = functools.partial(single.apply, train=False)
        student = zeros(forward, variables, np.zeros((*shape, channels), np.float32))
        taught = zeros(teacher, np.zeros((*shape, 3), np.float32))
        learned = init_distillers(keys, distillers, student, taught, jit)
        params["distillers"], batch_stats["distillers"] = learned
    zero = jnp.zeros((), jnp.int32)
    average = jax.tree.map(jnp.copy, params["model"]) if ema else {}
    opt_state = jit(tx.init)(params)
    balance = balances.initial(list(distillers))
    return TrainState(zero, params, batch_stats, opt_state, average, jnp.copy(zero), balance)


def init_distillers(
    keys: Sequence[Array],
    distillers: Mapping[str, nn.Module],
    student: Outputs,
    teacher: Outputs,
    jit: Callable[[Callable], Callable] = _quick_jit,
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Fresh parameters and statistics of each distiller, empty for one that learns nothing.

    `student` and `teacher` are outputs for two clips, of which only the shapes are used.
    """
    params, statistics = {}, {}
    for (name, distiller), key in zip(distillers.items(), keys):
        start = functools.partial(alone(distiller).init, epoch=jnp.ones(()))
        example = (key, student, teacher, np.zeros(2, np.int32))
        learns = jax.tree.leaves(jax.eval_shape(start, *example))
        learned = jit(start)(*example) if learns else {}
        params[name] = learned.get("params", {})
        statistics[name] = learned.get("batch_stats", {})
    return params, statistics


def clip_keys(seed: int, numbers: UInt[Array, " b"]) -> Array:
    """The randomness of every clip of a run with this seed, by the clip's own number."""
    return jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(numbers)


def alone(module: nn.Module) -> nn.Module:
    """`module` without its device axis: there is none outside pmap."""
    return module.clone(axis_name=None) if hasattr(module, "axis_name") else module


def zeros(function: Callable, *args: PyTree) -> PyTree:
    """What `function` returns, as zeros, without running it."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(function, *args))


def train_step(
    state: TrainState,
    teacher: PyTree,
    batch: Batch,
    *,
    model: nn.Module,
    teacher_model: nn.Module | None,
    distillers: Mapping[str, nn.Module],
    tx: optax.GradientTransformation,
    prepare: Callable[[Clips, Array], Clips],
    mix: Callable[[Clips, Array], tuple[Clips, Array, Array]] | None = None,
    modality: str,
    seed: int,
    steps_per_epoch: int,
    label_smoothing: float = 0.0,
    class_weights: Float[Array, " k"] | None = None,
    ema_decay: float = 0.0,
    accumulation: int = 1,
    shares: Mapping[str, float] | None = None,
    measure: bool = False,
    axis_name: str = AXIS,
) -> tuple[TrainState, Terms]:
    """One update by the loss of `training.objective`, terms averaged over the axis.

    A loss, gradient or measured length that is not finite leaves the state as it was but for `step`
    and `rejected`.
    With `accumulation` > 1 the batch is cut into that many parts, whose gradients are averaged;
    relational distillers then compare the clips of one part only.

    The terms of a distiller in `shares` are multiplied as `training.balance` says. With `measure`
    the gradients of the cross-entropy and of every distiller are computed one by one, go into the
    balance, and come back as `NAME/pull` (multiplied) and `NAME/cosine`; their sum makes the same
    update.
    """
    keys = clip_keys(seed, batch["seed"])
    if "extra" in batch:
        extra = batch["extra"]
        batch = batch | {"extra": extra | {"keys": clip_keys(seed, extra["seed"])}}
    epoch = (state.step // steps_per_epoch + 1).astype(jnp.float32)
    loss_fn = functools.partial(
        objective.loss,
        teacher=teacher,
        epoch=epoch,
        model=model,
        teacher_model=teacher_model,
        distillers=distillers,
        prepare=prepare,
        mix=mix,
        modality=modality,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
    )
    shares, balance = shares or {}, state.balance
    pulls: Terms = {}
    lengths: Terms = {}
    weights = balances.multipliers(balance, shares)
    grad_fn = _apart(loss_fn) if measure else jax.grad(_sum(loss_fn, weights), has_aux=True)
    found = _accumulate(grad_fn, state, (batch, keys), accumulation)
    gradients, (batch_stats, terms, others) = jax.lax.pmean(found, axis_name)
    if measure:
        own = {name: tree["model"] for name, tree in gradients.items()}
        lengths, cosines = balances.lengths_and_cosines(own)
        balance = balances.observe(balance, lengths)
        weights = balances.multipliers(balance, shares)
        gradients = _weighted_sum(gradients, weights)
        pulls = _pulls(lengths, cosines, weights)
    terms = _flat(terms, weights) | others | pulls
    for name, weight in weights.items():
        terms[f"{name}/weight"] = weight * getattr(distillers[name], "weight", 1.0)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = optax.incremental_update(params["model"], state.ema, 1 - ema_decay) if state.ema else {}
    terms["gradient_norm"] = optax.tree.norm(gradients)
    # A length beyond float32 of finite numbers would stay in its mean for ever.
    sizes = [terms["loss"], terms["gradient_norm"], *lengths.values()]
    finite = jnp.all(jnp.isfinite(jnp.stack(sizes)))
    changed = TrainState(
        state.step, params, batch_stats, opt_state, ema, jnp.zeros_like(state.rejected), balance
    )
    kept = state._replace(
        rejected=state.rejected + 1, opt_state=_on_schedule(state.opt_state, opt_state)
    )
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), changed, kept)
    terms["rejected"] = state.rejected.astype(jnp.float32)
    return state._replace(step=state.step + 1), terms


def _on_schedule(kept: PyTree, advanced: PyTree) -> PyTree:
    """The optimiser's state `kept`, its learning rate where that of `advanced` is.

    A step passes whether its update is taken or not, and the rate is that of the step.
    """

    def counts(part: PyTree) -> bool:
        return isinstance(part, optax.ScaleByScheduleState)

    def chosen(old: PyTree, new: PyTree) -> PyTree:
        return new if counts(old) else old

    return jax.tree.map(chosen, kept, advanced, is_leaf=counts)


def _sum(loss_fn: LossFn, weights: Terms) -> Callable[..., tuple[Array, Any]]:
    """`loss_fn` with the losses of all sources added up, those in `weights` multiplied."""

    def total(*arguments: PyTree) -> tuple[Array, Any]:
        losses, aux = loss_fn(*arguments)
        return objective.added(weights.get(name, 1.0) * loss for name, loss in losses.items()), aux

    return total


def _apart(loss_fn: LossFn) -> Callable[..., tuple[Terms, Any]]:
    """The gradients of every source by its name, from one forward pass, and the rest."""

    def gradients(params: PyTree, *arguments: PyTree) -> tuple[dict[str, PyTree], Any]:
        losses, pull_back, aux = jax.vjp(lambda p: loss_fn(p, *arguments), params, has_aux=True)
        nothing = jax.tree.map(jnp.zeros_like, losses)
        alone = {name: nothing | {name: jnp.ones_like(losses[name])} for name in losses}
        return {name: pull_back(direction)[0] for name, direction in alone.items()}, aux

    return gradients


def _weighted_sum(gradients: dict[str, PyTree], weights: Terms) -> PyTree:
    factors = [weights.get(name, 1.0) for name in gradients]

    def total(*leaves: Array) -> Array:
        return objective.added(factor * leaf for factor, leaf in zip(factors, leaves, strict=True))

    return jax.tree.map(total, *gradients.values())


def _pulls(lengths: Terms, cosines: Terms, weights: Terms) -> Terms:
    found: Terms = {}
    for name, pull in balances.pulls(lengths, weights).items():
        found |= {f"{name}/pull": pull, f"{name}/cosine": cosines[name]}
    return found


def _flat(terms: dict[str, Terms], weights: Terms) -> Terms:
    """The terms of all sources as they stand in the loss, and the loss."""
    found: Terms = {}
    for source, own in terms.items():
        for name in set(own) & set(found):
            raise ValueError(f"two distillers return a term named {name!r}; rename one of them")
        found |= {name: weights.get(source, 1.0) * term for name, term in own.items()}
    return found | {"loss": objective.added(found.values())}


def _accumulate(
    grad_fn: Callable[..., tuple[PyTree, Any]], state: TrainState, data: PyTree, parts: int
) -> tuple[PyTree, Any]:
    """Mean gradient and terms over `parts` cuts of `data`; batch statistics pass from one on."""
    if parts == 1:
        return grad_fn(state.params, state.batch_stats, *data)

    def body(carried: PyTree, part: PyTree) -> tuple[PyTree, PyTree]:
        total, batch_stats = carried
        gradients, (batch_stats, *told) = grad_fn(state.params, batch_stats, *part)
        # A running sum: the gradients of all parts side by side would be the larger the more parts.
        return (jax.tree.map(jnp.add, total, gradients), batch_stats), told

    cut = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), data)
    first = jax.tree.map(lambda x: x[0], cut)
    shapes, _ = jax.eval_shape(grad_fn, state.params, state.batch_stats, *first)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (total, batch_stats), told = jax.lax.scan(body, (nothing, state.batch_stats), cut)
    gradients = jax.tree.map(lambda x: x / parts, total)
    return gradients, (batch_stats, *jax.tree.map(lambda x: x.mean(0), told))


def eval_step(
    variables: PyTree,
    batch: Batch,
    *,
    model: nn.Module,
    prepare: Callable[..., Clips],
    modality: str,
    views: int = 1,
    crops: PyTree = None,
    axis_name: str = AXIS,
) -> dict[str, Array]:
    """Logits of every clip of the batch, gathered over the axis, with the clip's index and mask.

    With several `views` in time or stacked `crops` (each handed to `prepare` as `crop`) a clip's
    logits are their mean.
    """

    def logits(**crop: PyTree) -> Float[Array, "n k"]:
        outputs: Any = model.apply(variables, prepare(clips, **crop)[modality], train=False)
        return outputs.logits.astype(jnp.float32)

    clips = batch["clips"]
    if views > 1:
        clips = jax.tree.map(lambda x: x.reshape(-1, x.shape[1] // views, *x.shape[2:]), clips)
    if crops is None:
        found = logits()
    else:  # one after the other: together they would need as much more memory
        found = jax.lax.map(lambda crop: logits(crop=crop), crops).mean(0)
    if views > 1:
        found = found.reshape(-1, views, found.shape[-1]).mean(1)
    scores = {
        "logits": found,
        "label": batch["label"],
        "mask": batch["mask"],
        "index": batch["index"],
    }
    return jax.lax.all_gather(scores, axis_name, tiled=True)

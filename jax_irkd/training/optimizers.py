"""Optimisers and learning-rate schedules by name, from optax."""

import functools
from collections.abc import Mapping

import jax
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jax_irkd.errors import UserError
from jax_irkd.models.resnet import FROZEN


def make_optimizer(
    training: ConfigDict,
    num_steps: int,
    steps_per_epoch: int,
    partial_bn: bool = False,
    frozen: str = "none",
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser and its learning rate by step. Raises UserError for an unknown name.

    What learns nothing does not decay either: the norms that partial batch norm freezes, and the
    parts of a network up to and including `frozen` (`models.resnet.FROZEN`).
    """
    rate, warmup = training.learning_rate, round(training.warmup_epochs * steps_per_epoch)
    after = max(num_steps - warmup, 1)
    schedules = {
        "step": lambda: optax.piecewise_constant_schedule(rate, {after // 2: 0.1}),
        "cosine": lambda: optax.cosine_decay_schedule(rate, after),
        "constant": lambda: optax.constant_schedule(rate),
    }
    schedule = _choose("schedule", training.schedule, schedules)()
    if warmup:
        ramp = optax.linear_schedule(0.0, rate, warmup)
        schedule = optax.join_schedules([ramp, schedule], [warmup])
    decay, decayed = training.weight_decay, None
    if partial_bn or frozen != "none":
        decayed = functools.partial(_learning, partial_bn=partial_bn, frozen=frozen)
    optimizers = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(decay, decayed), optax.sgd(schedule, training.momentum)
        ),
        "adamw": lambda: optax.adamw(schedule, weight_decay=decay, mask=decayed),
    }
    tx = _choose("optimizer", training.optimizer, optimizers)()
    if training.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(training.clip_norm), tx)
    return tx, schedule


def _learning(params: PyTree, partial_bn: bool, frozen: str) -> PyTree:
    """True for every parameter that learns."""
    still = FROZEN[1 : FROZEN.index(frozen) + 1]

    def learns(path, _) -> bool:
        names = [getattr(key, "key", "") for key in path]
        if "backbone" in names:
            part = names[names.index("backbone") + 1].partition("_")[0]
            if part in still:
                return False
        return not partial_bn or "stem" in names or not any("norm" in name for name in names)

    return jax.tree_util.tree_map_with_path(learns, params)


def _choose(field: str, name: str, choices: Mapping):
    if name not in choices:
        raise UserError(f"unknown {field} {name!r}; choose one of {sorted(choices)}")
    return choices[name]

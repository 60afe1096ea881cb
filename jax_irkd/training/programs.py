"""The programs of a run, bound for the loop, or with the shapes of their arguments only.

Shapes are enough to compile them: for a machine that has no data yet (`doctor`), and for a GPU or a
TPU that is not there (`benchmarks.gpu_check`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, PyTree
from ml_collections import ConfigDict

from jax_irkd.data import augment
from jax_irkd.data.spec import CHANNELS, SEES
from jax_irkd.fields import make_shares
from jax_irkd.models.folding import without_norms
from jax_irkd.training import steps
from jax_irkd.training.optimizers import make_optimizer
from jax_irkd.training.parallel import on_devices
from jax_irkd.training.phase import Network, Phase
from jax_irkd.training.setup import (
    frame_sizes,
    make_augmentation,
    make_distillers,
    make_mixing,
    make_model,
)

EPOCH = 1000  # steps, where no data tell how many


def bind_update(
    config: ConfigDict,
    phase: Phase,
    *,
    teacher_model: nn.Module | None,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    steps_per_epoch: int,
    measure: bool = False,
    class_weights: Float[np.ndarray, " k"] | None = None,
) -> Callable:
    """`steps.train_step` of (state, teacher, batch, stop) as the loop runs it on every device."""
    if class_weights is not None:
        class_weights = jnp.asarray(class_weights, jnp.float32)
    step = functools.partial(
        steps.train_step,
        model=phase.model,
        teacher_model=teacher_model,
        distillers=phase.distillers,
        tx=tx,
        prepare=make_augmentation(config.input),
        mix=make_mixing(config.input),
        modality=phase.modality,
        seed=config.seed,
        steps_per_epoch=steps_per_epoch,
        label_smoothing=phase.training.label_smoothing,
        class_weights=class_weights,
        ema_decay=phase.training.ema_decay,
        accumulation=phase.training.accumulation,
        shares=phase.shares,
        measure=measure,
    )

    def update(state, teacher, batch, stop):
        # Here, because a value computed between the steps would wait for the one under way.
        rate = jnp.asarray(schedule(state.step), jnp.float32)
        state, terms = step(state, teacher, batch)
        # Every process learns in the same step that one of them was asked to stop.
        stop = jax.lax.pmax(stop.astype(jnp.int32)[0], steps.AXIS)
        return state, terms | {"learning_rate": rate, "stop": stop}

    return update


def fresh_state(
    config: ConfigDict, phase: Phase, tx: optax.GradientTransformation, **options
) -> steps.TrainState:
    """`steps.init_state` of a phase; `options` go there too."""
    teacher = phase.teacher and functools.partial(
        phase.teacher.model.apply, phase.teacher.variables, train=False
    )
    return steps.init_state(
        jax.random.key(config.seed),
        segments=config.input.num_segments,
        resolution=config.input.resolution,
        channels=CHANNELS[phase.modality],
        model=phase.model,
        distillers=phase.distillers,
        teacher=teacher,
        tx=tx,
        ema=phase.training.ema_decay > 0,
        **options,
    )


class Views(NamedTuple):
    """How often a test clip is looked at: in time, and in space (`augment.evaluation_crops`)."""

    clips: int = 1
    crops: int = 1
    wide: bool = True

    @classmethod
    def of(cls, config: ConfigDict, modality: str) -> "Views":
        """Those of a configuration; an older one has one of each."""
        height, width = config.dataset[f"{modality}_size"]
        asked = config.get("eval", {})
        return cls(asked.get("clips", 1), asked.get("crops", 1), width >= height)


ONE_VIEW = Views()


def bind_evaluation(
    model: nn.Module, modality: str, resolution: int, scale: float, views: Views = ONE_VIEW
) -> Callable:
    """`steps.eval_step` of (variables, batch) as it runs on every device."""
    prepare = functools.partial(augment.prepare_evaluation, resolution=resolution, scale=scale)
    several = augment.evaluation_crops(views.crops, scale, views.wide) if views.crops > 1 else None
    return functools.partial(
        steps.eval_step,
        model=model,
        prepare=prepare,
        modality=modality,
        views=views.clips,
        crops=several,
    )


class StepProgram(NamedTuple):
    """A step, the shapes of its arguments, and which of them are split over devices or donated.

    The leading axis of what is split counts the clips of all devices.
    """

    step: Callable
    arguments: tuple[PyTree, ...]
    split: tuple[int, ...]
    donate: tuple[int, ...] = ()


def update_program(
    config: ConfigDict, role: str, num_classes: int, measure: bool = False
) -> StepProgram:
    """The update of the `teacher` or the `student` that `config` asks for.

    With `measure` that of the few steps that measure the terms' pulls (`balance`).
    Raises UserError for a network, distiller or optimiser that cannot be made.
    """
    training = config[f"{role}_training"]
    made = make_distillers(config.distillers) if role == "student" else {}
    teacher = None
    if made:
        teacher_model = make_model(config.teacher_model, num_classes, config.dtype)
        teacher = Network(teacher_model, _variables(config, teacher_model, SEES["teacher"]))
    phase = Phase(
        name=role,
        modality=SEES[role],
        model=make_model(config[f"{role}_model"], num_classes, config.dtype),
        training=training,
        distillers=made,
        shares=make_shares(config.distillers) if made else {},
        teacher=teacher,
    )
    num_steps = max(round(training.num_epochs * EPOCH), 1)
    frozen = phase.model.partial_bn, phase.model.frozen
    tx, schedule = make_optimizer(training, num_steps, EPOCH, *frozen)
    folded_model, folded = without_norms(*(teacher or (None, None)))
    update = bind_update(
        config,
        phase,
        teacher_model=folded_model,
        tx=tx,
        schedule=schedule,
        steps_per_epoch=EPOCH,
        measure=measure,
        class_weights=np.ones(num_classes) if training.class_weights != "none" else None,
    )
    clips = training.batch_size
    batch = {
        "clips": _clips(config, phase.modalities, clips),
        "label": jax.ShapeDtypeStruct((clips,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((clips,), jnp.float32),
        "seed": jax.ShapeDtypeStruct((clips,), jnp.uint32),
    }
    if made and (extra := training.get("extra_clips", 0)):
        single = {"clips": _clips(config, (phase.modality,), extra)}
        for name in ("label", "mask", "seed"):
            single[name] = jax.ShapeDtypeStruct((extra,), batch[name].dtype)
        batch["extra"] = single
    stop = jax.ShapeDtypeStruct((clips,), jnp.bool_)
    arguments = (_state(config, phase, tx), folded, batch, stop)
    return StepProgram(update, arguments, split=(2, 3), donate=(0,))


def evaluation_batch(config: ConfigDict, views: Views, devices: int) -> int:
    """Clips that an evaluation looks at in one go, over all `devices`: as many on each."""
    return math.ceil(config.input.eval_batch_size / views.clips / devices) * devices


def evaluation_program(
    config: ConfigDict, role: str, num_classes: int, devices: int = 1
) -> StepProgram:
    """The evaluation of the trained `teacher` or `student` over so many `devices`."""
    modality = SEES[role]
    model = make_model(config[f"{role}_model"], num_classes, config.dtype)
    views = Views.of(config, modality)
    clips = evaluation_batch(config, views, devices)
    sizes = config.input.resolution, config.input.eval_scale
    step = bind_evaluation(model, modality, *sizes, views)
    batch = {
        "clips": _clips(config, (modality,), clips, views.clips),
        "label": jax.ShapeDtypeStruct((clips,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((clips,), jnp.float32),
        "index": jax.ShapeDtypeStruct((clips,), jnp.int32),
    }
    return StepProgram(step, (_variables(config, model, modality), batch), split=(1,))


def memory_of(program: StepProgram, devices: list[jax.Device]) -> float:
    """Bytes that a device holds at once while it runs `program`, which is compiled to see."""
    cut = [
        jax.tree.map(lambda x: _part(x, len(devices)), argument) if i in program.split else argument
        for i, argument in enumerate(program.arguments)
    ]
    axes = tuple(0 if i in program.split else None for i in range(len(cut)))
    parallel = on_devices(program.step, devices, in_axes=axes, donate=program.donate)
    needed = parallel.lower(*cut).compile().memory_analysis()
    held = needed.argument_size_in_bytes + needed.output_size_in_bytes
    return held + needed.temp_size_in_bytes - needed.alias_size_in_bytes


def _part(x: jax.ShapeDtypeStruct, devices: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((devices, x.shape[0] // devices, *x.shape[1:]), x.dtype)


def _clips(config: ConfigDict, modalities: tuple[str, ...], clips: int, views: int = 1) -> PyTree:
    sizes = frame_sizes(config)
    return {
        name: jax.ShapeDtypeStruct(
            (clips, views * config.input.num_segments, *sizes[name], CHANNELS[name]), jnp.uint8
        )
        for name in modalities
    }


def _variables(config: ConfigDict, model: nn.Module, modality: str) -> PyTree:
    side = config.input.resolution
    shape = (1, config.input.num_segments, side, side, CHANNELS[modality])
    init = functools.partial(steps.alone(model).init, train=False)
    return jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def _state(config: ConfigDict, phase: Phase, tx: optax.GradientTransformation) -> PyTree:
    def init(teacher):
        learner = dataclasses.replace(phase, teacher=teacher)
        return fresh_state(config, learner, tx, jit=jax.jit)  # in a trace: nothing is compiled

    model, variables = phase.teacher or (None, None)
    return jax.eval_shape(lambda variables: init(model and Network(model, variables)), variables)

"""The distillation step of the library, ready to be timed: networks, variables, a batch.

ResNet-50 teacher on RGB with its batch norms folded, ResNet-18 student on one infrared channel,
cross-entropy + DKD + MGCAM, SGD. Needs jax, flax, optax and jaxtyping.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_irkd import distillers
from jax_irkd.data.augment import normalise
from jax_irkd.models.folding import without_norms
from jax_irkd.models.outputs import Outputs
from jax_irkd.models.tsn import TSN
from jax_irkd.training import balance, steps

# Names of methods, or names with the fields of their distillers.
Methods = Mapping[str, Mapping[str, Any]] | tuple[str, ...]
METHODS = ("dkd", "mgcam")
CLASSES = 60
DECAY, MOMENTUM, RATE = 5e-4, 0.9, 1e-3
TX = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, MOMENTUM))


class Sizes(NamedTuple):
    """Clips of a batch, segments of a clip, pixels of a side, width of the first stage."""

    clips: int = 8
    segments: int = 8
    resolution: int = 224
    width: int = 64

    def __str__(self) -> str:
        return f"{self.clips} × {self.segments} × {self.resolution}²"


class Networks(NamedTuple):
    """Both models, and variables that training could have left, as NumPy arrays."""

    sizes: Sizes
    teacher_model: nn.Module
    teacher: dict
    model: nn.Module
    student: dict


def networks(sizes: Sizes, half: bool, lift: float = 0.0) -> Networks:
    """Teacher and student; drawn, as a network's speed does not depend on what it learned.

    `lift` is added to the biases of the norms. At 1 few units are near zero, where rounding alone
    decides whether a gradient passes.
    """
    dtype = jnp.bfloat16 if half else jnp.float32
    options = {"num_classes": CLASSES, "width": sizes.width, "dropout": 0.0, "dtype": dtype}
    teacher, student = (TSN(depth=depth, **options) for depth in (50, 18))
    variables = draw(teacher, 3, seed=1, lift=lift), draw(student, 1, seed=2, lift=lift)
    return Networks(sizes, teacher, variables[0], student, variables[1])


def draw(model: nn.Module, channels: int, seed: int, lift: float = 0.0) -> dict:
    """Variables of a residual network whose maps keep their size from stage to stage."""
    clips = jax.ShapeDtypeStruct((1, 1, 64, 64, channels), jnp.float32)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), clips)
    rng = np.random.default_rng(seed)

    def leaf(keys, shape) -> np.ndarray:
        name = keys[-1].key
        if name == "kernel":
            deviation = (2 / np.prod(shape.shape[:-1])) ** 0.5
            return rng.normal(0, deviation, shape.shape).astype(np.float32)
        bounds = {"var": (0.8, 1.2), "scale": (0.3, 0.7), "mean": (-0.2, 0.2)}
        low, high = bounds.get(name, (lift - 0.2, lift + 0.2))
        return rng.uniform(low, high, shape.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def state_of(found: Networks, methods: Methods = METHODS) -> steps.TrainState:
    """A fresh training state on the device, with what the methods learn themselves."""
    params, statistics = (
        {"model": jax.tree.map(jnp.array, found.student[name]), "distillers": {}}
        for name in ("params", "batch_stats")
    )
    if methods:
        keys = list(jax.random.split(jax.random.key(3), len(methods)))
        learned = steps.init_distillers(keys, make_distillers(methods), *_outputs(found))
        params["distillers"], statistics["distillers"] = learned
    return steps.TrainState(
        jnp.zeros((), jnp.int32),
        params,
        statistics,
        TX.init(params),
        {},
        jnp.zeros((), jnp.int32),
        balance.initial(list(methods)),
    )


def _outputs(found: Networks) -> tuple[Outputs, Outputs]:
    """Those of both networks for two clips, as zeros."""
    _, segments, side, _ = found.sizes
    both = (found.model, found.student, 1), (found.teacher_model, found.teacher, 3)
    student, teacher = (
        steps.zeros(
            functools.partial(model.apply, train=False),
            variables,
            np.zeros((2, segments, side, side, channels), np.float32),
        )
        for model, variables, channels in both
    )
    return student, teacher


def make_batch(sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
    """uint8 clips of patches that differ from clip to clip, and labels."""
    rng = np.random.default_rng(seed)
    shape, side = (sizes.clips, sizes.segments), sizes.resolution
    coarse = -(-side // 16)

    def clips(channels: int) -> np.ndarray:
        patches = rng.integers(0, 128, (*shape, coarse, coarse, channels))
        light = rng.integers(0, 128, (sizes.clips, 1, 1, 1, channels))
        pixels = (patches + light).repeat(16, axis=2).repeat(16, axis=3)
        return np.ascontiguousarray(pixels[:, :, :side, :side].astype(np.uint8))

    labels = rng.integers(0, CLASSES, sizes.clips).astype(np.int32)
    return {"rgb": clips(3), "infrared": clips(1), "label": labels}


def gradient_of(state: steps.TrainState, params: Mapping) -> dict:
    """The student's gradient in the update from `params` to `state`, the first of its optimizer."""
    traces = [part.trace for part in jax.tree.leaves(state.opt_state, is_leaf=_is_trace)]
    return jax.tree.map(
        lambda trace, before: np.asarray(trace) - DECAY * np.asarray(before),
        jax.device_get(traces[0]["model"]),
        params,
    )


def _is_trace(node) -> bool:
    return hasattr(node, "trace")


def as_step_input(batch: Mapping[str, np.ndarray], devices: int = 1) -> dict:
    """The batch as the training step takes it, split over so many devices and lying there."""
    clips = {name: batch[name] for name in ("rgb", "infrared") if name in batch}
    seeds = np.arange(len(batch["label"]), dtype=np.uint32)
    parts = {"clips": clips, "label": batch["label"], "seed": seeds}
    parts = jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), parts)
    return jax.device_put(parts, NamedSharding(_mesh(devices), PartitionSpec(steps.AXIS)))


def replicate(tree, devices: int = 1):
    """`tree` whole on each of so many devices, where pmap takes it without a copy."""
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def _mesh(devices: int) -> Mesh:
    return Mesh(np.asarray(_devices(devices)), (steps.AXIS,))


def _devices(count: int) -> list[jax.Device]:
    """The first of the kind that `jax.default_device` chose, if it did."""
    chosen = jax.config.jax_default_device
    return jax.devices(chosen.platform if chosen else None)[:count]


def prepare(clips: dict, keys: jax.Array) -> dict:
    """uint8 to normalised pixels on the device; no augmentation, as its cost is measured apart."""
    del keys
    return {name: normalise(x.astype(jnp.float32) / 255.0) for name, x in clips.items()}


def bound_step(model: nn.Module, teacher_model: nn.Module, methods: Methods = METHODS):
    """`steps.train_step` of (state, teacher, batch) with everything static bound."""
    return functools.partial(
        steps.train_step,
        model=model,
        teacher_model=teacher_model,
        distillers=make_distillers(methods),
        tx=TX,
        prepare=prepare,
        modality="infrared",
        seed=0,
        steps_per_epoch=1000,
    )


def make_distillers(methods: Methods) -> dict[str, nn.Module]:
    """The methods as modules that compare clips over all devices."""
    given = methods if isinstance(methods, Mapping) else {name: {} for name in methods}
    return {
        name: distillers.get(name)(**{**_axis(name), **fields}) for name, fields in given.items()
    }


def _axis(name: str) -> dict[str, str]:
    return {"axis_name": steps.AXIS} if hasattr(distillers.get(name), "axis_name") else {}


def parallel(step, devices: int = 1):
    """The step on the first `devices` as training runs it: state donated."""
    return jax.pmap(
        step,
        axis_name=steps.AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        donate_argnums=0,
        devices=_devices(devices),
    )


class Step:
    """Ours: every call updates the student once; `wait` waits for what was asked for."""

    def __init__(
        self,
        found: Networks,
        batch: Mapping[str, np.ndarray],
        methods: Methods = METHODS,
        devices: int = 1,
    ):
        teacher_model, teacher = without_norms(found.teacher_model, found.teacher)
        self.update = parallel(bound_step(found.model, teacher_model, methods), devices)
        self.teacher = replicate(teacher, devices)
        self.batch = as_step_input(batch, devices)
        self.state, self.terms = replicate(state_of(found, methods), devices), None

    def __call__(self) -> dict[str, jax.Array]:
        self.state, self.terms = self.update(self.state, self.teacher, self.batch)
        return self.terms

    def wait(self) -> None:
        jax.block_until_ready((self.state, self.terms))

    def lower(self):
        return self.update.lower(self.state, self.teacher, self.batch)

"""What a config would do: steps, learning rates, parameters, arithmetic and memory.

Nothing is compiled or run: shapes and counts come from tracing the programs. Activations are what
differentiation keeps for the backward pass, so the memory is an upper estimate: XLA computes some
of them again instead (a ResNet-18 compiled for the CPU held two thirds).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jax_irkd.config import trains_teacher
from jax_irkd.data.loading import Dataset
from jax_irkd.data.spec import CHANNELS, ROLES, SEES
from jax_irkd.host.operations import operations
from jax_irkd.training import setup
from jax_irkd.training.objective import cross_entropy
from jax_irkd.training.optimizers import make_optimizer
from jax_irkd.training.setup import frame_sizes, make_reader

UNKNOWN_STEPS = 100  # an epoch's, for the shape of the curve, when the clips are not known


class NetworkCost(NamedTuple):
    """One network on one clip, and what its training holds. Bytes and floating-point operations."""

    parameters: int
    forward_flops: float
    training_flops: float
    activations: float  # bytes a clip in training
    state: int  # parameters, statistics, gradients, optimiser
    dtype: str


class PhasePlan(NamedTuple):
    """One phase: how long it is and what an update costs."""

    name: str
    modality: str
    clips: int | None
    steps_per_epoch: int | None
    num_steps: int | None
    batch_size: int
    per_device: int
    epochs: Float[np.ndarray, " n"]
    rates: Float[np.ndarray, " n"]
    cost: NetworkCost
    update_flops: float
    memory: dict[str, float]  # bytes a device, by what they hold

    @property
    def needed(self) -> float:
        """Bytes that training holds on a device, an upper estimate."""
        return sum(self.memory.values())


def phases(config: ConfigDict) -> list[tuple[str, str, str]]:
    """Name, role and modality of the networks that a run of `config` trains, in their order."""
    teacher = ("teacher", "teacher", SEES["teacher"])
    if config.method == "teacher":
        return [teacher]
    student = (config.method, "student", SEES["student"])
    return [teacher, student] if trains_teacher(config) else [student]


def plan(
    config: ConfigDict, dataset: Dataset | None, *, clips: int = 0, classes: int = 0
) -> list[PhasePlan]:
    """The plans of all phases. `clips` and `classes` stand in for a dataset that is not there."""
    classes = len(dataset.class_names) if dataset else classes
    ahead = phases(config)
    roles = {role for _, role, _ in ahead} | ({"teacher"} if config.distillers else set())
    costs = {role: cost(config, role, classes) for role in roles}
    return [_plan(config, dataset, clips, costs, *phase) for phase in ahead]


def _plan(config, dataset, clips, costs: dict[str, NetworkCost], name, role, modality) -> PhasePlan:
    training = config[f"{role}_training"]
    if dataset:
        clips = len(make_reader(config, dataset, "train", (modality,)).records)
    per_epoch, steps = setup.lengths(training, clips or UNKNOWN_STEPS * training.batch_size)
    _, schedule = make_optimizer(training, steps, per_epoch)
    points = np.unique(np.linspace(0, steps - 1, min(steps, 400)).round().astype(int))
    rates = np.broadcast_to(np.asarray(schedule(jnp.asarray(points)), float), points.shape)
    devices = config.num_devices or jax.device_count()
    per_device = max(training.batch_size // devices, 1)
    taught = role == "student" and bool(config.distillers)
    own = costs[role]
    update = own.training_flops + (costs["teacher"].forward_flops if taught else 0)
    return PhasePlan(
        name=name,
        modality=modality,
        clips=clips or None,
        steps_per_epoch=per_epoch if clips else None,
        num_steps=steps if clips else None,
        batch_size=training.batch_size,
        per_device=per_device,
        epochs=points / per_epoch,
        rates=rates,
        cost=own,
        update_flops=update * training.batch_size,
        memory=_memory(config, own, costs["teacher"] if taught else None, modality, per_device),
    )


def _memory(
    config, own: NetworkCost, teacher: NetworkCost | None, modality: str, clips: int
) -> dict[str, float]:
    names = CHANNELS if teacher else (modality,)
    sizes = frame_sizes(config)
    frames = config.input.num_segments * clips
    pixels = sum(np.prod(sizes[name]) * CHANNELS[name] for name in names) * frames
    prepared = sum(CHANNELS[name] for name in names) * config.input.resolution**2 * frames
    training = config[f"{ROLES[modality]}_training"]
    memory = {
        "network, gradients, optimiser": float(own.state),
        "activations": own.activations * clips / training.accumulation,
        # The whole batch is normalised in float32 before the network sees it.
        "batch": float(pixels * (1 + 4) + prepared * 4),
    }
    if teacher:
        memory["teacher"] = 4.0 * teacher.parameters
    return memory


def cost(config: ConfigDict, role: str, classes: int) -> NetworkCost:
    """Counts for the network of `role`, by tracing it forwards and backwards for one clip."""
    model = setup.make_network(config, role, classes).clone(axis_name=None)
    training = config[f"{role}_training"]
    side, channels = config.input.resolution, 1 if role == "student" else 3

    def clips(count):
        return _struct((count, config.input.num_segments, side, side, channels), jnp.float32)

    variables = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), clips(1)
    )
    loss = functools.partial(_loss, model)
    forward = jax.jit(lambda v, x: model.apply(v, x, train=False).logits)
    backward = jax.jit(jax.grad(lambda p, rest, x: loss(p, rest, x)))
    params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}
    kept = [_bytes(_residuals(loss, params, rest, clips(count))) for count in (1, 2)]
    tx, _ = make_optimizer(training, 2, 1)
    state = 2 * _bytes(params) + _bytes(rest) + _bytes(jax.eval_shape(tx.init, params))
    state += _bytes(params) if training.ema_decay else 0
    return NetworkCost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        forward_flops=operations(forward, variables, clips(1)),
        training_flops=operations(backward, params, rest, clips(1)),
        activations=kept[1] - kept[0],
        state=state,
        dtype=jnp.dtype(getattr(model, "dtype", jnp.float32)).name,
    )


def _loss(model, params, rest, clips):
    count = clips.shape[0]
    outputs, _ = model.apply(
        {"params": params, **rest},
        clips,
        train=True,
        dropout_keys=jax.random.split(jax.random.key(0), count),
        mutable=["batch_stats"],
    )
    return cross_entropy(outputs.logits, jnp.zeros(count, jnp.int32))


def _residuals(loss, params, rest, clips):
    """Shapes of what differentiation keeps for the backward pass: the arrays inside the vjp."""
    return jax.eval_shape(
        lambda p, r, x: jax.tree.leaves(jax.vjp(lambda q: loss(q, r, x), p)[1]), params, rest, clips
    )


def _struct(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype)


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

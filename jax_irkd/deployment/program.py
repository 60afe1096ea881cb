"""The program of an exported network, compared with the Flax model it stands for."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment.classifier import cost, frame_step, probabilities
from jax_irkd.deployment.precision import dequantise, with_precision
from jax_irkd.detection.consensus import softmax
from jax_irkd.errors import UserError
from jax_irkd.models.folding import fold_batch_norm
from jax_irkd.models.tsn import no_past, streams
from jax_irkd.training.evaluation import Network

TOLERANCE = 1e-4  # largest difference of a probability from the Flax model's


PLATFORMS = ("cpu", "cuda")


# The channels of a ResNet's first stage. There half of a convolution's time is saved for a tenth of
# a second of compilation; all stages would save a quarter more of a clip's time for 2.5 seconds.
WIDEST_WINOGRAD = 64


class Program(NamedTuple):
    """A function of weights and uint8 clips, and the Flax model it stands for.

    `folded` says whether batch norms were, `cost` is parameters and operations per clip. `network`
    is the model that the function computes, in float32, and `names` are those of its weights.
    `frames` is a function of weights, frames and `past` (leaves), None for networks that need whole
    clips.
    """

    function: Callable
    weights: list[np.ndarray]
    reference: Callable
    folded: bool
    spec: InputSpec
    cost: tuple[int, float]
    network: Network
    names: list[str]
    frames: Callable | None = None
    past: list[np.ndarray] | None = None


def make_program(
    network: Network, spec: InputSpec, precision: str = "float32", *, winograd: int = 0
) -> Program:
    """Weights and clips to probabilities, batch norms folded where that is exact.

    `winograd` is that of `models.resnet`: how many channels a convolution may have to be replaced.
    """
    model, variables = with_precision(network.model, network.variables, "float32")
    reference = _jitted(model, variables, spec)
    size = cost(variables, reference.func, spec)
    folded = _fold(model, variables)
    clips = check_clips(spec, 2)
    # Folding is exact but for rounding, unless the model names its layers in an unknown way.
    keeps = folded is not None and _distance(_jitted(*folded, spec), reference, clips) <= TOLERANCE
    plain = Network(*(folded if keeps else (model, variables)))
    model, variables = with_precision(*plain, precision)
    if hasattr(model, "winograd"):
        model = model.clone(winograd=winograd)

    named, structure = jax.tree.flatten_with_path(variables)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in named]
    weights = [np.asarray(weight) for _, weight in named]

    def restored(weights):
        stored = jax.tree.unflatten(structure, weights)
        return {**stored, "params": dequantise(stored["params"])}

    def function(weights, clips):
        return probabilities(restored(weights), clips, model=model, spec=spec)

    made = Program(function, weights, reference, keeps, spec, size, plain, names)
    if not streams(model):
        return made
    leaves, kept = jax.tree.flatten(no_past(model, spec.cropped))

    def frames(weights, frames, past):
        past = jax.tree.unflatten(kept, past)
        logits, past = frame_step(restored(weights), frames, past, model=model, spec=spec)
        return logits, jax.tree.leaves(past)

    return made._replace(frames=frames, past=[*map(np.asarray, leaves)])


def _jitted(model, variables: PyTree, spec: InputSpec) -> Callable:
    step = jax.jit(functools.partial(probabilities, model=model, spec=spec))
    return functools.partial(step, variables)


def _fold(model, variables: PyTree) -> tuple[Any, PyTree] | None:
    if not variables.get("batch_stats") or not hasattr(model, "norm"):
        return None
    return model.clone(norm=False), fold_batch_norm(variables)


def check_clips(spec: InputSpec, count: int) -> np.ndarray:
    """Clips that differ in brightness, contrast and texture, to compare two programs with."""
    rng = np.random.default_rng(0)
    shape = spec.shape
    coarse = rng.integers(0, 256, (count, shape[0], 8, 8, shape[3]))
    rows, columns = (np.arange(side) * 8 // side for side in shape[1:3])
    noise = rng.integers(-40, 41, (count, *shape))
    return np.clip(coarse[:, :, rows][:, :, :, columns] + noise, 0, 255).astype(np.uint8)


def _distance(first: Callable, second: Callable, clips: np.ndarray) -> float:
    """Largest difference of a probability, and of a log probability as a share of it.

    The logarithm sees what a confident softmax hides. Infinite when something is not finite.
    """
    try:
        pair = [np.asarray(step(clips), np.float64) for step in (first, second)]
    except (KeyError, TypeError, ValueError):
        return np.inf
    except Exception as error:  # Flax's own classes for variables that do not fit the model.
        if not type(error).__module__.startswith("flax"):
            raise
        return np.inf
    difference = np.abs(pair[0] - pair[1])
    kept = np.minimum(*pair) > 1e-37  # Smaller ones have no precision left in float32.
    logs = [np.log(np.where(kept, scores, 1.0)) for scores in pair]
    relative = np.abs(logs[0] - logs[1]) / np.maximum(1.0, np.abs(logs[1]))
    worst = max(difference.max(), relative.max())
    return float(worst) if np.isfinite(difference).all() else np.inf


def stablehlo(program: Program) -> tuple[bytes, int]:
    """The module for CPUs and CUDA, with a symbolic batch, and its calling convention's number."""
    batch = jax.export.symbolic_shape("b")
    clips = jax.ShapeDtypeStruct((*batch, *program.spec.shape), jnp.uint8)
    jitted = jax.jit(program.function, keep_unused=True)
    made = jax.export.export(jitted, platforms=PLATFORMS)(program.weights, clips)
    return made.mlir_module_serialized, made.calling_convention_version


def frames_stablehlo(program: Program) -> bytes:
    """`stablehlo` of the program for frames, with a symbolic number of them."""
    count = jax.export.symbolic_shape("n")
    frames = jax.ShapeDtypeStruct((*count, *program.spec.shape[1:]), jnp.uint8)
    jitted = jax.jit(program.frames, keep_unused=True)
    made = jax.export.export(jitted, platforms=PLATFORMS)(program.weights, frames, program.past)
    return made.mlir_module_serialized


def clips_by_frames(step: Callable, past: Any) -> Callable:
    """A function of clips that looks at one frame after the other."""

    def probabilities(clips: np.ndarray) -> np.ndarray:
        means = []
        for clip in clips:
            kept, logits = past, []
            for frame in clip:
                found, kept = step(frame[None], kept)
                logits.append(np.asarray(found)[0])
            means.append(np.mean(logits, axis=0))
        return softmax(np.stack(means))

    return probabilities


def check(loaded: Callable, program: Program, precision: str) -> float:
    """The distance of a file's program from the Flax model; raises UserError when it is wrong.

    bf16 and int8 change the numbers by design: there only non-finite results are refused.
    """
    distance = max(
        _distance(loaded, program.reference, check_clips(program.spec, count)) for count in (2, 1)
    )
    if precision != "float32" and not np.isfinite(distance):
        raise UserError(
            f"in {precision} the network's probabilities are not finite; nothing was written. Take "
            "--precision=bf16 or float32"
        )
    if distance > (TOLERANCE if precision == "float32" else np.finfo(np.float32).max):
        raise UserError(
            f"the exported program's probabilities differ from the Flax model's by {distance:.2g}, "
            f"more than {TOLERANCE:.0e} (jax {jax.__version__}); nothing was written. Please "
            "report the versions of jax and flax and the model's config"
        )
    return distance

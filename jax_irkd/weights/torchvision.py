"""ResNet weights with torchvision's names: files to variables, and back.

    variables = load_pretrained("resnet18.safetensors", variables)

Reads `.safetensors` and PyTorch's `.pth`, `.pt`, `.bin` or `.tar`; nothing in a file is executed.
The names may be torchvision's or those of another library (`jax_irkd.weights.names`). Every key
must fit. `num_batches_tracked` is ignored, and the classifier `fc` is taken over only if its shape
agrees (a file for 1000 classes leaves a head for 60 as it is).

A one-channel network gets from a three-channel file what the file's network computes on the
replicated channel, both with their own pixel normalisation: the kernels summed over the
channels, and an offset convolved over a map of ones (`input_offset`), because zero padding
keeps the border from being a plain bias.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_irkd.data.pixels import INFRARED_MEAN, INFRARED_STD, RGB_MEAN, RGB_STD, replicated_channel
from jax_irkd.errors import UserError
from jax_irkd.weights import files, names

Variables = dict[str, Any]
State = dict[str, np.ndarray]

_DTYPES = ["float16", "bfloat16", "float32", "float64"]
HEAD = ("fc.weight", "fc.bias")
_INPUT, _OFFSET = "conv1.weight", "conv1.offset"
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_LAYERS = {
    "conv": "conv1",
    "offset": "conv1",
    "norm": "bn1",
    "projection": "downsample.0",
    "projection_norm": "downsample.1",
}


def load_pretrained(
    path: str | Path,
    variables: Variables,
    *,
    infrared_mean: float = INFRARED_MEAN[0],
    infrared_std: float = INFRARED_STD[0],
    rgb_mean: tuple[float, ...] = RGB_MEAN,
    rgb_std: tuple[float, ...] = RGB_STD,
) -> Variables:
    """The variables of a `TSN` (or of its backbone), filled from a file.

    Depth, width, input channels and classes are those of `variables`; the means and
    standard deviations are those the two networks' pixels, in [0, 1], are normalised
    with. They matter only where a three-channel file enters a one-channel network.

    Raises UserError for a file that cannot be read or does not fit.
    """
    normalization = replicated_channel(infrared_mean, infrared_std, rgb_mean, rgb_std)
    return fill(files.read(path), variables, f"weights file {path}", normalization)


def fill(
    state: State,
    variables: Variables,
    source: str,
    normalization: tuple[np.ndarray, np.ndarray] | None = None,
) -> Variables:
    """`variables` with the arrays of a torchvision state dict, as `load_pretrained` explains.

    A state without a head leaves that of `variables`. Raises UserError, which calls the state
    `source`, where it does not fit.
    """
    state = _clean(state, source)
    expected = {name: np.shape(leaf) for name, leaf in to_torchvision(variables).items()}
    if any(name in state and state[name].shape != expected.get(name) for name in HEAD):
        state = {name: value for name, value in state.items() if name not in HEAD}
    state = _fit_input(state, expected, normalization or replicated_channel(), source)
    _check(state, expected, source)

    def chosen(keys: tuple, leaf: jax.Array) -> jax.Array:
        name = _name(keys)
        if name not in state:  # the head of another number of classes
            return leaf
        return jnp.asarray(_from_torch(state[name], leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(chosen, variables)


def to_torchvision(variables: Variables) -> State:
    """A float32 state dict for torchvision's ResNet of the same shape.

    What torchvision has no name for is called `conv1.offset` (the input offset), and
    `conv*.bias` and `downsample.0.bias` in a network without batch norms.
    """
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {_name(keys): _to_torch(_name(keys), np.asarray(leaf)) for keys, leaf in leaves}


def recognised(state: State, source: str) -> tuple[State, str]:
    """The ResNet in `state` under torchvision's names, float32, and what it is in words.

    Raises UserError, which calls the state `source`, for what no network of this package is.
    """
    state = _clean(state, source)
    shapes = {name: value.shape for name, value in state.items()}
    other = names.relative(shapes)
    if other or depth_of(shapes) is None:
        raise UserError(f"{source} {f'holds {other}' if other else _describe(state)}")
    classes = shapes.get(HEAD[0])
    return (
        state,
        f"{_describe_network(shapes)}, {f'{classes[0]} classes' if classes else 'no head'}",
    )


def save(path: str | Path, variables: Variables) -> None:
    """Writes `to_torchvision(variables)` as a `.safetensors` file."""
    files.write(path, to_torchvision(variables))


def _name(keys: tuple) -> str:
    """`params/backbone/stage1_block0/norm1/scale` is `layer1.0.bn1.weight`."""
    *modules, leaf = (key.key for key in keys[1:])
    leaf = "offset" if modules[-1] == "offset" else _LEAVES.get(leaf, leaf)
    if modules[-1] == "head":
        return f"fc.{leaf}"
    block, layer = modules[-2:]
    layer = _LAYERS.get(layer, layer.replace("norm", "bn"))
    if block != "stem":
        layer = f"{block.removeprefix('stage').replace('_block', '.')}.{layer}"
        layer = f"layer{layer}"
    return f"{layer}.{leaf}"


def _to_torch(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:  # h w in out -> out in h w
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2:  # in out -> out in, with two unit axes unless it is the classifier
        array = array.T if name in HEAD else array.T[:, :, None, None]
    return np.ascontiguousarray(array, np.float32)


def _from_torch(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 4:
        return array.transpose(2, 3, 1, 0)
    if len(shape) == 2:
        return array.reshape(array.shape[:2]).T
    return array


def _clean(state: State, source: str) -> State:
    """Without prefixes and counters, as float32; every value a finite number."""
    cleaned: State = {}
    for key, value in state.items():
        name = names.plain(key)
        if name.endswith("num_batches_tracked"):
            continue
        if name in cleaned:
            raise UserError(f"{source} holds '{name}' twice, the second as '{key}'")
        if value.dtype.name not in _DTYPES:
            raise UserError(f"{source}: '{key}' is {value.dtype.name}; it must be one of {_DTYPES}")
        value = value.astype(np.float32)
        if not np.isfinite(value).all() or (name.endswith("running_var") and (value < 0).any()):
            raise UserError(
                f"{source} is damaged: '{key}' holds infinite, undefined or "
                "impossible numbers; fetch it again"
            )
        cleaned[name] = value
    return cleaned


def _fit_input(
    state: State,
    expected: dict[str, tuple[int, ...]],
    normalization: tuple[np.ndarray, np.ndarray],
    source: str,
) -> State:
    """Gives the first convolution the expected number of input channels."""
    if _INPUT not in state or state[_INPUT].ndim != 4:
        return state
    have, want = state[_INPUT].shape[1], expected[_INPUT][1]
    has_offset = _OFFSET in expected
    if (have, want) == (3, 1):
        if not has_offset:
            raise UserError(
                f"{source} is for three channels; a one-channel network needs "
                "input_offset=True to compute the same"
            )
        kernel = state[_INPUT].astype(np.float64)
        weight, offset = (
            np.einsum("oihw,i->ohw", kernel, factor)[:, None] for factor in normalization
        )
        return {**state, _INPUT: weight.astype(np.float32), _OFFSET: offset.astype(np.float32)}
    if have == want and has_offset and _OFFSET not in state:
        return {**state, _OFFSET: np.zeros(expected[_OFFSET], np.float32)}
    return state


def _check(state: State, expected: dict[str, tuple[int, ...]], source: str) -> None:
    """Raises UserError listing missing, unknown and mis-shaped keys."""
    head_is_kept = not any(name in state for name in HEAD)
    missing = [
        name for name in expected if name not in state and not (head_is_kept and name in HEAD)
    ]
    extra = [name for name in state if name not in expected]
    shapes = [
        f"{name} {state[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    problems = [
        f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for what, found in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
        if found
    ]
    if problems:
        other = names.relative({name: value.shape for name, value in state.items()})
        if other:
            raise UserError(f"{source} holds {other}")
        raise UserError(
            f"{source} {_describe(state)} and does not fit "
            f"{_describe_network(expected)}: keys {'; '.join(problems)}"
        )


def _describe(state: State) -> str:
    network = _describe_network({name: value.shape for name, value in state.items()})
    return "is no ResNet of torchvision's" if network == "a network" else f"holds {network}"


def _describe_network(shapes: dict[str, tuple[int, ...]]) -> str:
    """`a ResNet-50 of width 64 for 3 channels`, as far as names and shapes tell."""
    depth, kernel = depth_of(shapes), shapes.get(_INPUT, ())
    if depth is None or len(kernel) != 4:
        return "a network"
    return f"a ResNet-{depth} of width {kernel[0]} for {kernel[1]} channel(s)"


def depth_of(shapes: dict[str, tuple[int, ...]]) -> int | None:
    """The depth of the ResNet with these shapes, by torchvision's names; None for no ResNet."""
    blocks = tuple(
        sum(re.fullmatch(rf"layer{stage}\.\d+\.conv1\.weight", name) is not None for name in shapes)
        for stage in (1, 2, 3, 4)
    )
    basic = "layer1.0.conv3.weight" not in shapes
    depths = {
        ((2, 2, 2, 2), True): 18,
        ((3, 4, 6, 3), True): 34,
        ((3, 4, 6, 3), False): 50,
        ((3, 4, 23, 3), False): 101,
        ((3, 8, 36, 3), False): 152,
    }
    return depths.get((blocks, basic))

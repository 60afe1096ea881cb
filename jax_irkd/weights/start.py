"""Where a network's parameters start: a weights file, or a run that has been trained before.

A few small files come with the package and are called `shipped:NAME`, wherever it is installed.
From a run come the parameters and batch statistics of its last checkpoint, never its step or the
state of its optimiser: the new run counts and adapts from zero.
"""

import functools
import hashlib
import importlib.resources
from collections.abc import Callable, Sequence
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from jax_irkd.errors import UserError
from jax_irkd.host.files import expanded
from jax_irkd.host.terminal import console
from jax_irkd.runs.network import describe_network, load_network
from jax_irkd.training import steps
from jax_irkd.weights import files, torchvision
from jax_irkd.weights.torchvision import Variables

SHIPPED = "shipped:"


def shipped(name: str) -> Path:
    """The file of `shipped:name`. Raises UserError, with the names, for one that does not exist."""
    folder = Path(str(importlib.resources.files("jax_irkd.weights") / "shipped"))
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.safetensors"))
        raise UserError(f"no weights {SHIPPED}{name} come with the package; it has {names}")
    return path


def content_of(path: str) -> str:
    """A digest of what `start_from` would read; "" without a path. Raises UserError."""
    if not path:
        return ""
    place = place_of(path)
    if place.is_dir():
        return describe_network(place)[1]
    files.check(place)
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check(path: str, model: nn.Module, shape: Sequence[int], class_names: Sequence[str]) -> None:
    """Raises UserError when `path` cannot fill a `model` of clips of `shape`."""
    if not path:
        return
    place, empty = place_of(path), blank(model, shape)
    if place.is_dir():
        load_run(place, empty, class_names=class_names, quiet=True)
    else:
        torchvision.load_pretrained(place, empty)


def blank(model: nn.Module, shape: Sequence[int]) -> Variables:
    """Zeros for the variables of a `model` of clips of `shape`; nothing is computed."""
    init = functools.partial(steps.alone(model).init, train=False)
    clips = jax.ShapeDtypeStruct(tuple(shape), np.float32)
    shapes = jax.eval_shape(init, jax.random.key(0), clips)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def place_of(path: str) -> Path:
    """The file or folder that a path, or `shipped:NAME`, stands for."""
    if path.startswith(SHIPPED):
        return shipped(path.removeprefix(SHIPPED))
    return expanded(path)


def start_from(path: str, class_names: Sequence[str]) -> Callable[[Variables], Variables] | None:
    """What fills fresh variables from `path`: a file, a run's folder, shipped:NAME; None without.

    The classifier of a run is taken over when its classes are `class_names`, in that order, that
    of a file when it has as many classes. The function raises UserError for what cannot be read
    or does not fit: depth and width must agree, three channels are folded into one.
    """
    if not path:
        return None
    if not place_of(path).is_dir():
        return functools.partial(torchvision.load_pretrained, place_of(path))
    return functools.partial(load_run, path, class_names=class_names)


def load_run(
    folder: str | Path, variables: Variables, *, class_names: Sequence[str], quiet: bool = False
) -> Variables:
    """`variables` with what the run in `folder` has learnt; says what was taken."""
    network, meta = load_network(expanded(folder))
    state = torchvision.to_torchvision(network.variables)
    taken = "all parameters"
    if list(meta["class_names"]) != list(class_names):
        state = {name: value for name, value in state.items() if name not in torchvision.HEAD}
        taken = f"all but the head ({len(meta['class_names'])} other classes)"
    filled = torchvision.fill(state, variables, f"the run in {folder}")
    if quiet:
        return filled
    console.print(
        f"start from {folder}, step {meta['step']}: {taken}", highlight=False, markup=False
    )
    return filled

"""Where a network's parameters start: a weights file, or a run that has been trained before.

A few small files come with the package and are called `shipped:NAME`, wherever it is installed.
From a run come the parameters and batch statistics of its last checkpoint, never its step or the
state of its optimiser: the new run counts and adapts from zero.
"""

import functools
import importlib.resources
from collections.abc import Callable, Sequence
from pathlib import Path

from jax_irkd.errors import UserError
from jax_irkd.host.terminal import console
from jax_irkd.pretrained import torchvision
from jax_irkd.pretrained.torchvision import Variables
from jax_irkd.runs.network import load_network

SHIPPED = "shipped:"


def shipped(name: str) -> Path:
    """The file of `shipped:name`. Raises UserError, with the names, for one that does not exist."""
    folder = Path(str(importlib.resources.files("jax_irkd.pretrained") / "weights"))
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.safetensors"))
        raise UserError(f"no weights {SHIPPED}{name} come with the package; it has {names}")
    return path


def start_from(path: str, class_names: Sequence[str]) -> Callable[[Variables], Variables] | None:
    """What fills fresh variables from `path`: a file, a run's folder, shipped:NAME; None without.

    The classifier of a run is taken over when its classes are `class_names`, in that order, that
    of a file when it has as many classes. The function raises UserError for what cannot be read
    or does not fit: depth and width must agree, three channels are folded into one.
    """
    if not path:
        return None
    if path.startswith(SHIPPED):
        return functools.partial(torchvision.load_pretrained, shipped(path.removeprefix(SHIPPED)))
    if not Path(path).expanduser().is_dir():
        return functools.partial(torchvision.load_pretrained, Path(path).expanduser())
    return functools.partial(load_run, path, class_names=class_names)


def load_run(folder: str | Path, variables: Variables, *, class_names: Sequence[str]) -> Variables:
    """`variables` with what the run in `folder` has learnt; says what was taken."""
    network, meta = load_network(Path(folder).expanduser())
    state = torchvision.to_torchvision(network.variables)
    taken = "all parameters"
    if list(meta["class_names"]) != list(class_names):
        state = {name: value for name, value in state.items() if name not in torchvision.HEAD}
        taken = f"all but the head ({len(meta['class_names'])} other classes)"
    filled = torchvision.fill(state, variables, f"the run in {folder}")
    console.print(
        f"start from {folder}, step {meta['step']}: {taken}", highlight=False, markup=False
    )
    return filled

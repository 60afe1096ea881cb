"""What the command `weights` does, a function each; options come from its parser."""

from argparse import Namespace
from pathlib import Path

import numpy as np

from jax_irkd.data.spec import CHANNELS
from jax_irkd.errors import UserError
from jax_irkd.host.files import expanded
from jax_irkd.models.resnet import check_depth
from jax_irkd.models.tsn import TSN
from jax_irkd.runs.network import load_network
from jax_irkd.weights import files, names, published, start, torchvision


def fetch(given: Namespace) -> None:
    """torchvision's files into a folder."""
    unknown = [name for name in given.names if name not in published.FILES]
    for name in unknown + given.names:  # a typing error is named before anything is fetched
        source = given.source or published.SOURCE
        _tell(published.fetch(name, expanded(given.out), source))


def convert(given: Namespace) -> None:
    """One file, under torchvision's names."""
    path = expanded(given.file)
    out = expanded(given.out) if given.out else path.with_suffix(".safetensors")
    if out == path:
        raise UserError(f"{path} would be written over; name another file by --out")
    print(published.convert(path, out))
    _tell(out)


def check(given: Namespace) -> None:
    """What a file or a run holds; with a depth, whether networks of it can start from it."""
    place = start.place_of(given.file)
    if place.is_dir():
        network, meta = load_network(place)
        state, source = torchvision.to_torchvision(network.variables), f"the run in {place}"
        print(f"a run on {meta['modality']}, step {meta['step']}")
    else:
        state, source = files.read(place), f"weights file {place}"
    found, words = torchvision.recognised(state, source)
    print(words)
    if names.is_shifted(state):
        print("trained with a temporal shift (TSM): it belongs with :temporal=shift")
    if given.depth is not None:
        _say_fits(given, found)


def _say_fits(given: Namespace, state: torchvision.State) -> None:
    """Which of the two networks can start. Raises UserError with the reason if neither can."""
    try:
        check_depth(given.depth)
    except ValueError as error:
        raise UserError(f"--depth: {error}") from error
    reasons, width = [], given.width or len(state["conv1.weight"])
    for modality, channels in CHANNELS.items():
        model = TSN(2, depth=given.depth, width=width, input_offset=channels == 1)
        blank = start.blank(model, (1, 1, 32, 32, channels))
        shown = modality.replace("rgb", "RGB")
        words = f"{shown} network of depth {given.depth} and width {width}"
        try:
            torchvision.fill(state, blank, f"weights file {given.file}")
        except UserError as error:
            reasons.append(error)
            print(f"does not fit an {words}")
        else:
            print(f"fits an {words}")
    if len(reasons) == len(CHANNELS):
        raise reasons[0]


def save(given: Namespace) -> None:
    """The backbone of a run's last checkpoint; the next run has classes of its own."""
    network, _ = load_network(expanded(given.run))
    state = torchvision.to_torchvision(network.variables)
    small = {k: v.astype(np.float16) for k, v in state.items() if k not in torchvision.HEAD}
    out = expanded(given.out)
    files.write(out, small)
    _tell(out)


def _tell(path: Path) -> None:
    size = path.stat().st_size / 1e6
    print(f"{path}: {size:.1f} MB; start from it by --config.weights.teacher=… or .student=…")

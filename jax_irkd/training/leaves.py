"""Trees of arrays as arrays under flat names, which is how a checkpoint holds them."""

import zlib
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import PyTree

from jax_irkd.errors import UserError


def flatten(tree: PyTree) -> dict[str, np.ndarray]:
    """Leaves as NumPy copies under names like `params/model/head/kernel`.

    Copies, because on the CPU the next step reuses the memory of donated arrays.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): np.array(leaf, copy=True) for path, leaf in leaves}


def unflatten(
    template: PyTree, leaves: Mapping[str, np.ndarray], source: str, fresh: str = ""
) -> PyTree:
    """`leaves` in the structure of `template`. Raises UserError where they do not fit.

    The part of the template named `fresh` stays as it is where no leaf belongs to it: checkpoints
    of before it was invented.
    """
    expected = jax.tree_util.tree_leaves_with_path(template)
    if fresh and not any(name.startswith(f"{fresh}/") for name in leaves):
        own = {_name(path): np.asarray(leaf) for path, leaf in expected}
        leaves = dict(leaves) | {k: v for k, v in own.items() if k.startswith(f"{fresh}/")}
    names = {_name(path): jax.numpy.shape(leaf) for path, leaf in expected}
    problems = [f"{name} is missing" for name in names if name not in leaves]
    problems += [f"{name} is not expected" for name in leaves if name not in names]
    problems += [
        f"{name} has shape {leaves[name].shape}, expected {shape}"
        for name, shape in names.items()
        if name in leaves and leaves[name].shape != shape
    ]
    if problems:
        raise UserError(
            f"the checkpoint {source} does not fit this configuration "
            f"({len(problems)} differences): " + "; ".join(problems[:3])
        )
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in names])


def select(leaves: Mapping[str, np.ndarray], prefix: str) -> dict:
    """The nested dict of the leaves whose names start with `prefix/`."""
    nested: dict = {}
    for name, leaf in leaves.items():
        if name.startswith(prefix + "/"):
            *folders, last = name.removeprefix(prefix + "/").split("/")
            place = nested
            for folder in folders:
                place = place.setdefault(folder, {})
            place[last] = leaf
    return nested


def checksum(leaf: np.ndarray) -> int:
    """CRC-32 of a leaf's type, shape and bytes."""
    header = f"{leaf.dtype}{leaf.shape}".encode()
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8), zlib.crc32(header))


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")

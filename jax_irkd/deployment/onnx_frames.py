"""The program for frames of an `.onnx` file: a file of its own beside it, `NAME_frames.onnx`.

ONNX has one graph a file. Inputs are uint8 `frames` `n h w c` and what the frame before them left,
`past_0` and so on (nothing where there is no shift; zeros at the beginning); outputs are `logits`
`n k` and `next_0` and so on, the past of the next call.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jax_irkd.deployment import engines, onnx_file, onnx_program
from jax_irkd.errors import UserError, once

OWN = ("distance", "program", "sealed")  # entries in which the two manifests may differ


def beside(path: str | Path) -> Path:
    """The name of the file that belongs to `path`."""
    path = Path(path)
    return path.with_name(f"{path.stem}_frames{path.suffix}")


def write(
    out: Path, model: Any, manifest: dict, check: Callable[[Callable, list[np.ndarray]], float]
) -> None:
    """Write the file for `out`; None for a model removes one of an earlier export.

    `check` gets a step and a past and raises UserError where they are wrong.
    """
    if model is None:
        beside(out).unlink(missing_ok=True)
        return
    own = manifest | {"program": "frames"}

    def compare(path: Path) -> float:
        return check(*_opened(path, own, engines.choose("auto", onnx_file=True)))

    onnx_file.write_onnx(beside(out), model, own, compare)


def frames_beside(path: str | Path, manifest: dict, engine: str) -> Callable | None:
    """What opens the program for frames of an `.onnx` file; None where there is none."""
    if "past" not in manifest:
        return None
    if not beside(path).exists():
        once(
            f"{path} has its program for frames in {beside(path).name}, which is not beside it; "
            "every window is computed whole"
        )
        return None
    return functools.partial(_opened, beside(path), manifest, engine)


def _opened(
    path: Path, manifest: dict, engine: str
) -> tuple[onnx_program.Stepping, list[np.ndarray]]:
    """`onnx_program.frames` of a file. Raises UserError for one that belongs to another."""
    content = path.read_bytes()
    if not onnx_file.sealed(content):
        raise UserError(f"{path} has changed since it was written; export its run again")
    own = json.loads(onnx_file.metadata(content)["jax_irkd"])
    if own.get("program") != "frames" or _common(own) != _common(manifest):
        raise UserError(f"{path} is of another export than the file beside it; export both again")
    program = engines.compiled(content, engine, manifest["precision"])
    past = [np.zeros(shape, kind) for kind, shape in manifest["past"]]
    return onnx_program.Stepping(program), past


def _common(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in OWN}

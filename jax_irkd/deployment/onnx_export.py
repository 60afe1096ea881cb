"""A run's network as an ONNX file, in float32, half precision or integers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_irkd.deployment import clips as run_clips
from jax_irkd.deployment import engines, onnx_file, onnx_frames, onnx_program
from jax_irkd.deployment.accuracy import accuracy_change
from jax_irkd.deployment.classifier import open_onnx
from jax_irkd.deployment.exported import pack
from jax_irkd.deployment.program import Program, check, clips_by_frames
from jax_irkd.errors import UserError

CLIPS = 64  # to calibrate integers with


def write(
    out: Path,
    program: Program,
    meta: Mapping[str, Any],
    manifest: dict[str, Any],
    *,
    opset: int | None,
    measure: bool,
    max_drop: float,
    clips: int,
) -> None:
    """Write `out`; what is measured goes into `manifest`, whose `precision` says the bits.

    Integers are calibrated on training clips of the run, never on others. Raises UserError for a
    network that is no TSN, where there are no such clips, and where too much accuracy is lost.
    """
    if not manifest["architecture"]:
        raise UserError(
            f"the run holds a {type(program.network.model).__name__}; ONNX files are written of "
            "TSNs whose batch norms can be folded; export it as .irkd"
        )
    precision = manifest["precision"]
    held = "float32" if precision == "int8" else precision
    opset = opset or onnx_program.OPSET
    model = onnx_program.clip_model(program.network, program.spec, held, opset)
    frames, past = None, None
    if program.frames:
        frames, past = onnx_program.frame_model(program.network, program.spec, held, opset)
    if precision == "int8":
        (model, frames), manifest["quantised_with"] = _integers(model, frames, past, meta, clips)
    if measure and precision != "float32":
        # The quickest engine here: half precision is computed so only by some.
        engine = engines.choose("auto", onnx_file=True)
        run = engines.compiled(model.SerializeToString(), engine, precision)
        manifest["accuracy"] = accuracy_change(
            lambda batch: run(batch)[0], program.reference, meta, program.spec, max_drop
        )
        manifest["accuracy"]["engine"] = run.name
        manifest["accuracy"]["summary"] += f", by {run.name}"

    def check_both(path: Path) -> float:
        def check_frames(step: Callable, past: list) -> float:
            return check(clips_by_frames(step, past), program, precision)

        distance = check(open_onnx(path), program, precision)
        if frames:  # Now there is something to look for beside the file.
            _, manifest["past"] = pack(past)
        onnx_frames.write(out, frames, manifest, check_frames)
        return distance

    onnx_file.write_onnx(out, model, manifest, check_both)


def _integers(
    model: Any,
    frames: Any,
    past: list[np.ndarray] | None,
    meta: Mapping[str, Any],
    count: int,
) -> tuple[tuple[Any, Any], str]:
    """Both models in integers, and what they were calibrated with: the same clips."""
    from jax_irkd.deployment.quantisation import quantised

    try:
        split = run_clips.evenly(meta, "train", count)
    except UserError as error:
        raise UserError(
            f"--precision=int8 is calibrated on training clips of the run, and there are none here "
            f"({error}); build its data set, or take --precision=bf16"
        ) from error
    clips = [batch for batch, _ in split.batches]
    model, used = quantised(model, clips)
    if frames:
        frames, _ = quantised(frames, clips, past)
    return (model, frames), f"{used} clips of the {split.name}"

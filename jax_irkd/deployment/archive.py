"""Exported networks as files: the manifest and the archive around the program."""

import functools
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export

from jax_irkd.data.spec import CHANNELS
from jax_irkd.deployment import exported, onnx_export, onnx_file, onnx_program
from jax_irkd.deployment.accuracy import MAX_DROP, accuracy_change
from jax_irkd.deployment.classifier import trained_spec
from jax_irkd.deployment.model_card import model_card
from jax_irkd.deployment.program import (
    PLATFORMS,
    WIDEST_WINOGRAD,
    Program,
    check,
    clips_by_frames,
    frames_stablehlo,
    make_program,
    stablehlo,
)
from jax_irkd.errors import UserError
from jax_irkd.runs.network import load_network
from jax_irkd.runs.provenance import provenance
from jax_irkd.runs.results import finished


def make_manifest(program: Program, meta: Mapping, results: Mapping, precision: str) -> dict:
    """What a user of the file has to know, as JSON."""
    modality, segments, (height, width), resolution, scale = program.spec
    parameters, flops = program.cost
    config = without_paths(json.loads(json.dumps(meta["config"])))
    config["dataset"].pop("data_dir", None)
    return {
        "format": exported.FORMAT,
        "class_names": list(meta["class_names"]),
        "modality": modality,
        "range": meta.get("range", "auto"),
        "num_segments": segments,
        "height": height,
        "width": width,
        "channels": CHANNELS[modality],
        "resolution": resolution,
        "scale": scale,
        "precision": precision,
        "batch_norm_folded": program.folded,
        "temporal": getattr(program.network.model, "temporal", "none"),
        "architecture": onnx_program.architecture(program.network),
        "parameters": parameters,
        "flops": flops,
        "sampling": {
            "frames": f"floor((i + 1/2) / {segments} * n) for i in range({segments}), of n frames",
            "fit": f"scale to cover {height}x{width} keeping the aspect, cut the centre",
            "range": "pixels of more than eight bits: `range`; auto takes each clip's 0.5th to "
            "99.5th percentile for 0 to 255, MIN,MAX these values",
            "values": "uint8; infrared is one channel, RGB three in that order",
            "inside": f"centre crop of {scale} x the shorter side, to {resolution}x{resolution}, "
            "normalisation, softmax",
        },
        "platforms": list(PLATFORMS),
        "step": meta.get("step"),
        "which": meta.get("which", "last"),
        "dataset": meta.get("dataset"),
        "generated": meta.get("generated") or "",
        "protocol": meta["config"].get("protocol"),
        "method": meta.get("name"),
        "metrics": results.get("metrics", {}),
        "calibration": meta.get("calibration"),
        "teacher": without_paths(results.get("teacher")),
        "config": config,
        "trained_with": results.get("versions"),
        "git_commit": results.get("git_commit"),
        "versions": provenance()["versions"],
    }


def without_paths(held: Any) -> Any:
    """JSON in which a path of the machine it was made on is the name of its file or folder: whose
    machine that was is nobody's business."""
    if isinstance(held, dict):
        return {name: without_paths(value) for name, value in held.items()}
    if isinstance(held, list):
        return [without_paths(value) for value in held]
    outside = isinstance(held, str) and held.startswith(("/", "~", "..", "file:"))
    return Path(held).name if outside else held


def write_irkd(
    path: Path, manifest: dict, module: bytes, frames: bytes | None, weights: bytes
) -> None:
    """The archive, complete or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(exported.MANIFEST, json.dumps(manifest, indent=1))
            archive.writestr(exported.CARD, model_card(manifest))
            archive.writestr(exported.PROGRAM, module)
            if frames is not None:
                archive.writestr(exported.FRAMES, frames)
            archive.writestr(exported.WEIGHTS, weights)
            archive.write(exported.__file__, exported.READER)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    which: str = "last",
    kind: str | None = None,
    precision: str = "float32",
    opset: int | None = None,
    measure: bool = True,
    max_drop: float = MAX_DROP,
    clips: int = onnx_export.CLIPS,
) -> dict:
    """Write `out` and return its manifest. Raises UserError.

    `kind` is irkd or onnx; None goes by the name. `opset` is ONNX's, 17 by default. What fewer bits
    lose is measured unless `measure` is False, and more than `max_drop` points of top-1 refused.
    `clips` training clips calibrate the integers of an ONNX file.
    """
    out = Path(out)
    kind = kind_of(out, kind)
    _writable(out)
    _check_opset(opset, kind)
    if clips < 1 or not max_drop >= 0:
        raise UserError(
            f"--calibration_clips={clips} must be 1 or more (64, say), "
            f"--max_drop={max_drop:g} 0 or more"
        )
    if kind == "irkd" and precision == "fp16":
        raise UserError(
            "--precision=fp16 is for .onnx files, which GPUs run so; give --out=NAME.onnx, or take "
            "--precision=bf16"
        )
    network, meta = load_network(run, which)
    results = finished(Path(run)) or {}
    # The results of a run are those of its last step.
    last = which == "last" and results.get("steps", meta.get("step")) == meta.get("step")
    if not last:
        results = results | {"metrics": meta["figures"]}
    meta = meta | {"which": which}
    # ONNX keeps plain convolutions, and gets its bits from the graph.
    winograd, bits = (WIDEST_WINOGRAD, precision) if kind == "irkd" else (0, "float32")
    program = make_program(network, trained_spec(meta), bits, winograd=winograd)
    manifest = make_manifest(program, meta, results, precision)
    if kind == "onnx":
        onnx_export.write(
            out,
            program,
            meta,
            manifest,
            opset=opset,
            measure=measure,
            max_drop=max_drop,
            clips=clips,
        )
        return manifest
    manifest["weight_names"] = program.names
    module, manifest["calling_convention"] = stablehlo(program)
    numbers, manifest["weights"] = exported.pack(program.weights)
    called = jax.jit(exported.program_of(manifest, module).call)
    loaded = functools.partial(called, jax.device_put(program.weights))
    manifest["distance"] = check(loaded, program, precision)
    frames = None
    if program.frames:
        frames, (_, manifest["past"]) = frames_stablehlo(program), exported.pack(program.past)
        called = jax.jit(exported.frames_of(manifest, frames).call)
        step = functools.partial(called, jax.device_put(program.weights))
        by_frames = check(clips_by_frames(step, program.past), program, precision)
        manifest["distance"] = max(manifest["distance"], by_frames)
    if measure and precision != "float32":
        manifest["accuracy"] = accuracy_change(
            loaded, program.reference, meta, program.spec, max_drop
        )
    write_irkd(out, manifest, module, frames, numbers)
    return manifest


def kind_of(out: Path, kind: str | None) -> str:
    """irkd or onnx: what `kind` says, or the name where it is None.

    Raises UserError where the two contradict each other: files are known by their names later.
    """
    named = onnx_file.is_onnx(out)
    if kind is None:
        return "onnx" if named else "irkd"
    if named != (kind == "onnx"):
        right = out.with_suffix(f".{kind}")
        raise UserError(
            f"--out={out} and --format={kind} contradict each other; leave --format out or write "
            f"--out={right}"
        )
    return kind


def _check_opset(opset: int | None, kind: str) -> None:
    """Raises UserError for an opset that the file cannot have."""
    if kind == "onnx":
        onnx_file.need_onnx("an .onnx file")
        from jax_irkd.deployment.onnx_graph import opsets

        known = opsets()
        if opset is not None and opset not in known:
            raise UserError(
                f"--opset={opset} must be from {known[0]} to {known[-1]}, what the installed onnx "
                "knows"
            )
    elif opset is not None:
        raise UserError(f"--opset={opset} is for .onnx files; give --out=NAME.onnx")


def _writable(out: Path) -> None:
    if out.is_dir():
        raise UserError(f"{out} is a folder; give a file name such as {out}/student.irkd")
    if not out.absolute().parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to write {out.name} to; make it first")

"""A trained network as one file: for jax alone (.irkd) or for onnxruntime and TensorRT (.onnx).

    python -m jax_irkd.export --run=runs/ntu/ours --out=student.irkd
    python -m jax_irkd.export --run=runs/ntu/ours --out=student.onnx --format=onnx
    python -m jax_irkd.export --run=runs/ntu/ours --out=small.irkd --precision=int8

The program takes uint8 frames and returns probabilities, for any batch size, on CPUs and CUDA. It
is compared with the Flax model before the file is written.
"""

import argparse
import functools
import json
import logging
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jax_irkd import devices, exported, runs
from jax_irkd.classifier import CHANNELS, OnnxClassifier, Rules, cost, probabilities, rules_of
from jax_irkd.errors import UserError
from jax_irkd.evaluation import Network
from jax_irkd.export_check import accuracy_change
from jax_irkd.model_card import model_card
from jax_irkd.models.folding import fold_batch_norm
from jax_irkd.precision import PRECISIONS, dequantise, with_precision

TOLERANCE = 1e-4  # largest difference of a probability from the Flax model's
PLATFORMS = ("cpu", "cuda")
# The channels of a ResNet's first stage. There half of a convolution's time is saved for a tenth of
# a second of compilation; all stages would save a quarter more of a clip's time for 2.5 seconds.
WIDEST_WINOGRAD = 64


class Program(NamedTuple):
    """A function of weights and uint8 clips, and the Flax model it stands for.

    `folded` says whether batch norms were, `cost` is parameters and operations per clip.
    """

    function: Callable
    weights: list[np.ndarray]
    reference: Callable
    folded: bool
    rules: Rules
    cost: tuple[int, float]


def make_program(
    network: Network, rules: Rules, precision: str = "float32", *, winograd: int = 0
) -> Program:
    """Weights and clips to probabilities, batch norms folded where that is exact.

    `winograd` is that of `models.resnet`: how many channels a convolution may have to be replaced.
    """
    model, variables = with_precision(network.model, network.variables, "float32")
    reference = _jitted(model, variables, rules)
    size = cost(variables, reference.func, rules)
    folded = _fold(model, variables)
    clips = check_clips(rules, 2)
    # Folding is exact but for rounding, unless the model names its layers in an unknown way.
    keeps = folded is not None and _distance(_jitted(*folded, rules), reference, clips) <= TOLERANCE
    model, variables = with_precision(*(folded if keeps else (model, variables)), precision)
    if hasattr(model, "winograd"):
        model = model.clone(winograd=winograd)

    weights, structure = jax.tree.flatten(variables)

    def function(weights, clips):
        stored = jax.tree.unflatten(structure, weights)
        restored = {**stored, "params": dequantise(stored["params"])}
        return probabilities(restored, clips, model=model, rules=rules)

    return Program(function, [*map(np.asarray, weights)], reference, keeps, rules, size)


def _jitted(model, variables: PyTree, rules: Rules) -> Callable:
    step = jax.jit(functools.partial(probabilities, model=model, rules=rules))
    return functools.partial(step, variables)


def _fold(model, variables: PyTree) -> tuple[Any, PyTree] | None:
    if not variables.get("batch_stats") or not hasattr(model, "norm"):
        return None
    return model.clone(norm=False), fold_batch_norm(variables)


def check_clips(rules: Rules, count: int) -> np.ndarray:
    """Clips that differ in brightness, contrast and texture, to compare two programs with."""
    rng = np.random.default_rng(0)
    shape = rules.shape
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
    clips = jax.ShapeDtypeStruct((*batch, *program.rules.shape), jnp.uint8)
    jitted = jax.jit(program.function, keep_unused=True)
    made = jax.export.export(jitted, platforms=PLATFORMS)(program.weights, clips)
    return made.mlir_module_serialized, made.calling_convention_version


def make_manifest(program: Program, meta: Mapping, results: Mapping, precision: str) -> dict:
    """What a user of the file has to know, as JSON."""
    modality, segments, (height, width), resolution, scale = program.rules
    parameters, flops = program.cost
    provenance = runs.provenance()
    config = json.loads(json.dumps(meta["config"]))
    config["dataset"].pop("data_dir", None)  # A path on the machine it was trained on.
    return {
        "format": exported.FORMAT,
        "class_names": list(meta["class_names"]),
        "modality": modality,
        "num_segments": segments,
        "height": height,
        "width": width,
        "channels": CHANNELS[modality],
        "resolution": resolution,
        "precision": precision,
        "batch_norm_folded": program.folded,
        "parameters": parameters,
        "flops": flops,
        "sampling": {
            "frames": f"floor((i + 1/2) / {segments} * n) for i in range({segments}), of n frames",
            "fit": f"scale to cover {height}x{width} keeping the aspect, cut the centre",
            "values": "uint8; infrared is one channel, RGB three in that order",
            "inside": f"centre crop of {scale} x the shorter side, to {resolution}x{resolution}, "
            "normalisation, softmax",
        },
        "platforms": list(PLATFORMS),
        "step": meta.get("step"),
        "dataset": meta.get("dataset"),
        "protocol": meta["config"].get("protocol"),
        "method": meta.get("name"),
        "metrics": results.get("metrics", {}),
        "teacher": results.get("teacher"),
        "config": config,
        "trained_with": results.get("versions"),
        "git_commit": results.get("git_commit"),
        "versions": provenance["versions"],
    }


def write_irkd(path: Path, manifest: dict, module: bytes, weights: bytes) -> None:
    """The archive, complete or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(exported.MANIFEST, json.dumps(manifest, indent=1))
            archive.writestr(exported.CARD, model_card(manifest))
            archive.writestr(exported.PROGRAM, module)
            archive.writestr(exported.WEIGHTS, weights)
            archive.write(exported.__file__, exported.READER)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check(loaded: Callable, program: Program, precision: str) -> float:
    """The distance of a file's program from the Flax model; raises UserError when it is wrong.

    bf16 and int8 change the numbers by design: there only non-finite results are refused.
    """
    distance = max(
        _distance(loaded, program.reference, check_clips(program.rules, count)) for count in (2, 1)
    )
    if distance > (TOLERANCE if precision == "float32" else np.finfo(np.float32).max):
        raise UserError(
            f"the exported program's probabilities differ from the Flax model's by {distance:.2g}, "
            f"more than {TOLERANCE:.0e} (jax {jax.__version__}); nothing was written. Please "
            "report the versions of jax and flax and the model's config"
        )
    return distance


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    which: str = "last",
    kind: str = "irkd",
    precision: str = "float32",
    measure: bool = True,
) -> dict:
    """Write `out` and return its manifest. Raises UserError."""
    out = Path(out)
    _writable(out)
    if kind == "onnx" and precision != "float32":
        raise UserError(
            f"--precision={precision} is for .irkd files; onnxruntime and TensorRT have their own "
            "quantisers, which take the float32 .onnx file"
        )
    network, meta = runs.load(run, which)
    results = runs.finished(Path(run)) or {}
    winograd = WIDEST_WINOGRAD if kind == "irkd" else 0  # ONNX keeps plain convolutions.
    program = make_program(network, rules_of(meta), precision, winograd=winograd)
    manifest = make_manifest(program, meta, results, precision)
    if kind == "onnx":
        from jax_irkd.onnx_file import write_onnx

        write_onnx(
            out, program, manifest, lambda path: check(OnnxClassifier(path), program, "float32")
        )
        return manifest
    module, manifest["calling_convention"] = stablehlo(program)
    numbers, manifest["weights"] = exported.pack(program.weights)
    called = jax.jit(exported.program_of(manifest, module).call)
    loaded = functools.partial(called, jax.device_put(program.weights))
    manifest["distance"] = check(loaded, program, precision)
    if measure and precision != "float32":
        manifest["accuracy"] = accuracy_change(loaded, program.reference, meta, program.rules)
    write_irkd(out, manifest, module, numbers)
    return manifest


def _writable(out: Path) -> None:
    if out.is_dir():
        raise UserError(f"{out} is a folder; give a file name such as {out}/student.irkd")
    if not out.absolute().parent.is_dir():
        raise UserError(f"there is no folder {out.parent} to write {out.name} to; make it first")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jax_irkd.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=True, help="a run's folder, WORKDIR/METHOD")
    parser.add_argument("--out", required=True, help="the file to write")
    parser.add_argument("--format", choices=["irkd", "onnx"], default="irkd")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--which", choices=["last", "best", "ema"], default="last")
    parser.add_argument(
        "--no_measure", action="store_true", help="do not measure the accuracy of bf16 and int8"
    )
    flags = parser.parse_args(argv)
    try:
        logging.getLogger("absl").setLevel(logging.ERROR)
        devices.start("off")
        manifest = export_run(
            flags.run,
            flags.out,
            which=flags.which,
            kind=flags.format,
            precision=flags.precision,
            measure=not flags.no_measure,
        )
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(Path(flags.out), manifest))
    return 0


def describe(path: Path, manifest: Mapping) -> str:
    """Two lines on what was written."""
    text = (
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {manifest['precision']}, "
        f"{manifest['num_segments']} {manifest['modality']} frames of {manifest['height']}x"
        f"{manifest['width']}, {len(manifest['class_names'])} classes; differs from the Flax model "
        f"by at most {manifest['distance']:.1e}"
    )
    accuracy = manifest.get("accuracy")
    return f"{text}\n{accuracy['summary']}" if accuracy else text


if __name__ == "__main__":
    sys.exit(main())

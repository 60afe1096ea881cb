"""The exported student through every engine and in every precision, beside our file through JAX.

    python -m benchmarks.engines [--repeats=15]

An untrained ResNet-18 on eight infrared frames of 224 pixels, integers calibrated on pictures of
noise; speed does not depend on what was learned. ONEDNN_MAX_CPU_ISA=AVX2 (or AVX512_CORE,
AVX512_CORE_VNNI) hides newer instructions from OpenVINO, to see what other processors would do.
Needs the extras `onnx` and `openvino`.
"""

import argparse
import functools
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import _measure
from benchmarks._measure import Result
from benchmarks.student import make_run
from jax_irkd.deployment import archive, engines, onnx_program, program
from jax_irkd.deployment.classifier import open_classifier, trained_spec
from jax_irkd.deployment.quantisation import quantised
from jax_irkd.host import devices, processor
from jax_irkd.runs.network import load_network

HIDDEN = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
OURS, AUTO = "our file, JAX", "our file, auto"


def programs(folder: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Every file with every engine that can run it."""
    run, file = make_run(folder / "run"), folder / "student.irkd"
    archive.export_run(run, file)
    made = {OURS: open_classifier(file, engine="jax"), AUTO: open_classifier(file)}
    network, meta = load_network(run)
    spec = trained_spec(meta)
    float32 = onnx_program.clip_model(network, spec)
    models = {"float32": float32, "int8": quantised(float32, [program.check_clips(spec, 1)])[0]}
    if not HIDDEN:  # OpenVINO believes the processor, not the variable, on what it can halve
        halves = ("bf16", "fp16")
        models |= {half: onnx_program.clip_model(network, spec, half) for half in halves}
    for precision, model in models.items():
        for engine in ("onnxruntime", "openvino"):
            called = engines.compiled(model.SerializeToString(), engine, precision)
            made[f"{precision}, {engine}"] = called
    return made


def results(flags: argparse.Namespace) -> list[Result]:
    """Milliseconds a clip, and each in units of our file through JAX, round by round."""
    with tempfile.TemporaryDirectory() as folder:
        found = programs(Path(folder))
        clips = np.random.default_rng(0).integers(0, 256, (1, 8, 256, 308, 1), dtype=np.uint8)
        calls = {name: functools.partial(call, clips) for name, call in found.items()}
        taken = _measure.alternate(calls, flags.repeats, warm=2)
    made = [
        Result("cores", processor.cores(), note=_features()),
        _measure.spread(1e3 * t for t in taken[OURS].processor).result(
            f"a clip by {OURS}, processor time", "ms"
        ),
    ]
    whole = bool(processor.features("int8")) and not HIDDEN
    targets = {"int8, openvino": "≤ 0.25" if whole else ""}
    for name, timing in taken.items():
        if name != OURS:
            made.append(_beside(name, timing, taken[OURS], OURS, targets.get(name, "")))
    best = min(
        ("float32, onnxruntime", "float32, openvino"),
        key=lambda name: np.median(taken[name].processor),
    )
    made.append(_beside(AUTO, taken[AUTO], taken["float32, onnxruntime"], "onnxruntime", "≤ 1.1"))
    made.append(_beside(AUTO, taken[AUTO], taken[best], f"the best ({best})", "≤ 1.05"))
    _measure.show(made)
    return made


def _beside(name: str, over, under, what: str, target: str) -> Result:
    wall = _measure.number(_measure.ratio(over, under).median)
    share = _measure.ratio(over, under, "processor")
    return share.result(f"{name} / {what}", "×", target, note=f"by the clock {wall}")


def _features() -> str:
    found = [flag for name in ("int8", "bf16", "fp16") for flag in processor.features(name) or []]
    shown = f"; OpenVINO up to {HIDDEN}" if HIDDEN else ""
    return f"instructions: {', '.join(found) or 'none of those for few bits'}{shown}"


def main() -> None:
    parser = _measure.make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    flags = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    devices.start("off")
    _measure.run("engines", results, flags, flags.json)


if __name__ == "__main__":
    main()

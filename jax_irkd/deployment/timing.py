"""How fast networks are on this machine: a run through Flax, exported files, ONNX files.

Times are wall-clock, of uint8 frames in to probabilities out, after compilation. Calls of all
networks take turns, so that a busy moment hits them alike.
"""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jax_irkd.deployment.classifier import (
    Classifier,
    RunClassifier,
)
from jax_irkd.deployment.recognizer import spec_of
from jax_irkd.host import processor


class Latency(NamedTuple):
    """Milliseconds per clip (median and 90th percentile of calls), and what is inside."""

    name: str
    kind: str
    batch: int
    milliseconds: float
    slow_milliseconds: float
    clips_per_second: float
    first_seconds: float
    parameters: int
    flops: float


def kind_of(classifier: Classifier) -> str:
    """The engine without its version, and the precision."""
    engine = classifier.engine.split()[0].strip(",")
    manifest = getattr(classifier, "manifest", {"precision": "float32"})
    return f"{engine} {manifest['precision']}"


def cost_of(classifier: Classifier) -> tuple[int, float]:
    """Parameters and floating point operations per clip."""
    if isinstance(classifier, RunClassifier):
        return classifier.cost()
    return classifier.manifest["parameters"], classifier.manifest["flops"]


def measure(
    classifiers: Mapping[str, Classifier], batch: int = 1, repeats: int = 20
) -> list[Latency]:
    """Time `repeats` calls of each, in turns; the first call, which compiles, apart."""
    rng = np.random.default_rng(0)
    inputs, first = {}, {}
    for name, classifier in classifiers.items():
        shape = (batch, *spec_of(classifier).shape)
        inputs[name] = rng.integers(0, 256, shape, dtype=np.uint8)
        first[name] = _seconds(classifier, inputs[name])
    calls: dict[str, list[float]] = {name: [] for name in classifiers}
    for _ in range(repeats):
        for name, classifier in classifiers.items():
            calls[name].append(_seconds(classifier, inputs[name]))
    timings = []
    for name, classifier in classifiers.items():
        median, slow = np.quantile(calls[name], [0.5, 0.9])
        timings.append(
            Latency(
                name,
                kind_of(classifier),
                batch,
                1e3 * median / batch,
                1e3 * slow / batch,
                batch / median,
                first[name],
                *cost_of(classifier),
            )
        )
    return timings


def _seconds(classifier: Classifier, clips: np.ndarray) -> float:
    start = time.perf_counter()
    classifier(clips)
    return time.perf_counter() - start


def table(timings: Sequence[Latency]) -> str:
    width = max(len(timing.name) for timing in timings)
    lines = [
        f"{'network':{width}}  {'kind':19}  {'ms/clip':>8}  {'p90':>8}  {'clips/s':>8}  "
        f"{'first s':>7}  {'params M':>8}  {'GFLOP':>7}"
    ]
    for t in timings:
        lines.append(
            f"{t.name:{width}}  {t.kind:19}  {t.milliseconds:8.1f}  {t.slow_milliseconds:8.1f}  "
            f"{t.clips_per_second:8.2f}  {t.first_seconds:7.2f}  {t.parameters / 1e6:8.2f}  "
            f"{t.flops / 1e9:7.2f}"
        )
    return "\n".join(lines)


def machine() -> str:
    """The processor or GPU that was measured, and the versions."""
    import jax

    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else processor.name()
    return f"{kind}, {processor.cores()} cores, jax {jax.__version__} on {device.platform}"

"""Predictions of a live source: a camera, a network stream, a file played in real time."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment.answers import clock_time, top
from jax_irkd.deployment.recognizer import Recognizer
from jax_irkd.video import playback
from jax_irkd.video.pixels import colourfulness
from jax_irkd.video.streams import Stream, kind_of


def stream(flags: argparse.Namespace) -> int:
    """Predictions of a live source until it ends or Ctrl-C."""
    kind_of(flags.stream)
    recognizer = Recognizer(
        flags.run,
        seconds=flags.seconds,
        stride=flags.stride,
        which=flags.which,
        range=flags.range,
    )
    took = recognizer.warm_up()
    print(f"ready after {took:.1f} s; Ctrl-C ends", file=sys.stderr)
    prepare = _preparer(recognizer.spec)
    made, latencies = 0, []
    with Stream(flags.stream, prepare, capacity=flags.stride, patience=flags.patience) as source:
        try:
            for said in _spoken(recognizer, source, flags):
                made += 1
                latencies.append(said)
        except KeyboardInterrupt:
            print("", file=sys.stderr)
        delay = f", median latency {1e3 * np.median(latencies):.0f} ms" if latencies else ""
        print(
            f"{made} predictions from {source.received} frames, {source.drop_rate:.1%} dropped"
            f"{delay}",
            file=sys.stderr,
        )
    return 0


def _preparer(spec: InputSpec) -> Callable[[np.ndarray], np.ndarray]:
    """`prepare_frame`, which says once when the stream has the wrong colours."""
    seen = False

    def prepare(image: np.ndarray) -> np.ndarray:
        nonlocal seen
        if not seen:
            seen = True
            for text in playback.modality_warning(colourfulness(image), spec.modality):
                print(f"warning: the stream {text}", file=sys.stderr)
        return playback.prepare_frame(image, spec)

    return prepare


def _spoken(recognizer: Recognizer, source: Any, flags: argparse.Namespace) -> Iterator[float]:
    """Print predictions; yields the latency of each, from the newest frame to the answer."""
    start = None
    for moment, frame in source:
        start = moment if start is None else start
        prediction = recognizer.push_prepared(frame, moment)
        if prediction is None:
            continue
        latency = time.monotonic() - moment
        best = top(prediction.probabilities, flags.topk)
        names = recognizer.classifier.class_names
        if flags.json:
            line = {
                "time": round(moment - start, 3),
                "latency": round(latency, 4),
                "dropped": round(source.drop_rate, 4),
                "predictions": [
                    {"label": i + 1, "class": names[i], "probability": round(p, 6)} for i, p in best
                ],
            }
            print(json.dumps(line), flush=True)
        else:
            print(
                f"{clock_time(moment - start)}  {prediction.probability:6.1%}  {prediction.label}"
                f"  ({1e3 * latency:.0f} ms, {source.drop_rate:.1%} dropped)",
                flush=True,
            )
        yield latency

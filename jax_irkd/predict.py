"""What happens in a video, by a trained network.

    python -m jax_irkd.predict --run=runs/ntu/ours video.avi folder 'clips/*.mp4'
    python -m jax_irkd.predict --run=student.irkd long.mp4 --out=results --annotate=seen.mp4
    python -m jax_irkd.predict --run=student.irkd --stream=0

A video of at most 15 seconds is taken as one action and gets the most probable classes; a longer
one gets a timeline of actions (--trimmed and --untrimmed decide it). `--run` is a run's folder, an
exported .irkd file or an .onnx file. Exit code: 0 all done, 1 some videos failed, 2 none was read.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment.answers import as_json, as_text, clock_time, own_names, top, write_files
from jax_irkd.deployment.classifier import open_classifier
from jax_irkd.deployment.prediction import VideoSettings, predict
from jax_irkd.deployment.recognizer import Recognizer
from jax_irkd.errors import UserError
from jax_irkd.host import devices
from jax_irkd.video import playback


def predict_all(flags: argparse.Namespace) -> int:
    """Every video of the command line, whatever happens to the others."""
    paths = playback.find_videos(flags.videos)
    called = own_names(paths)
    targets = _annotated(flags.annotate, called)
    if flags.out:
        _make_folder(Path(flags.out))
    classifier = open_classifier(flags.run, flags.which)
    names = classifier.class_names
    settings = VideoSettings(
        flags.topk, flags.trimmed, flags.seconds, flags.stride, flags.threshold, flags.batch
    )
    failed = 0
    for path in paths:
        try:
            result = predict(classifier, path, settings)
            for warning in result.warnings:
                print(f"warning: {path} {warning}", file=sys.stderr)
            text = as_json(result, names, flags.topk) if flags.json else None
            print(json.dumps(text) if text else as_text(result, names, flags.topk), flush=True)
            if flags.out:
                write_files(result, names, flags.topk, Path(flags.out, called[path]))
            if targets:
                from jax_irkd.deployment.annotate import annotate

                annotate(result, names, targets[path])
        except (UserError, OSError) as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
            if flags.json:
                print(json.dumps({"video": str(path), "error": str(error)}), flush=True)
    if failed and len(paths) > 1:
        print(f"{failed} of {len(paths)} videos could not be read", file=sys.stderr)
    return 0 if not failed else 1 if failed < len(paths) else 2


def _annotated(target: str | None, called: dict[Path, str]) -> dict[Path, Path]:
    """Where each annotated video goes: a file for one video, a folder for several."""
    if not target:
        return {}
    target, paths = Path(target), list(called)
    if target.suffix.lower() in playback.SUFFIXES and not target.is_dir():
        if len(paths) > 1:
            raise UserError(
                f"--annotate={target} is one file for {len(paths)} videos; give a folder"
            )
        if not target.absolute().parent.is_dir():
            raise UserError(f"there is no folder {target.parent} for --annotate; make it first")
        if target.exists() and target.samefile(paths[0]):
            raise UserError(f"--annotate={target} would overwrite the video itself; rename it")
        return {paths[0]: target}
    _make_folder(target)
    return {path: target / f"{called[path]}_annotated.mp4" for path in paths}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror})") from error


def stream(flags: argparse.Namespace) -> int:
    """Predictions of a live source until it ends or Ctrl-C."""
    from jax_irkd.video.streams import Stream, kind_of

    kind_of(flags.stream)
    recognizer = Recognizer(
        flags.run, seconds=flags.seconds, stride=flags.stride, which=flags.which
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
            for text in playback.modality_warning(playback.colourfulness(image), spec.modality):
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jax_irkd.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", required=True, help="a run's folder, an .irkd file or an .onnx file")
    add("videos", nargs="*", help="files, folders and globs")
    add("--stream", help="a camera's number, a device, a URL, or a file played in real time")
    add("--which", choices=["last", "best", "ema"], default="last", help="a run's checkpoint")
    add("--json", action="store_true", help="one JSON object per line")
    add("--topk", type=_positive(int), default=5)
    add("--out", help="folder for JSON, rows in PKU-MMD's format and timeline pictures")
    add("--annotate", help="a video to write, or a folder when there are several")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--trimmed", action="store_true", default=None, help="one action per video")
    kind.add_argument("--untrimmed", dest="trimmed", action="store_false", help="a timeline")
    add("--seconds", type=_positive(float), default=2.0, help="length of a window")
    add("--stride", type=_positive(int), default=16, help="frames between predictions")
    add("--threshold", type=float, default=0.5, help="of a timeline's segments")
    add("--batch", type=_positive(int), default=1, help="windows at once; more for GPUs")
    add("--patience", type=_positive(float), default=30.0, help="seconds without a frame")
    return parser.parse_args(argv)


def _positive(kind: type):
    def convert(text: str):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return value

    return convert


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse(argv)
    try:
        if bool(flags.videos) == bool(flags.stream):
            raise UserError("give videos (files, folders, globs) or one --stream, not both or none")
        if flags.stream and (flags.annotate or flags.out):
            raise UserError("--annotate and --out are for video files, not for --stream")
        logging.getLogger("absl").setLevel(logging.ERROR)
        devices.start("off")
        return stream(flags) if flags.stream else predict_all(flags)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

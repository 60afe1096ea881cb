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
from typing import Any, NamedTuple

import numpy as np

from jax_irkd import devices, footage
from jax_irkd.classifier import Classifier, in_batches, open_classifier
from jax_irkd.detection import Row, segments, write_rows
from jax_irkd.errors import UserError
from jax_irkd.footage import Footage, Wanted
from jax_irkd.recognizer import Recognizer, wanted_of

# The longest clip of NTU RGB+D lasts 10 seconds; PKU-MMD's videos last minutes.
TRIMMED_SECONDS = 15.0


class Settings(NamedTuple):
    """How videos are looked at; times in seconds, `stride` in frames."""

    topk: int = 5
    trimmed: bool | None = None  # None: by the video's length
    seconds: float = 2.0
    stride: int = 16
    threshold: float = 0.5
    batch: int = 1


DEFAULTS = Settings()


class Result(NamedTuple):
    """What was found in one video.

    A trimmed clip has one span and no rows; a timeline has the probabilities `w k` of its windows
    with their `spans` (frames [start, stop) from 0), and `rows` in PKU-MMD's format.
    """

    path: Path
    trimmed: bool
    frames: int
    rate: float
    probabilities: np.ndarray
    spans: np.ndarray
    rows: list[Row]
    warnings: list[str]


def predict(classifier: Classifier, path: str | Path, settings: Settings = DEFAULTS) -> Result:
    """Classify one video. Raises VideoError (a UserError) when it cannot be read."""
    film = Footage(path)
    wanted = wanted_of(classifier)
    trimmed = settings.trimmed
    if trimmed is None:
        trimmed = film.seconds <= TRIMMED_SECONDS
    if trimmed:
        found = [footage.whole_clip(film, wanted)]
        spans = np.array([found[0][:2]])
        scores = classifier(np.stack([found[0].frames]))
        rows = []
    else:
        spans, scores = _timeline(classifier, film, wanted, settings)
        rows = _rows(scores, spans, settings)
    warnings = film.warnings + footage.modality_warning(film.colour, wanted.modality)
    if film.read < wanted.num_segments:
        warnings.append(
            f"has {_frames(film.read)}, fewer than the {wanted.num_segments} segments; some repeat"
        )
    return Result(Path(path), trimmed, film.read, film.rate, scores, spans, rows, warnings)


def _timeline(classifier: Classifier, film: Footage, wanted: Wanted, settings: Settings):
    """Spans `w 2` and probabilities `w k` of sliding windows; decoding runs beside the network."""
    length = max(round(settings.seconds * film.rate), wanted.num_segments)
    spans, scores, batch = [], [], []

    def flush():
        if batch:
            scores.append(in_batches(classifier, np.stack(batch), settings.batch))
            batch.clear()

    for window in footage.ahead(footage.windows(film, wanted, length, settings.stride)):
        spans.append(window[:2])
        batch.append(window.frames)
        if len(batch) == settings.batch:
            flush()
    flush()
    return np.array(spans), np.concatenate(scores)


def _rows(scores: np.ndarray, spans: np.ndarray, settings: Settings) -> list[Row]:
    return segments(
        scores,
        spans,
        thresholds=(settings.threshold,),
        max_gap=settings.stride,
        min_frames=min(8, int(spans[-1, 1])),
    )


def as_json(result: Result, names: Sequence[str], topk: int) -> dict[str, Any]:
    """One JSON object per video: `predictions` of a clip, `segments` of a timeline.

    Labels and frames count from 1, ends included, as in PKU-MMD.
    """
    common = {
        "video": str(result.path),
        "kind": "clip" if result.trimmed else "timeline",
        "frames": result.frames,
        "rate": round(result.rate, 3),
        "warnings": result.warnings,
    }
    if result.trimmed:
        return common | {
            "predictions": [
                {"label": index + 1, "class": names[index], "probability": round(value, 6)}
                for index, value in top(result.probabilities[0], topk)
            ]
        }
    return common | {
        "segments": [
            {
                "label": row.label,
                "class": names[row.label - 1],
                "start_frame": int(row.start),
                "end_frame": int(row.end),
                "start_seconds": round((row.start - 1) / result.rate, 3),
                "end_seconds": round(row.end / result.rate, 3),
                "confidence": round(row.confidence, 6),
            }
            for row in sorted(result.rows, key=lambda row: row.start)
        ]
    }


def as_text(result: Result, names: Sequence[str], topk: int) -> str:
    """A table for people."""
    found = as_json(result, names, topk)
    seconds = result.frames / result.rate
    lines = [f"{result.path}  ({_frames(result.frames)}, {seconds:.1f} s)"]
    if result.trimmed:
        for row in found["predictions"]:
            lines.append(f"  {row['probability']:6.1%}  {row['class']}")
    else:
        for row in found["segments"]:
            times = f"{_clock(row['start_seconds'])} - {_clock(row['end_seconds'])}"
            lines.append(f"  {times}  {row['confidence']:6.1%}  {row['class']}")
        if not found["segments"]:
            lines.append("  no action reaches the threshold; try a lower --threshold")
    return "\n".join(lines)


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60):3d}:{seconds % 60:04.1f}"


def top(probabilities: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The `count` most probable classes and their probabilities."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(index), float(probabilities[index])) for index in order]


def own_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each video's results: its own, with its folder's in front where two are alike."""
    stems = [path.stem for path in paths]
    names: dict[Path, str] = {}
    for path in paths:
        alike = stems.count(path.stem) > 1
        name = f"{path.absolute().parent.name}_{path.stem}" if alike else path.stem
        taken = list(names.values())
        names[path] = name if name not in taken else f"{name}_{len(taken)}"
    return names


def write_files(result: Result, names: Sequence[str], topk: int, stem: Path) -> None:
    """STEM.json and, for a timeline, STEM.txt (rows in PKU-MMD's format) and STEM.png."""
    stem.with_name(stem.name + ".json").write_text(
        json.dumps(as_json(result, names, topk), indent=1)
    )
    if not result.trimmed:
        from jax_irkd.annotate import timeline_picture

        write_rows(stem.with_name(stem.name + ".txt"), result.rows)
        timeline_picture(result, names, stem.with_name(stem.name + ".png"))


def predict_all(flags: argparse.Namespace) -> int:
    """Every video of the command line, whatever happens to the others."""
    paths = footage.find_videos(flags.videos)
    called = own_names(paths)
    targets = _annotated(flags.annotate, called)
    if flags.out:
        _make_folder(Path(flags.out))
    classifier = open_classifier(flags.run, flags.which)
    names = classifier.class_names
    settings = Settings(
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
                from jax_irkd.annotate import annotate

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
    if target.suffix.lower() in footage.SUFFIXES and not target.is_dir():
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
    from jax_irkd.streams import Stream, kind_of

    kind_of(flags.stream)
    recognizer = Recognizer(
        flags.run, seconds=flags.seconds, stride=flags.stride, which=flags.which
    )
    took = recognizer.warm_up()
    print(f"ready after {took:.1f} s; Ctrl-C ends", file=sys.stderr)
    prepare = _preparer(recognizer.wanted)
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


def _preparer(wanted: Wanted) -> Callable[[np.ndarray], np.ndarray]:
    """`prepare_frame`, which says once when the stream has the wrong colours."""
    seen = False

    def prepare(image: np.ndarray) -> np.ndarray:
        nonlocal seen
        if not seen:
            seen = True
            for text in footage.modality_warning(footage.colourfulness(image), wanted.modality):
                print(f"warning: the stream {text}", file=sys.stderr)
        return footage.prepare_frame(image, wanted)

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
                f"{_clock(moment - start)}  {prediction.probability:6.1%}  {prediction.label}"
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

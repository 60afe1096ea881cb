"""What it saves to compute every frame once: films, streams and PKU-MMD's detection.

    python -m benchmarks.frames [--windows=24] [--repeats=5] [--kinds=none] [--only=film,stream]

The network's time alone, of an untrained ResNet-18 on infrared frames of 224 pixels: windows of a
film of noise with each frame computed once and with every window whole, in turns. Both count the
frames that they give to the network; a film of an hour or a video of PKU-MMD is reckoned from the
time of a frame either way and the number of frames that it needs.
"""

import argparse
import functools
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _measure
from benchmarks._measure import Result
from benchmarks.student import make_run
from jax_irkd.config import paper_setup
from jax_irkd.deployment import archive
from jax_irkd.deployment.classifier import open_classifier, shared_frames
from jax_irkd.deployment.recognizer import Recognizer, spec_of
from jax_irkd.detection import consensus, scoring
from jax_irkd.detection.consensus import Frames
from jax_irkd.host import devices
from jax_irkd.runs.network import load_network
from jax_irkd.video import grid, timing
from jax_irkd.video.windows import Window

RATE, STRIDE, SECONDS = 30.0, 16, 2.0
HOUR, VIDEO = 3600 * 30, 180 * 30  # frames; PKU-MMD's videos last three to four minutes


class Counter:
    """How many frames a network was given."""

    def __init__(self) -> None:
        self.frames = 0

    def clips(self, call: Callable) -> Callable:
        def counted(clips):
            self.frames += clips.shape[0] * clips.shape[1]
            return call(clips)

        return counted

    def alone(self, frames: Frames) -> Frames:
        def counted(images, past):
            self.frames += len(images)
            return frames.step(images, past)

        return Frames(counted, frames.start)


def plan(total: int, segments: int = 8) -> list[grid.PlannedWindow]:
    """Windows of 2 s every 16 frames of a film of so many frames, 30 a second."""
    return grid.plan(timing.steady(total, RATE), SECONDS, STRIDE / RATE, segments)


def film(spec, windows: int) -> list[Window]:
    """So many windows of noise."""
    picture = np.random.default_rng(0).integers(1, 256, spec.shape[1:], dtype=np.uint8)

    def image(index: int) -> np.ndarray:
        return np.roll(picture, index, axis=1)

    return [
        Window(start, stop, np.stack([image(i) for i in frames]), frames, lane)
        for start, stop, frames, lane in plan(64 + STRIDE * (windows - 1), spec.num_segments)
    ]


def compare(
    title: str,
    windows: list[Window],
    score: Callable,
    frames: Frames,
    repeats: int,
    length: int,
    **sizes: int,
) -> Result:
    """The time of a film of `length` frames, each computed once, over that of whole windows."""
    ways = {"shared": Counter(), "whole": Counter()}
    shared, whole = ways.values()
    run = functools.partial(consensus.scores, windows, whole.clips(score), **sizes)
    calls = {
        "shared": functools.partial(run, frames=shared.alone(frames)),
        "whole": functools.partial(run, frames=None),
    }
    taken = _measure.alternate(calls, repeats)
    planned = plan(length)
    needed = len({(place.lane, frame) for place in planned for frame in place.frames})
    share = needed / sum(len(place.frames) for place in planned)
    once = share * whole.frames / shared.frames  # from the frames measured to those of the film
    ratios = [once * a / b for a, b in zip(taken["shared"].wall, taken["whole"].wall, strict=True)]
    processor = _measure.ratio(taken["shared"], taken["whole"], "processor").median
    note = (
        f"{needed / len(planned):.2f} frames a window for {len(planned[0].frames)}; a whole window "
        f"{1e3 * np.median(taken['whole'].wall) / len(windows):.0f} ms; by processor time "
        f"{once * processor:.2f}"
    )
    return _measure.spread(ratios).result(title, "×", "≤ 0.3", note)


def films(classifier: Any, kind: str, windows: int, repeats: int) -> Result:
    """`predict` on a long film."""
    spec = spec_of(classifier)
    sizes = {"batch_size": 1, "frames_at_once": spec.num_segments}
    title = f"an hour of film, {kind}: every frame once / whole windows"
    frames = shared_frames(classifier, "shared")
    return compare(title, film(spec, windows), classifier, frames, repeats, HOUR, **sizes)


def detection(run: Path, kind: str, windows: int, repeats: int) -> Result:
    """PKU-MMD's windows of 64 frames every 16, through Flax in the batches of an evaluation."""
    network, meta = load_network(run)
    config = paper_setup("baseline", "cross_subject", 0)
    config.input.eval_batch_size = 4  # of whole windows; the share does not depend on it
    watched = {
        "score": scoring.make_score(network, config, "infrared"),
        "frames": scoring.make_frames(network, config, "infrared"),
    }
    sizes = {"batch_size": 4, "frames_at_once": 4 * meta["config"]["input"]["num_segments"]}
    pictures = film(spec_of(open_classifier(run, engine="jax")), windows)
    title = f"a video of PKU-MMD, {kind}: every frame once / whole windows"
    return compare(title, pictures, repeats=repeats, length=VIDEO, **watched, **sizes)


def stream(classifier: Any, kind: str, stride: int, repeats: int) -> Result:
    """A prediction of a running stream, in frames of a clip: the whole push, at the network's size.

    At every frame that the windows take: a stride of 8, or at every frame there is.
    """
    spec, counter = spec_of(classifier), Counter()
    recognizer = Recognizer(classifier, stride=stride)
    recognizer._lanes._frames = counter.alone(recognizer._frames)
    picture = np.random.default_rng(0).integers(0, 256, spec.shape[1:], dtype=np.uint8)
    made = [0]

    def predictions() -> None:
        for _ in range(8 * stride):
            made[0] += recognizer.push_prepared(picture) is not None

    for _ in range(8):
        predictions()  # Until the window is full.
    clip = np.stack([picture] * spec.num_segments)[None]
    taken = _measure.alternate({"stream": predictions, "clip": lambda: classifier(clip)}, repeats)
    share = _measure.ratio(taken["stream"], taken["clip"])  # 8 predictions / 8 frames
    note = (
        f"{counter.frames / made[0]:.2f} frames looked at for a prediction; "
        f"{1e3 * np.median(taken['stream'].wall) / 8:.1f} ms"
    )
    title = f"stream, {kind}, stride {stride}: a prediction / a frame of a clip"
    return share.result(title, "×", "≤ 1.2", note)


def results(flags: argparse.Namespace) -> list[Result]:
    """Everything that `flags` names, printed as it comes."""
    made = []
    with tempfile.TemporaryDirectory() as name:
        for kind in flags.kinds.split(","):
            for part in flags.only:
                for result in PARTS[part](Path(name), kind, flags):
                    made.append(result)
                    _measure.show(made[-1:])
    return made


def _exported(folder: Path, kind: str, engine: str) -> Any:
    file = folder / f"{kind}.irkd"
    if not file.exists():
        archive.export_run(_run(folder, kind), file)
    return open_classifier(file, engine=engine)


def _run(folder: Path, kind: str) -> Path:
    return folder / kind if (folder / kind).exists() else make_run(folder / kind, kind)


def _film(folder: Path, kind: str, flags: argparse.Namespace) -> Iterator[Result]:
    yield films(_exported(folder, kind, flags.engine), kind, flags.windows, flags.repeats)


def _stream(folder: Path, kind: str, flags: argparse.Namespace) -> Iterator[Result]:
    for stride in (8, 1):
        yield stream(_exported(folder, kind, flags.engine), kind, stride, flags.repeats)


def _detection(folder: Path, kind: str, flags: argparse.Namespace) -> Iterator[Result]:
    yield detection(_run(folder, kind), kind, flags.windows, flags.repeats)


PARTS = {"film": _film, "stream": _stream, "detection": _detection}


def main() -> None:
    parser = _measure.make_parser(__doc__)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engine", default="jax", help="what runs the exported file")
    parser.add_argument("--kinds", default="none,causal")
    parser.add_argument("--only", type=_measure.several(PARTS), default=[*PARTS])
    flags = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    devices.start("off")  # as `predict` does
    _measure.run("frames", results, flags, flags.json)


if __name__ == "__main__":
    main()

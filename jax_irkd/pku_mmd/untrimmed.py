"""The untrimmed videos of PKU-MMD and their annotations, as its raw files hold them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jax_irkd.errors import UserError
from jax_irkd.pku_mmd.files import scan
from jax_irkd.video.archives import Source
from jax_irkd.video.decoding import Film
from jax_irkd.video.timing import SAME_CLOCK, Timing, place_of, span_of, time_of

PROTOCOLS = {"cross_subject": 0, "cross_view": 2}  # Position of train/test in a split's name.


Row = tuple[int, int, int, int]


class UntrimmedVideo(NamedTuple):
    """A long video and its annotation, rows `(label, start, end, confidence)` as published:
    labels from 1, frames from 1, the end included."""

    name: str
    rgb: Source
    infrared: Source
    rows: list[Row]


class Part(NamedTuple):
    """The training or test part of a protocol: the videos that are complete, the rows of all that
    are annotated, on disk or not, and the names of all that the split files put there."""

    videos: list[UntrimmedVideo]
    rows: dict[str, list[Row]]
    listed: list[str]


def pku_videos(folder: str | Path, protocol: str, part: str = "test") -> list[UntrimmedVideo]:
    """The complete videos of a raw PKU-MMD folder that `protocol` puts into `part`.

    Raises UserError for an unknown protocol or part, and when the folder is not PKU-MMD.
    """
    return pku_part(folder, protocol, part).videos


def pku_part(folder: str | Path, protocol: str, part: str = "test") -> Part:
    """What a raw PKU-MMD folder has of what `protocol` puts into `part`.

    Rows are corrected as the builder does. Raises UserError like `pku_videos`.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}; choose one of {sorted(PROTOCOLS)}")
    if part not in ("train", "test"):
        raise UserError(f"unknown part {part!r}; choose one of ['train', 'test']")
    found, place = scan(Path(folder)), PROTOCOLS[protocol]
    listed = sorted(name for name, split in found.splits.items() if split.split("_")[place] == part)
    rows = {
        name: [(i.label + 1, i.start + 1, i.stop, i.confidence) for i in labels.instances]
        for name in listed
        if (labels := found.labels.get(name))
    }
    pairs = {name: pair for name in rows if len(pair := found.videos.get(name, {})) == 2}
    videos = [
        UntrimmedVideo(name, pair["rgb"].source, pair["infrared"].source, rows[name])
        for name, pair in pairs.items()
    ]
    return Part(videos, rows, listed)


class AnnotatedClock:
    """The frames of a modality as those RGB frames of the same moments that the annotation counts.

    Raises VideoError when one of the films cannot be read.
    """

    def __init__(self, video: UntrimmedVideo, modality: str):
        self._rgb = Film(video.rgb).whole
        self._own = Film(video.infrared).whole if modality == "infrared" else self._rgb
        self.rate = self._rgb.rate  # annotated frames per second

    def __call__(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        return on_own_clock(list(spans), self._own, self._rgb)


def on_own_clock(
    spans: list[tuple[int, int]], rgb: Timing, infrared: Timing
) -> list[tuple[int, int]]:
    """Annotated frames, which are RGB frames, as the infrared frames of the same moments.

    The same numbers where both films show equally many frames a second on one clock.
    """
    first, second, same = span_of(rgb, infrared)
    alike = same and rgb.steady and infrared.steady
    if alike and abs(rgb.rate - infrared.rate) <= SAME_CLOCK * rgb.rate:
        return spans
    pace = 1.0 if same and rgb.timed else second / first
    moved = [
        (place_of(infrared, pace * time_of(rgb, start)), place_of(infrared, pace * time_of(rgb, e)))
        for start, e in spans
    ]
    return [(start, max(start + 1, stop)) for start, stop in moved]

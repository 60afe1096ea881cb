"""Untrimmed videos as sliding windows of segments: every frame decoded once, memory bounded."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from jax_irkd.data.archives import Source
from jax_irkd.data.frames import fit
from jax_irkd.data.sampling import frame_indices, segment_positions
from jax_irkd.data.video import (
    VideoError,
    iterate_frames,
    nominal_frames,
    packet_count,
    resize,
)
from jax_irkd.errors import UserError

PROTOCOLS = {"cross_subject": 0, "cross_view": 2}  # Position of train/test in a split's name.


class Window(NamedTuple):
    """Frames `start` to `stop` of a video, counted from 0, `stop` not included.

    `frames` is uint8 `t h w c`, the centres of t equal segments.
    """

    start: int
    stop: int
    frames: np.ndarray


class UntrimmedVideo(NamedTuple):
    """A long video and its annotation, rows `(label, start, end, confidence)` as published:
    labels from 1, frames from 1, the end included."""

    name: str
    rgb: Source
    infrared: Source
    rows: list[tuple[int, int, int, int]]


def spans(total: int, length: int, stride: int) -> list[tuple[int, int]]:
    """Windows of `length` frames every `stride`, the last one ending with the video.

    One window as long as the video when that is shorter than `length`.
    """
    if length < 1 or stride < 1:
        raise ValueError(f"length and stride must be positive, not {length} and {stride}")
    if total < 1:
        return []
    last = max(0, total - length)
    starts = sorted({*range(0, last + 1, stride), last})
    return [(start, min(start + length, total)) for start in starts]


def windows(
    source: Source,
    *,
    infrared: bool,
    size: tuple[int, int],
    length: int = 64,
    stride: int = 16,
    num_segments: int = 8,
    short_side: int = 256,
    threads: int = 1,
) -> Iterator[Window]:
    """Walks a video once, in order, and yields its overlapping windows.

    Frames are shrunk to `short_side` as the builders do, then fitted to `size` (height, width) as
    the training data is; infrared has one channel. Only frames that a window needs are converted,
    and they are dropped with the last window that needs them, so memory does not grow with the
    video. Raises VideoError when the video is damaged: windows before the fault come first.
    """
    # Placeholder packets may make this a frame or two more than there are: see `_finish`.
    planned = spans(packet_count(source), length, stride)
    positions = segment_positions(num_segments)
    needed = [start + frame_indices(positions, stop - start) for start, stop in planned]
    wanted = sorted({int(index) for indices in needed for index in indices})
    kept: dict[int, np.ndarray] = {}
    position, current, total = 0, 0, 0
    for index, frame in enumerate(iterate_frames(source, threads=threads, only=wanted)):
        total = index + 1
        if frame is not None:
            kept[index] = _prepared(frame, infrared, size, short_side)
        while current < len(planned) and needed[current][-1] <= index:
            yield _window(planned[current], needed[current], kept)
            current += 1
            oldest = planned[current][0] if current < len(planned) else total
            while position < len(wanted) and wanted[position] < oldest:
                kept.pop(wanted[position], None)
                position += 1
    yield from _finish(source, planned[current:], needed[current:], kept, total)


def _finish(source, planned, needed, kept: dict[int, np.ndarray], total: int) -> Iterator[Window]:
    """Windows that reach into placeholder packets at the end: cut off at the last real frame."""
    for (start, stop), indices in zip(planned, needed):
        indices = [index for index in indices if index in kept]
        if stop - total > 2 or not indices:
            raise VideoError(source, f"ends at frame {total}, {stop} were announced")
        indices += [indices[-1]] * (len(needed[0]) - len(indices))
        yield _window((start, total), indices, kept)


def _window(span: tuple[int, int], indices, kept: dict[int, np.ndarray]) -> Window:
    return Window(*span, np.stack([kept[int(index)] for index in indices]))


def _prepared(
    frame: np.ndarray, infrared: bool, size: tuple[int, int], short_side: int
) -> np.ndarray:
    frame = resize(frame, short_side)
    if infrared:
        frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return fit(frame, size).reshape(*size, 1 if infrared else 3)


def pku_videos(folder: str | Path, protocol: str, part: str = "test") -> list[UntrimmedVideo]:
    """The complete videos of a raw PKU-MMD folder that `protocol` puts into `part`.

    Raises UserError for an unknown protocol or part, and when the folder is not PKU-MMD.
    """
    found, rows = _annotated(folder, protocol, part)
    return [
        UntrimmedVideo(name, pair["rgb"].source, pair["infrared"].source, rows[name])
        for name, pair in sorted(found.videos.items())
        if len(pair) == 2 and name in rows
    ]


def pku_annotations(
    folder: str | Path, protocol: str, part: str = "test"
) -> dict[str, list[tuple[int, int, int, int]]]:
    """The rows of all annotated videos that `protocol` puts into `part`, on disk or not.

    Rows are mended as the builder does. Raises UserError like `pku_videos`.
    """
    return _annotated(folder, protocol, part)[1]


def infrared_rate(video: UntrimmedVideo) -> float:
    """Infrared frames for one RGB frame, by whose numbers the annotation goes; 1 on one clock."""
    from tfds_builders.pku_mmd_ir.videos import clock_ratio

    return clock_ratio(nominal_frames(video.rgb), nominal_frames(video.infrared))


def _annotated(folder: str | Path, protocol: str, part: str):
    """A scan of the folder, and the rows by video."""
    # Knowledge of the raw layout lives with the builder; nothing else here needs it.
    from tfds_builders.pku_mmd_ir.videos import scan

    if protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}; choose one of {sorted(PROTOCOLS)}")
    if part not in ("train", "test"):
        raise UserError(f"unknown part {part!r}; choose one of ['train', 'test']")
    found = scan(Path(folder))
    rows = {
        name: [(i.label + 1, i.start + 1, i.stop, i.confidence) for i in labels.instances]
        for name, labels in sorted(found.labels.items())
        if found.splits.get(name, "____").split("_")[PROTOCOLS[protocol]] == part
    }
    return found, rows

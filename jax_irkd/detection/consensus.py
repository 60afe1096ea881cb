"""Class probabilities of overlapping windows, by frames that are computed once.

A clip's logits are the mean of its frames' (TSN). Where a frame's logits do not depend on what
comes after it (`temporal` none or causal), a frame that several windows share is computed only
once. A network whose segments see both neighbours (shift) gets whole windows, and so does every
network where each window's own percentiles bring more than eight bits down.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, PyTree, UInt8

from jax_irkd.video.windows import Window

Score = Callable[[UInt8[np.ndarray, "b t h w c"]], Float[Any, "b k"]]


class Frames(NamedTuple):
    """A network that takes the frames of a stream as they come.

    `step(frames, past)` gives the logits `n k` of uint8 frames `n h w c` and the past that the
    frames after them need; `start` is the past of the first one.
    """

    step: Callable[[UInt8[np.ndarray, "n h w c"], PyTree], tuple[Float[Any, "n k"], PyTree]]
    start: PyTree


class WindowScores(NamedTuple):
    """Probabilities of windows and the frames [start, stop) of each, in order."""

    probabilities: Float[np.ndarray, "w k"]
    spans: Int[np.ndarray, "w 2"]


def scores(
    windows: Iterable[Window],
    score: Score,
    frames: Frames | None,
    *,
    batch_size: int,
    frames_at_once: int,
) -> WindowScores:
    """By frames where there is such a program and all windows have the same pixels of a frame."""
    windows = iter(windows)
    first = next(windows, None)
    if first is None:
        return _nothing()
    windows = itertools.chain([first], windows)
    if frames is None or not first.shared:
        return window_scores(windows, score, batch_size)
    return frame_scores(windows, frames, frames_at_once)


def window_scores(windows: Iterable[Window], score: Score, batch_size: int) -> WindowScores:
    """Each window as a clip of its own.

    The last batch is padded and the padding's scores are dropped. At most two batches of frames
    are held: one is decoded while the one before is being classified.
    """
    spans = []

    def clips():
        for window in windows:
            spans.append((window.start, window.stop))
            yield window.frames

    parts = list(_in_batches(clips(), score, batch_size))
    return WindowScores(np.concatenate(parts), np.array(spans)) if parts else _nothing()


def frame_scores(windows: Iterable[Window], frames: Frames, batch_size: int) -> WindowScores:
    """Each frame once, `batch_size` of them at a time, in however many windows it is.

        p(window) = softmax(mean_t logits(frame_t))

    The same as `window_scores` where frames do not depend on each other; where they depend on the
    past, on all of it: the network runs over the frames of a lane (`video.grid`) as over one clip.
    Of a video the logits of its frames are held, and of every lane a batch of frames.
    """
    spans, members = [], []
    lanes: dict[int, _Lane] = {}
    alone = not frames.start
    for window in windows:
        spans.append((window.start, window.stop))
        number = 0 if alone else window.lane
        if number not in lanes:
            lanes[number] = _Lane(frames, batch_size)
        members.append((number, lanes[number].take(window.indices, window.frames)))
    if not spans:
        return _nothing()
    logits = {number: lane.logits() for number, lane in lanes.items()}
    means = np.stack([logits[lane][places].mean(axis=0) for lane, places in members])
    return WindowScores(softmax(means), np.array(spans))


class _Lane:
    """The frames of one stream in batches, one of which is computed while the next one is made."""

    def __init__(self, frames: Frames, batch_size: int):
        self._frames, self._past, self._size = frames, frames.start, batch_size
        self._place: dict[int, int] = {}
        self._waiting: list[np.ndarray] = []
        self._parts: list[Any] = []

    def take(self, indices: Iterable[int], images: Iterable[np.ndarray]) -> list[int]:
        """Where the logits of these frames, by their numbers, will be."""
        places = []
        for index, image in zip(indices, images, strict=True):
            new = index not in self._place
            places.append(self._place.setdefault(index, len(self._place)))
            if new:
                self._waiting.append(image)
            if len(self._waiting) == self._size:
                self._run()
        return places

    def logits(self) -> Float[np.ndarray, "n k"]:
        """Of all frames, at the end: what fills up the last batch comes behind them."""
        if self._waiting:
            self._run()
        return np.concatenate([np.asarray(part) for part in self._parts])[: len(self._place)]

    def _run(self) -> None:
        batch = np.zeros((self._size, *self._waiting[0].shape), np.uint8)
        batch[: len(self._waiting)] = self._waiting
        self._waiting = []
        if self._parts:
            self._parts[-1] = np.asarray(self._parts[-1])
        logits, self._past = self._frames.step(batch, self._past)
        self._parts.append(logits)


def _in_batches(clips: Iterable[np.ndarray], compute: Score, batch_size: int):
    """Results of `compute`, batch by batch; one is computed while the next one is made."""
    clips, pending, count = iter(clips), None, 0
    while group := list(itertools.islice(clips, batch_size)):
        batch = np.zeros((batch_size, *group[0].shape), np.uint8)
        batch[: len(group)] = group
        if pending is not None:
            yield np.asarray(pending)
        pending, count = compute(batch), len(group)
    if pending is not None:
        yield np.asarray(pending)[:count]


def _nothing() -> WindowScores:
    return WindowScores(np.zeros((0, 0), np.float32), np.zeros((0, 2), np.int64))


def softmax(logits: Float[np.ndarray, "w k"]) -> Float[np.ndarray, "w k"]:
    """Probabilities of rows of logits, on the host."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)

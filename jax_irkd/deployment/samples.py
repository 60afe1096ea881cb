"""The frames of a stream that its windows look at: those on the windows' grid (`video.grid`)."""

import collections
import math
from typing import Any

import numpy as np

from jax_irkd.detection.consensus import Frames
from jax_irkd.video.grid import Grid


class Sample:
    """A frame and its number on the grid; its logits as soon as they are known."""

    __slots__ = ("frame", "logits", "number")

    def __init__(self, number: int, frame: np.ndarray):
        self.number, self.frame = number, frame
        self.logits: np.ndarray | None = None


class Samples:
    """The newest samples of a stream whose frames come at about `rate` per second.

    The frame that ends a step of the grid, to the nearest half of a frame, is its sample. Time
    decides, not the number of frames: where frames are dropped, samples are missing, and windows
    take the ones before them.
    """

    def __init__(self, grid: Grid, rate: float):
        self._grid, self._rate = grid, rate
        self._held: collections.deque[Sample] = collections.deque()
        self._start: float | None = None

    def __len__(self) -> int:
        return len(self._held)

    def add(self, time: float, frame: np.ndarray) -> Sample | None:
        """The frame as a sample, where it is one. `time` in seconds, not falling."""
        self._start = time if self._start is None else self._start
        frames = (time - self._start) * self._rate + 1.5
        number = math.floor(frames / self._grid.step + 1e-9)
        if number <= (self._held[-1].number if self._held else 0):
            return None
        self._held.append(Sample(number, frame))
        while self._held[0].number <= number - self._grid.count * self._grid.segments:
            self._held.popleft()
        return self._held[-1]

    def window(self) -> list[Sample]:
        """One for each segment, the last one the newest. While there are too few, some repeat."""
        numbers = [sample.number for sample in self._held]
        gaps = max(self._grid.count - 1, 1)
        apart = min(self._grid.segments, (numbers[-1] - numbers[0]) / gaps)
        wanted = numbers[-1] - apart * np.arange(self._grid.count)[::-1]
        places = np.searchsorted(numbers, wanted + 1e-6, side="right") - 1
        return [self._held[max(place, 0)] for place in places]


class Lanes:
    """A program for frames, and of every lane of the grid the past that its next frame needs."""

    def __init__(self, frames: Frames, grid: Grid):
        self._frames, self._grid = frames, grid
        self._past: dict[int, Any] = {}

    def look(self, sample: Sample, image: np.ndarray) -> None:
        """Give the sample its logits; `image` is its frame, uint8 `h w c`."""
        lane = sample.number % self._grid.segments
        past = self._past.get(lane, self._frames.start)
        logits, self._past[lane] = self._frames.step(image[None], past)
        sample.logits = np.asarray(logits)[0]

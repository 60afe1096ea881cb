"""One frame of a film, and its pixels as they are wanted."""

from typing import Any

import cv2
import numpy as np
from av.video.frame import VideoFrame

from jax_irkd.video.faults import FAULTS, named
from jax_irkd.video.pixels import is_deep, resize


class Shot:
    """One frame of a film: its `index` among all frames, and its `time` in seconds.

    `film` is a `decoding.Film`, whose `source`, `rotation` and `convert` are asked.
    """

    __slots__ = ("_film", "_frame", "index", "time")

    def __init__(self, film: Any, frame: VideoFrame | np.ndarray, index: int, time: float):
        self._film, self._frame, self.index, self.time = film, frame, index, time

    @property
    def deep(self) -> bool:
        """Whether its grey has more than eight bits."""
        if isinstance(self._frame, np.ndarray):
            return self._frame.dtype != np.uint8
        return is_deep(self._frame, grey=True)

    def image(self, short_side: int = 0, *, grey: bool = False) -> np.ndarray:
        """Upright pixels, shrunk to `short_side` unless that is 0: RGB uint8 `h w 3`, or one
        channel `h w` where the film has no more or `grey` allows it. One channel of more than eight
        bits keeps the file's type; `depth.Range` brings it down.
        """
        if isinstance(self._frame, np.ndarray):
            image = resize(self._frame, short_side)
            return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if grey and image.ndim == 3 else image
        try:  # once a frame: a context would cost as much as a small picture's conversion
            return self._film.convert(self._frame, self._film.rotation, short_side, grey)
        except FAULTS as error:
            raise named(self._film.source, error) from error

"""What changes in a source while it is watched: its size, its kind of picture, its rate."""

import numpy as np

from jax_irkd.video.pixels import COLOURED, COLOURLESS, colourfulness

COLOURS_EVERY = 16  # frames, one is looked at for colours
STEPS = 32  # frames after which a rate is believed
FACTOR = 1.5  # between two rates that are said to differ


class Changes:
    """Looks at every frame of a source and says in a line what has changed.

    `cut` is true after a frame that shows another scene: of another shape or depth.
    """

    def __init__(self) -> None:
        self.cut = False
        self._shape: tuple | None = None
        self._coloured: bool | None = None
        self._count = 0
        self._last: float | None = None
        self._steps: list[float] = []
        self._rate = 0.0

    def look(self, image: np.ndarray, time: float | None) -> list[str]:
        """What a frame as the source has it, shown at `time` in seconds, has changed."""
        return self._look_at_shape(image) + self._look_at_colours(image) + self._look_at(time)

    def _look_at_shape(self, image: np.ndarray) -> list[str]:
        before, self._shape = self._shape, (*image.shape[:2], *image.shape[2:], image.dtype.name)
        self.cut = before is not None and before != self._shape
        if not self.cut:
            return []
        self._coloured, self._count = None, 0
        return [
            f"the source changed from {_words(before)} to {_words(self._shape)}; frames are cut to "
            "the network's size as before, and what came before the change is forgotten"
        ]

    def _look_at_colours(self, image: np.ndarray) -> list[str]:
        self._count += 1
        if self._count % COLOURS_EVERY != 1:
            return []
        colour, before = colourfulness(image), self._coloured
        if COLOURLESS <= colour <= COLOURED:
            return []
        self._coloured = colour > COLOURED
        if before is None or before == self._coloured:
            return []
        words = ("lost its colours", "has got colours")[self._coloured]
        return [
            f"the source {words}, as cameras do that switch between day and night; expect worse "
            "results where the network learned from the other kind of picture"
        ]

    def _look_at(self, time: float | None) -> list[str]:
        last, self._last = self._last, time
        if time is None or last is None:
            return []
        if time < last:  # it began anew
            self._steps.clear()
            return []
        self._steps.append(time - last)
        if len(self._steps) < STEPS:
            return []
        median, before = float(np.median(self._steps)), self._rate
        self._steps.clear()
        if median <= 0:
            return []
        rate = 1 / median
        if before and max(rate / before, before / rate) < FACTOR:
            return []
        self._rate = rate
        if not before:
            return []
        return [
            f"the source now brings {rate:.1f} frames per second, {before:.1f} before; windows "
            "last as long as before, predictions still come every so many frames"
        ]


def _words(shape: tuple) -> str:
    height, width, *channels, kind = shape
    colour = "RGB" if channels == [3] else "grey"
    return f"{width}x{height} {colour}" + ("" if kind == "uint8" else f" of {kind}")

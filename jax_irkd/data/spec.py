"""The clips a network reads: one description for training, prediction and exported files."""

from collections.abc import Iterable
from typing import NamedTuple

CHANNELS = {"rgb": 3, "infrared": 1}
SEES = {"teacher": "rgb", "student": "infrared"}  # the modality of each network
ROLES = {modality: role for role, modality in SEES.items()}
BACKGROUND = "background"  # a class of this name is none: nothing of the others happens


def background_of(class_names: Iterable[str]) -> int | None:
    """The number of the class that stands for nothing; None where there is none."""
    names = list(class_names)
    return names.index(BACKGROUND) if BACKGROUND in names else None


def whole_crop(size: tuple[int, int], scale: float, resolution: int) -> tuple[int, int] | None:
    """Row and column where the centre crop of `scale` times the shorter side begins.

    None unless it has whole pixels, and as many as `resolution`: resampling is then the identity.
    The published sizes are such: 224 = 0.875 * 256.
    """
    side = scale * min(size)
    top, left = ((length - side) / 2 for length in size)
    if side != resolution or not (top.is_integer() and left.is_integer()):
        return None
    return int(top), int(left)


class InputSpec(NamedTuple):
    """`num_segments` uint8 frames of `size` (height, width) and `channels`.

    Inside, the network takes the centre crop of `scale` times the shorter side, resampled to
    `resolution` pixels; 0 where that is the classifier's own business.
    """

    modality: str
    num_segments: int
    size: tuple[int, int]
    resolution: int = 0
    scale: float = 1.0

    @property
    def channels(self) -> int:
        return CHANNELS[self.modality]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(t, h, w, c) of a clip."""
        return (self.num_segments, *self.size, self.channels)

    @property
    def cropped(self) -> tuple[int, int, int]:
        """(h, w, c) of a frame inside the network."""
        return (self.resolution, self.resolution, self.channels)

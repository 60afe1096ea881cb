"""Decoded frames to upright pictures: shrunk, in colour or grey, at the depth that they have."""

import cv2
import numpy as np
from av import VideoFrame
from av.video.reformatter import VideoReformatter

# Grey levels of `colourfulness`. Codecs leave up to 4 on a noisy grey picture; a room filmed in
# pale colours has 10 and more, because something in it always has a colour.
COLOURLESS, COLOURED = 4.0, 6.0
PLANAR_LUMA = ("gray", "yuv", "nv", "p0", "ya")  # names of formats that keep the luma apart


class Converter:
    """Frames of a decoder to arrays.

    The conversion shrinks in passing, by area: a tenth of the time that a whole 1080p image takes,
    and the same picture but for one grey level of rounding. Grey pictures take the luma alone, a
    third of it. More than eight bits of grey stay what they are (`depth.Range` brings them down).
    """

    def __init__(self):
        self._reformatter = VideoReformatter()

    def __call__(
        self, frame: VideoFrame, rotation: int = 0, short_side: int = 0, grey: bool = False
    ) -> np.ndarray:
        """RGB uint8 `h w 3`; `h w` where `grey` allows it or the frame has one channel and more
        than eight bits: then of the file's own type. Raises ValueError for deep grey that cannot be
        read as it is.
        """
        if is_deep(frame, grey):
            return upright(resize(_deep(frame), short_side), rotation)
        shorter = min(frame.height, frame.width)
        if not 0 < short_side < shorter:
            height, width = frame.height, frame.width
        else:
            height, width = (
                max(short_side, round(side * (short_side / shorter)))
                for side in (frame.height, frame.width)
            )
        small = self._reformatter.reformat(
            frame,
            width,
            height,
            "gray" if grey else "rgb24",
            interpolation="AREA",
            dst_color_range="JPEG",  # 0 to 255; grey would otherwise keep the video's range
        )
        return upright(small.to_ndarray(), rotation)


def is_deep(frame: VideoFrame, grey: bool = False) -> bool:
    """Whether the frame has grey of more than eight bits: one channel, or the luma if `grey`."""
    parts = frame.format.components
    return parts[0].bits > 8 and (len(parts) == 1 or grey)


def _deep(frame: VideoFrame) -> np.ndarray:
    name, bits = frame.format.name, frame.format.components[0].bits
    if not name.startswith(PLANAR_LUMA) or name.startswith("ya"):
        raise ValueError(
            f"its pixels are {name}, of which the {bits} bits of grey cannot be read as they are; "
            "convert it with ffmpeg -pix_fmt gray16le"
        )
    order = ">" if frame.format.is_big_endian else "<"
    kind = "f4" if bits == 32 else "u2"
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.dtype(order + kind)).reshape(-1, plane.line_size // int(kind[1]))
    image = rows[: frame.height, : frame.width].astype(kind)
    return image >> 16 - bits if name.startswith("p0") else image  # P010 keeps its bits at the top


def resize(image: np.ndarray, short_side: int) -> np.ndarray:
    """Shrinks `h w [c]` to a shorter side of `short_side` pixels; never enlarges. 0 keeps it."""
    height, width = image.shape[:2]
    if short_side <= 0 or min(height, width) <= short_side:
        return image
    scale = short_side / min(height, width)
    size = max(short_side, round(width * scale)), max(short_side, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def upright(image: np.ndarray, rotation: int) -> np.ndarray:
    """`image` turned counter-clockwise by `rotation` degrees, a multiple of 90."""
    turns = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def coarse_sample(image: np.ndarray) -> np.ndarray:
    """Every eighth pixel of every eighth row, of the green channel where there are three."""
    sample = image[::8, ::8]
    return sample[..., 1] if sample.ndim == 3 else sample


def colourfulness(image: np.ndarray) -> float:
    """How much colour a picture has, in grey levels; 0 for one channel.

    The 99th percentile, over a coarse grid, of |(r - g) - m| + |(b - g) - n|, with the medians m
    and n of the picture: an even tint is no colour, and one coloured thing in a pale room is.
    """
    if image.ndim == 2 or image.shape[2] == 1:
        return 0.0
    coarse = image[::8, ::8].astype(np.int16)
    tints = (coarse[..., ::2] - coarse[..., 1:2]).reshape(-1, 2)
    tints = np.abs(tints - _quantile(tints, 0.5)).sum(axis=1)
    return float(_quantile(tints, 0.99))


def _quantile(values: np.ndarray, share: float) -> np.ndarray:
    """NumPy's along the first axis, in a tenth of its time for values as few as these."""
    place = share * (len(values) - 1)
    low = int(place)
    ordered = np.sort(values, axis=0)
    below, above = ordered[low], ordered[min(low + 1, len(values) - 1)]
    return below + (above - below) * (place - low)

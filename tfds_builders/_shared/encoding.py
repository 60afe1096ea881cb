"""Clips as JPEG frames, as the data sets store them."""

import bisect
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from jax_irkd.video.archives import Source, held
from jax_irkd.video.decoding import COLOURED, VideoError, decode, named_faults, packet_count, resize


class CameraCrop(NamedTuple):
    """The part of an RGB frame that the infrared camera sees.

    `matrix` (2x3) maps pixels of an infrared frame of `infrared_size` to pixels of an RGB frame of
    `rgb_size`; both sizes are (width, height).
    """

    matrix: np.ndarray
    infrared_size: tuple[int, int]
    rgb_size: tuple[int, int]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The crop of `h w c` at the resolution of the RGB frame; black where RGB sees nothing."""
        height, width = image.shape[:2]
        fit = np.diag([width / self.rgb_size[0], height / self.rgb_size[1]])
        matrix = fit @ self.matrix
        scale = max(1.0, abs(np.linalg.det(matrix[:, :2])) ** 0.5)
        size = tuple(round(side * scale) for side in self.infrared_size)
        matrix[:, :2] /= scale
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, matrix, size, flags=flags)


class EncodedClip(NamedTuple):
    """JPEG frames of one clip.

    `indices` are their positions in the source, `total` is the source's frame count, `colour` the
    mean difference between the largest and the smallest channel (0 to 255).
    """

    frames: list[bytes]
    indices: list[int]
    total: int
    colour: float


def evenly_spaced(total: int, count: int) -> list[int]:
    """The middles of `count` equal parts of `range(total)`: floor((i + 1/2) total / count).

    Every index when `count` is 0 or at least `total`. Strictly increasing.
    """
    if count <= 0 or count >= total:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def encode_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """JPEG bytes of an RGB `h w 3` or one-channel `h w` or `h w 1` uint8 image."""
    if image.ndim == 3 and image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return _jpeg(image, quality)


def encode_clip(
    source: Source,
    *,
    infrared: bool = False,
    max_frames: int = 64,
    short_side: int = 256,
    quality: int = 90,
    crop: CameraCrop | None = None,
    threads: int = 1,
) -> EncodedClip:
    """At most `max_frames` (0: all) evenly spaced frames of a whole clip as JPEG.

    An infrared file holds its picture three times over; it is stored as one channel. Raises
    VideoError, also for a coloured file given as infrared.
    """
    options = {"infrared": infrared, "short_side": short_side, "quality": quality, "crop": crop}
    with named_faults(source), held(source) as file:
        total = packet_count(file)
        picked, read = _encode_at(file, evenly_spaced(total, max_frames), threads, **options)
        if read != total:  # Packets without a frame of their own: the count is known only now.
            picked, read = _encode_at(file, evenly_spaced(read, max_frames), threads, **options)
    indices = sorted(picked)
    colour = float(np.mean([picked[index][1] for index in indices]))
    return EncodedClip([picked[index][0] for index in indices], indices, read, colour)


def encode_ranges(
    source: Source,
    ranges: Sequence[tuple[int, int]],
    *,
    infrared: bool = False,
    max_frames: int = 64,
    short_side: int = 256,
    quality: int = 90,
    crop: CameraCrop | None = None,
    threads: int = 1,
) -> tuple[list[EncodedClip], int, VideoError | None]:
    """One clip for each half-open frame range of a long video, which is decoded once, in order.

    Returns the clips, the number of readable frames and the fault that ended reading, or None. A
    range is cut off at the last readable frame; a clip may therefore be short, or empty (colour
    0). Raises VideoError only when no frame is readable or an infrared video is coloured. Memory:
    the JPEG frames of all clips.
    """
    chosen = [[s + i for i in evenly_spaced(e - s, max_frames)] for s, e in ranges]
    wanted = sorted({index for indices in chosen for index in indices})
    options = {"infrared": infrared, "short_side": short_side, "quality": quality, "crop": crop}
    faults = []
    with named_faults(source), held(source) as file:
        picked, total = _encode_at(file, wanted, threads, **options, faults=faults)
    if faults and not total:
        raise faults[0]
    clips = []
    for indices, (start, stop) in zip(chosen, ranges):
        kept = [index for index in indices if index in picked]
        colour = float(np.mean([picked[index][1] for index in kept])) if kept else 0.0
        length = max(0, min(stop, total) - start)
        clips.append(EncodedClip([picked[index][0] for index in kept], kept, length, colour))
    return clips, total, faults[0] if faults else None


def _encode_at(
    source: Source,
    wanted: list[int],
    threads: int,
    *,
    infrared: bool,
    short_side: int,
    quality: int,
    crop: CameraCrop | None,
    faults: list[VideoError] | None = None,
) -> tuple[dict[int, tuple[bytes, float]], int]:
    """JPEG bytes and colour at each wanted index that exists, and the frame count.

    A fault is raised, or added to `faults` when there is such a list.
    """
    picked, total, spreads = {}, 0, []
    for index, frame in enumerate(_until_fault(decode(source, threads), faults)):
        total = index + 1
        position = bisect.bisect_left(wanted, index)
        if position == len(wanted) or wanted[position] != index:
            continue
        image = frame.to_ndarray(format="bgr24")
        image = resize(crop(image) if crop else image, short_side)
        coarse = image[::8, ::8].astype(np.int16)  # All pixels would take longer than the JPEG.
        spread = float(np.mean(coarse.max(axis=2) - coarse.min(axis=2)))
        if infrared:
            spreads.append(spread)
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        picked[index] = _jpeg(image, quality), spread
    if infrared and spreads and np.mean(spreads) > COLOURED:
        raise VideoError(
            source,
            f"is not infrared: its channels differ by {np.mean(spreads):.0f} grey levels on "
            f"average, at most {COLOURED:.0f} are allowed; is it an RGB or a false-colour file?",
        )
    return picked, total


def _until_fault(frames: Iterator, faults: list[VideoError] | None) -> Iterator:
    try:
        yield from frames
    except VideoError as error:
        if faults is None:
            raise
        faults.append(error)


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape} as JPEG")
    return encoded.tobytes()

"""Video files to frames: decode order, bounded memory, damage named and never papered over.

A source is a path or an archives.Member, so that a clip inside a zip is read in place. Frames are
counted as the decoder hands them out: an AVI has no usable time stamps, its packets may be out of
order, and one keyframe for the whole clip is normal, so seeking buys nothing.
"""

import bisect
import contextlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import av
import cv2
import numpy as np

from jax_irkd.data.archives import Source, held, name_of, open_source
from jax_irkd.data.avi import count_empty_chunks
from jax_irkd.errors import UserError

# Mean of max(r, g, b) - min(r, g, b), in grey levels. Codecs leave up to 3 on a grey picture;
# rooms filmed in colour have 15 and more.
COLOURLESS = 0.75
COLOURED = 8.0
# XVID counts placeholder frames in the header that no decoder returns.
HEADER_SLACK = 2


class VideoError(UserError):
    """A video that cannot be read as it should. The message names the file and the reason."""

    def __init__(self, source: Source, reason: str):
        super().__init__(f"{name_of(source)}: {reason}")
        self.name, self.reason = name_of(source), reason

    def __reduce__(self):  # Exceptions travel between processes by their arguments.
        return VideoError, (self.name, self.reason)


class Crop(NamedTuple):
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


def iterate_frames(
    source: Source, *, threads: int = 1, only: Iterable[int] | None = None
) -> Iterator[np.ndarray | None]:
    """All frames in decode order, RGB uint8 `h w 3`, one at a time.

    With `only`, frames at other indices are decoded but not converted, and come as None.
    `threads` is the decoder's thread count, 0 lets it choose. Raises VideoError when the file is
    unreadable, has no picture, is damaged or ends early; what could be read has been yielded then.
    """
    wanted = None if only is None else set(only)
    for index, frame in enumerate(_decode(source, threads)):
        yield frame.to_ndarray(format="rgb24") if wanted is None or index in wanted else None


def count_frames(source: Source) -> int:
    """The number of frames the decoder returns. Decodes everything; raises VideoError."""
    return sum(1 for _ in _decode(source, threads=0))


def read_frames(
    source: Source, indices: Iterable[int], *, short_side: int = 0, threads: int = 1
) -> list[np.ndarray]:
    """The frames at `indices` (decode order, repeats allowed), RGB uint8 `h w 3`.

    Only these are converted and, with `short_side`, resized. Decoding stops after the last one.
    Raises VideoError as `iterate_frames` does, and when an index lies past the end.
    """
    indices = list(indices)
    if not indices:
        return []
    if min(indices) < 0:
        raise ValueError(f"frame index {min(indices)} is negative; count from 0")
    wanted, found = set(indices), {}
    for index, frame in enumerate(_decode(source, threads)):
        if index in wanted:
            found[index] = resize(frame.to_ndarray(format="rgb24"), short_side)
            if len(found) == len(wanted):
                return [found[index] for index in indices]
    raise VideoError(source, f"has no frame {max(indices)}; counting from 0 the last is {index}")


def evenly_spaced(total: int, count: int) -> list[int]:
    """The middles of `count` equal parts of `range(total)`: floor((i + 1/2) total / count).

    Every index when `count` is 0 or at least `total`. Strictly increasing.
    """
    if count <= 0 or count >= total:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def resize(image: np.ndarray, short_side: int) -> np.ndarray:
    """Shrinks `h w c` until the shorter side is `short_side` pixels; never enlarges. 0 keeps it."""
    height, width = image.shape[:2]
    if short_side <= 0 or min(height, width) <= short_side:
        return image
    scale = short_side / min(height, width)
    size = max(short_side, round(width * scale)), max(short_side, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


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
    crop: Crop | None = None,
    threads: int = 1,
) -> EncodedClip:
    """At most `max_frames` (0: all) evenly spaced frames of a whole clip as JPEG.

    An infrared file holds its picture three times over; it is stored as one channel. Raises
    VideoError, also for a coloured file given as infrared.
    """
    options = {"infrared": infrared, "short_side": short_side, "quality": quality, "crop": crop}
    with _named(source), held(source) as file:
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
    crop: Crop | None = None,
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
    with _named(source), held(source) as file:
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


def packet_count(source: Source) -> int:
    """The number of non-empty video packets, read without decoding; close to the frame count."""
    with _opened(source) as (container, stream), _named(source):
        return sum(1 for packet in container.demux(stream) if packet.size)


def nominal_frames(source: Source) -> int:
    """The frame count that the header promises, whether or not they are there; packets if none."""
    with _opened(source) as (_, stream):
        if stream.frames:
            return stream.frames
    return packet_count(source)


def _encode_at(
    source: Source,
    wanted: list[int],
    threads: int,
    *,
    infrared: bool,
    short_side: int,
    quality: int,
    crop: Crop | None,
    faults: list[VideoError] | None = None,
) -> tuple[dict[int, tuple[bytes, float]], int]:
    """JPEG bytes and colour at each wanted index that exists, and the frame count.

    A fault is raised, or added to `faults` when there is such a list.
    """
    picked, total, spreads = {}, 0, []
    for index, frame in enumerate(_until_fault(_decode(source, threads), faults)):
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


def _decode(source: Source, threads: int) -> Iterator[av.VideoFrame]:
    missing = missing_bytes(source)
    count, expected = 0, 0
    with _opened(source) as (container, stream):
        expected = stream.frames
        stream.thread_type = "NONE" if threads == 1 else "AUTO"
        stream.codec_context.thread_count = threads
        if stream.codec_context.name == "mjpeg":  # It marks no frame as damaged by itself.
            stream.codec_context.options = {"err_detect": "explode"}
        with _named(source, lambda: _progress(count, expected, missing)):
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise VideoError(source, _progress(count, expected, missing))
                yield frame
                count += 1
    if count == 0:
        raise VideoError(source, "has no frames" + (", it is truncated" if missing else ""))
    # All frames may be there although the index behind them, or a recorder's dropped ones, is not.
    lost = expected - count if expected else missing
    if lost > 0 and missing:
        raise VideoError(source, _progress(count, expected, missing))
    if lost > HEADER_SLACK and lost > HEADER_SLACK + count_empty_chunks(source):
        raise VideoError(source, _progress(count, expected, missing))


def _progress(count: int, expected: int, missing: int) -> str:
    of = f" of {expected}" if expected else ""
    if missing:
        return f"is truncated by {missing} bytes: {count}{of} frames are readable"
    return f"is damaged: {count}{of} frames are readable before the fault"


@contextlib.contextmanager
def _opened(source: Source):
    with contextlib.ExitStack() as stack:
        with _named(source, lambda: _unopened(source)):
            file = stack.enter_context(open_source(source))
            if not file.seek(0, 2):
                raise VideoError(source, "is empty (0 bytes)")
            file.seek(0)
            container = stack.enter_context(av.open(file, mode="r"))
        if not container.streams.video:
            raise VideoError(source, "has no video stream")
        if container.streams.video[0].codec_context is None:
            raise VideoError(source, "is in a codec that nothing here decodes")
        yield container, container.streams.video[0]


def _unopened(source: Source) -> str:
    missing = missing_bytes(source)
    return f"is truncated by {missing} bytes" if missing else "is not a readable video"


@contextlib.contextmanager
def _named(source: Source, reason=lambda: "cannot be read"):
    """Puts the file's name and a reason on whatever the decoder or the file system raises."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(source, f"{reason()} ({text})") from error


def missing_bytes(source: Source) -> int:
    """How many bytes an AVI lacks of what its chunk headers promise; 0 for other containers."""
    with _named(source, lambda: "is not a readable file"), open_source(source) as file:
        size = file.seek(0, 2)
        offset = 0
        while offset + 12 <= size:  # Large files are a chain of RIFF chunks.
            file.seek(offset)
            tag, length, _ = struct.unpack("<4sI4s", file.read(12))
            if tag != b"RIFF" or length == 0:
                return 0
            offset += 8 + length + length % 2
        return max(0, offset - size - 1)  # The last padding byte may be left out.

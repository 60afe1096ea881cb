"""Video files to frames: decode order, bounded memory, damage named and never papered over.

A source is a path or an archives.Member, so that a clip inside a zip is read in place. Frames are
counted as the decoder hands them out: an AVI has no usable time stamps, its packets may be out of
order, and one keyframe for the whole clip is normal, so seeking buys nothing.
"""

import contextlib
import struct
from collections.abc import Iterable, Iterator

import av
import cv2
import numpy as np

from jax_irkd.errors import UserError
from jax_irkd.video.archives import Source, name_of, open_source
from jax_irkd.video.avi import count_empty_chunks

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


def iterate_frames(
    source: Source, *, threads: int = 1, only: Iterable[int] | None = None
) -> Iterator[np.ndarray | None]:
    """All frames in decode order, RGB uint8 `h w 3`, one at a time.

    With `only`, frames at other indices are decoded but not converted, and come as None.
    `threads` is the decoder's thread count, 0 lets it choose. Raises VideoError when the file is
    unreadable, has no picture, is damaged or ends early; what could be read has been yielded then.
    """
    wanted = None if only is None else set(only)
    for index, frame in enumerate(decode(source, threads)):
        yield frame.to_ndarray(format="rgb24") if wanted is None or index in wanted else None


def count_frames(source: Source) -> int:
    """The number of frames the decoder returns. Decodes everything; raises VideoError."""
    return sum(1 for _ in decode(source, threads=0))


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
    for index, frame in enumerate(decode(source, threads)):
        if index in wanted:
            found[index] = resize(frame.to_ndarray(format="rgb24"), short_side)
            if len(found) == len(wanted):
                return [found[index] for index in indices]
    raise VideoError(source, f"has no frame {max(indices)}; counting from 0 the last is {index}")


def resize(image: np.ndarray, short_side: int) -> np.ndarray:
    """Shrinks `h w c` until the shorter side is `short_side` pixels; never enlarges. 0 keeps it."""
    height, width = image.shape[:2]
    if short_side <= 0 or min(height, width) <= short_side:
        return image
    scale = short_side / min(height, width)
    size = max(short_side, round(width * scale)), max(short_side, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def packet_count(source: Source) -> int:
    """The number of non-empty video packets, read without decoding; close to the frame count."""
    with _opened(source) as (container, stream), named_faults(source):
        return sum(1 for packet in container.demux(stream) if packet.size)


def nominal_frames(source: Source) -> int:
    """The frame count that the header promises, whether or not they are there; packets if none."""
    with _opened(source) as (_, stream):
        if stream.frames:
            return stream.frames
    return packet_count(source)


def decode(source: Source, threads: int) -> Iterator[av.VideoFrame]:
    missing = missing_bytes(source)
    count, expected = 0, 0
    with _opened(source) as (container, stream):
        expected = stream.frames
        stream.thread_type = "NONE" if threads == 1 else "AUTO"
        stream.codec_context.thread_count = threads
        if stream.codec_context.name == "mjpeg":  # It marks no frame as damaged by itself.
            stream.codec_context.options = {"err_detect": "explode"}
        with named_faults(source, lambda: _progress(count, expected, missing)):
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
        with named_faults(source, lambda: _unopened(source)):
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
def named_faults(source: Source, reason=lambda: "cannot be read"):
    """Puts the file's name and a reason on whatever the decoder or the file system raises."""
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise VideoError(source, f"{reason()} ({text})") from error


def missing_bytes(source: Source) -> int:
    """How many bytes an AVI lacks of what its chunk headers promise; 0 for other containers."""
    with named_faults(source, lambda: "is not a readable file"), open_source(source) as file:
        size = file.seek(0, 2)
        offset = 0
        while offset + 12 <= size:  # Large files are a chain of RIFF chunks.
            file.seek(offset)
            tag, length, _ = struct.unpack("<4sI4s", file.read(12))
            if tag != b"RIFF" or length == 0:
                return 0
            offset += 8 + length + length % 2
        return max(0, offset - size - 1)  # The last padding byte may be left out.

"""Frames to AVI files in the manner of NTU RGB+D."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

# x264's macroblock tree writes other bytes once in some hundred times, on one thread, too.
RGB_CODECS = {
    "h264": ("libx264", {"preset": "veryfast", "crf": "18", "threads": "1", "mbtree": "0"}),
    "mpeg4": ("mpeg4", {"threads": "1"}),
}


def write_rgb(path: Path, frames: UInt8[np.ndarray, "t h w 3"], rate: int, codec: str) -> None:
    """Writes colour frames with one keyframe per 250 frames, so usually one per clip.

    H.264 has B-frames: like the originals, packets lie in another order than frames.
    """
    encoder, options = RGB_CODECS[codec]
    with _whole_or_nothing(path) as part, av.open(part, "w", format="avi") as container:
        stream = container.add_stream(encoder, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 250
        if codec == "mpeg4":
            stream.codec_context.qmin, stream.codec_context.qmax = 2, 4
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_infrared(path: Path, frames: UInt8[np.ndarray, "t h w"], rate: int) -> None:
    """Writes grey frames as MJPEG: every frame a keyframe, decoded to three equal channels."""
    height, width = frames.shape[1:]
    neutral = np.full((height // 2, width), 128, np.uint8)  # both chroma planes
    with _whole_or_nothing(path) as part, av.open(part, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=rate, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        stream.codec_context.qmin, stream.codec_context.qmax = 2, 3
        for frame in frames:
            planes = np.concatenate([frame, neutral])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuvj420p")))
        container.mux(stream.encode(None))


@contextlib.contextmanager
def _whole_or_nothing(path: Path) -> Iterator[str]:
    """A name to write to; the file gets its own name only when it is complete."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield str(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

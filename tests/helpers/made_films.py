"""Generated films of every kind that users bring: depths, rates, containers, pictures."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from jax_irkd.data.synthetic.raw_ntu import picture

SIZE = (64, 48)


def counts(number: int, low: int = 7300, high: int = 7700) -> np.ndarray:
    """Frame `number` as a radiometric camera gives it, uint16 `h w`: few of 65536 values."""
    grey = picture(number, SIZE, infrared=True)[..., 0].astype(np.float64)
    return (low + grey / 235 * (high - low)).astype(np.uint16)


def write_deep(path: Path, frames: int, pixels: str = "gray16le", codec: str = "ffv1", **values):
    """A film of one channel of more than eight bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = *SIZE, pixels
        for number in range(frames):
            frame = av.VideoFrame(*SIZE, pixels)
            plane = frame.planes[0]
            rows = np.zeros((SIZE[1], plane.line_size // 2), np.uint16)
            rows[:, : SIZE[0]] = counts(number, **values)
            plane.update(rows.tobytes())
            for colour in frame.planes[1:]:  # none: the middle of ten bits
                colour.update(np.full(colour.buffer_size // 2, 512, np.uint16).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_timed(path: Path, times, *, infrared: bool = False, codec: str = "libx264") -> Path:
    """Frame i shows the number i from `times[i]` seconds on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tick = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "crf": "12", "bf": "2"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = tick
        stream.codec_context.thread_count = 1
        for number, moment in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number, SIZE, infrared), format="rgb24")
            frame.pts, frame.time_base = round(moment / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_stills(folder: Path, frames: int, suffix: str = ".png", *, deep: bool = True, name=""):
    """Numbered pictures; the numbers are not as long as each other."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        pixels = counts(number) if deep else picture(number, SIZE, infrared=True)
        Image.fromarray(pixels).save(folder / f"{name}{number + 8}{suffix}")
    return folder


def write_pages(path: Path, frames: int, kind: str = "uint16") -> Path:
    """A TIFF of several pages, temperatures in degrees for float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [counts(number) for number in range(frames)]
    if kind == "float32":
        pages = [(page / 100 - 60).astype(np.float32) for page in pages]
    if kind == "uint8":
        pages = [picture(number, SIZE, infrared=True)[..., 0] for number in range(frames)]
    images = [Image.fromarray(page) for page in pages]
    images[0].save(path, save_all=True, append_images=images[1:])
    return path


def promise(path: Path, frames: int) -> Path:
    """Writes another number of frames into an AVI's header."""
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 24), (b"strh", 40)):
        place = data.index(tag) + offset
        data[place : place + 4] = frames.to_bytes(4, "little")
    path.write_bytes(data)
    return path

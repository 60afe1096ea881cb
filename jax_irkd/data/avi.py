"""The header of an AVI file, read without a decoder: enough for an inventory of 100,000 files."""

import struct
import zipfile
import zlib
from typing import NamedTuple

from jax_irkd.data.archives import Source, open_source

HEAD = 8192


class Header(NamedTuple):
    """What the file says of itself: frames, pixels, frames per second, codec's four letters."""

    frames: int
    width: int
    height: int
    rate: float
    codec: str


def read_header(source: Source, size: int) -> Header:
    """The header of an AVI of `size` bytes. Raises ValueError with the reason it cannot be whole.

    Reads a few kilobytes, so it sees damage to the header and missing bytes at the end, not
    damage in between.
    """
    if size == 0:
        raise ValueError("is empty (0 bytes)")
    try:
        with open_source(source, whole=False) as file:
            head = file.read(HEAD)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"is not readable ({error})") from error
    if head[:4] != b"RIFF" or head[8:12] != b"AVI ":
        raise ValueError("is not an AVI file")
    length = struct.unpack_from("<I", head, 4)[0]
    missing = 8 + length - size
    if length and missing > 1:
        raise ValueError(f"is truncated by {missing} bytes")
    main, stream = head.find(b"avih"), head.find(b"vids")
    try:
        micros, _, _, _, frames, *_ = struct.unpack_from("<5I", head, main + 8)
        width, height = struct.unpack_from("<2I", head, main + 8 + 32)
        codec = head[stream + 4 : stream + 8].decode("latin-1").strip("\0 ")
    except struct.error as error:
        raise ValueError("has a damaged header") from error
    if main < 0 or stream < 0:
        raise ValueError("has no video stream" if main >= 0 else "has a damaged header")
    if frames == 0:
        raise ValueError("has no frames")
    return Header(frames, width, height, 1e6 / micros if micros else 0.0, codec)

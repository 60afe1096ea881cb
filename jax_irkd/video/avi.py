"""The header of an AVI file, read without a decoder: enough for an inventory of 100,000 files."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from jax_irkd.video.archives import Source, open_source

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


def count_empty_chunks(source: Source) -> int:
    """How many frames of the first video stream have no bytes: a recorder's dropped frames.

    The header counts them and no decoder returns them. Counts up to the first broken chunk.
    """
    with open_source(source) as file:
        end = file.seek(0, 2)
        return sum(size == 0 and tag[2:] in (b"dc", b"db") for tag, size in _chunks(file, 12, end))


def _chunks(file, offset: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Tags and sizes of the chunks from `offset` on, those inside lists included."""
    while offset + 8 <= end:
        file.seek(offset)
        tag, size = struct.unpack("<4sI", file.read(8))
        if tag in (b"LIST", b"RIFF"):
            offset += 12  # Into the list: its content follows the four letters of its kind.
            continue
        yield tag, size
        offset += 8 + size + size % 2

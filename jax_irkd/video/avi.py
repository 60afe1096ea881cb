"""The chunks of an AVI file, where a decoder does not say what is missing."""

import struct
from collections.abc import Iterator

from jax_irkd.video.archives import DAMAGED_ZIP, Source, open_source, size_of


def missing_bytes(source: Source) -> int:
    """How many bytes an AVI lacks of what its chunk headers promise; 0 for other containers.

    Raises OSError or ValueError for a source that cannot be read.
    """
    size, offset = size_of(source), 0
    try:
        with open_source(source, whole=False) as file:
            while offset + 12 <= size:  # Large files are a chain of RIFF chunks.
                file.seek(offset)
                tag, length, _ = struct.unpack("<4sI4s", file.read(12))
                if tag != b"RIFF" or length == 0:
                    return 0
                offset += 8 + length + length % 2
    except DAMAGED_ZIP as error:
        raise ValueError(f"the archive is damaged: {error}") from error
    return max(0, offset - size - 1)  # The last padding byte may be left out.


def count_empty_chunks(source: Source) -> int:
    """How many frames of the first video stream have no bytes: a recorder's dropped frames.

    The header counts them and no decoder returns them. Counts up to the first broken chunk.
    """
    with open_source(source) as file:
        end = file.seek(0, 2)
        return sum(size == 0 and tag[2:] in (b"dc", b"db") for tag, size in _chunks(file, 12, end))


def count_indexed(source: Source) -> int | None:
    """How many frames the index of the first RIFF lists, whatever the header promises.

    None without such an index: then only the header counts the frames.
    """
    with open_source(source) as file:
        end = file.seek(0, 2)
        for tag, size in _chunks(file, 12, end):
            if tag == b"idx1":
                entries = file.read(min(size, end))
                tags = [entries[place : place + 4] for place in range(0, len(entries), 16)]
                shown = [tag for tag in tags if tag[2:] in (b"dc", b"db")]
                return shown.count(shown[0]) if shown else 0
    return None


def _chunks(file, offset: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Tags and sizes of the chunks from `offset` on, those inside lists included; none of a file
    that is no AVI."""
    file.seek(0)
    if file.read(4) != b"RIFF":
        return
    while offset + 8 <= end:
        file.seek(offset)
        tag, size = struct.unpack("<4sI", file.read(8))
        if tag in (b"LIST", b"RIFF"):
            offset += 12  # Into the list: its content follows the four letters of its kind.
            continue
        yield tag, size
        offset += 8 + size + size % 2

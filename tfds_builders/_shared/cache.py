"""Encoded clips on disk, one file per task, so that a killed build continues where it stopped.

A file is written beside its place and renamed into it, and carries a checksum: it is whole or it
is not there.
"""

import contextlib
import errno
import hashlib
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from jax_irkd.errors import UserError
from jax_irkd.video.finding import Skip

MAGIC = b"IRKDCLIP"
HEADER = struct.Struct("<8sII")  # Magic, length of the JSON header, CRC-32 of all that follows.


class EncodingTask(NamedTuple):
    """One unit of encoding: a clip pair or a long video.

    `key` is unique in the dataset, `split` names where its records go, `stamp` changes with the
    source files, `work` is what the dataset's encode function needs; all of it travels to workers.
    """

    key: str
    split: str
    stamp: str
    work: Any


class Record(NamedTuple):
    """One example: its key, its scalar features and its JPEG frames by feature name."""

    key: str
    scalars: dict[str, int | str]
    frames: dict[str, list[bytes]]


class EncodingResult(NamedTuple):
    """What a task gave: records, what was left out, and remarks on what was kept."""

    records: list[Record]
    skipped: list[Skip]
    notes: list[Skip]


class EncodingSummary(NamedTuple):
    """A result without its frames. `size` is in bytes."""

    key: str
    records: int
    size: int
    skipped: list[Skip]
    notes: list[Skip]
    digest: str = ""  # of the records, their labels and frames


class Cache:
    """Results by task in a folder."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def path(self, task: EncodingTask) -> Path:
        digest = hashlib.sha256(f"{task.key} {task.stamp}".encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:18]}.clip"

    def store(self, task: EncodingTask, result: EncodingResult) -> EncodingSummary:
        """Writes a result atomically. Raises UserError when the disk is full."""
        blobs, records = [], []
        for record in result.records:
            sizes = {name: [len(f) for f in frames] for name, frames in record.frames.items()}
            records.append([record.key, record.scalars, sizes])
            blobs += [frame for frames in record.frames.values() for frame in frames]
        digest = _digest(records, blobs)
        about = {"records": records, "skipped": result.skipped, "notes": result.notes}
        header = json.dumps(about | {"digest": digest}).encode()
        payload = b"".join([header, *blobs])
        path = self.path(task)
        _write_atomically(path, HEADER.pack(MAGIC, len(header), zlib.crc32(payload)) + payload)
        size = sum(map(len, blobs))
        return EncodingSummary(task.key, len(records), size, result.skipped, result.notes, digest)

    def load(self, task: EncodingTask) -> EncodingResult | None:
        """The stored result, or None when there is none or it is damaged."""
        try:
            data = self.path(task).read_bytes()
            magic, length, checksum = HEADER.unpack_from(data)
        except (OSError, struct.error):
            return None
        payload = memoryview(data)[HEADER.size :]
        if magic != MAGIC or zlib.crc32(payload) != checksum:
            return None
        header = json.loads(bytes(payload[:length]))
        records, offset = [], length
        for key, scalars, sizes in header["records"]:
            frames = {}
            for name, lengths in sizes.items():
                frames[name] = []
                for size in lengths:
                    frames[name].append(bytes(payload[offset : offset + size]))
                    offset += size
            records.append(Record(key, scalars, frames))
        return EncodingResult(records, _skips(header["skipped"]), _skips(header["notes"]))

    def summary(self, task: EncodingTask) -> EncodingSummary | None:
        """The stored result without reading its frames, which `load` checks later."""
        try:
            with open(self.path(task), "rb") as file:
                magic, length, _ = HEADER.unpack(file.read(HEADER.size))
                header = json.loads(file.read(length))
                size = file.seek(0, 2) - HEADER.size - length
        except (OSError, struct.error, ValueError):
            return None
        expected = sum(sum(s) for _, _, sizes in header["records"] for s in sizes.values())
        if magic != MAGIC or size != expected or "digest" not in header:
            return None
        skipped, notes = _skips(header["skipped"]), _skips(header["notes"])
        return EncodingSummary(
            task.key, len(header["records"]), size, skipped, notes, header["digest"]
        )


def _digest(records: list, blobs: list[bytes]) -> str:
    found = hashlib.sha256(json.dumps(records, sort_keys=True).encode())
    for blob in blobs:
        found.update(blob)
    return found.hexdigest()[:32]


def _skips(rows: list[list[str]]) -> list[Skip]:
    return [Skip(*row) for row in rows]


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full: {path.parents[1]} cannot take another clip; what is encoded "
                "stays there, free some space and run the same command again to continue"
            ) from error
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error

"""Files where users keep them: unpacked folders and zip archives, the archives read in place."""

import contextlib
import functools
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ARCHIVE_SUFFIX = ".zip"
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
IGNORED_FOLDERS = {"__MACOSX"}


class Member(NamedTuple):
    """A file inside a zip archive."""

    archive: str
    name: str


class Held(NamedTuple):
    """An open file under the name of its source, which is read again from the beginning."""

    label: str
    file: io.BufferedIOBase


class Found(NamedTuple):
    """One file of a folder tree. `stamp` changes when the file does."""

    source: "Source"
    size: int
    stamp: str


Source = str | os.PathLike | Member | Held


def name_of(source: Source) -> str:
    """What messages call a source: its path, or `archive.zip/member`."""
    if isinstance(source, Member):
        return f"{source.archive}/{source.name}"
    if isinstance(source, Held):
        return source.label
    return os.fspath(source)


def base_name(source: Source) -> str:
    """The file name alone."""
    return (source.name if isinstance(source, Member) else os.fspath(source)).rsplit("/", 1)[-1]


def find_files(root: str | os.PathLike) -> tuple[list[Found], list[tuple[str, str]]]:
    """Every file under `root` and inside the zip archives there, in a fixed order.

    Hidden files and the resource forks that macOS leaves behind are passed over. Also returns the
    archives that cannot be opened, with the reason.
    """
    found, broken, seen = [], [], set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # Links may form a circle.
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if f not in IGNORED_FOLDERS and f[0] != ".")
        for name in sorted(files):
            if name.startswith("."):
                continue
            path = Path(folder, name)
            try:
                status = path.stat()
            except OSError as error:  # A link whose target is gone.
                broken.append((str(path), error.strerror or str(error)))
                continue
            stamp = f"{status.st_size}-{status.st_mtime_ns}"
            if path.suffix.lower() != ARCHIVE_SUFFIX:
                found.append(Found(str(path), status.st_size, stamp))
                continue
            try:
                found.extend(_members(str(path)))
            except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
                broken.append((str(path), f"is not a readable zip archive ({error})"))
    return found, broken


def _members(archive: str) -> Iterator[Found]:
    with zipfile.ZipFile(archive) as opened:
        for info in sorted(opened.infolist(), key=lambda info: info.filename):
            parts = info.filename.split("/")
            hidden = any(part in IGNORED_FOLDERS or part.startswith(".") for part in parts)
            if not info.is_dir() and not hidden:
                stamp = f"{info.file_size}-{info.CRC:08x}"
                yield Found(Member(archive, info.filename), info.file_size, stamp)


@contextlib.contextmanager
def open_source(source: Source, *, whole: bool = True) -> Iterator[io.BufferedIOBase]:
    """Opens a source for reading bytes at any position.

    A stored zip member is a window of the archive; a compressed one is held in memory, since
    going back in it would decompress it anew. Not with `whole=False`, for who reads the beginning
    only. Raises OSError or, for a damaged or encrypted archive, ValueError.
    """
    if isinstance(source, Held):
        source.file.seek(0)
        yield source.file
        return
    if not isinstance(source, Member):
        with open(source, "rb") as file:
            yield file
        return
    try:
        status = os.stat(source.archive)
        archive = _archive(source.archive, status.st_size, status.st_mtime_ns)
        info = archive.getinfo(source.name)
        if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
            file = _window(source.archive, info)
        else:
            file = archive.open(info)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    with file:
        if whole and isinstance(file, zipfile.ZipExtFile):
            yield io.BytesIO(_all_of(file))
        else:
            yield file


@contextlib.contextmanager
def held(source: Source) -> Iterator[Held]:
    """A source that is opened, and where need be decompressed, once for several readings."""
    with open_source(source) as file:
        yield Held(name_of(source), file)


def _all_of(file: zipfile.ZipExtFile) -> bytes:
    try:
        return file.read()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"the archive is damaged: {error}") from error


@functools.lru_cache(maxsize=16)
def _archive(path: str, size: int, stamp: int) -> zipfile.ZipFile:
    """An open archive. Its directory lists thousands of clips: it is read once, not per clip."""
    del size, stamp  # A changed file is another archive.
    return zipfile.ZipFile(path)


def _window(archive: str, info: zipfile.ZipInfo) -> io.BufferedReader:
    with open(archive, "rb") as file:
        file.seek(info.header_offset)
        header = file.read(LOCAL_HEADER.size)
        if len(header) < LOCAL_HEADER.size or header[:4] != b"PK\3\4":
            raise zipfile.BadZipFile(f"no entry for {info.filename} where the directory says")
        *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
    start = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
    return io.BufferedReader(_Window(archive, start, info.file_size), 1 << 18)


class _Window(io.RawIOBase):
    """Bytes `start` to `start + size` of a file, as a file of their own."""

    def __init__(self, path: str, start: int, size: int):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed with this object)
        self._start, self._size, self._position = start, size, 0

    def readinto(self, buffer) -> int:
        length = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._start + self._position)
        count = self._file.readinto(memoryview(buffer)[:length])
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = (0, self._position, self._size)[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

"""Files where users keep them: unpacked folders and zip archives, the archives read in place.

What cannot be used is never passed over in silence: `find_files` names it with the reason.
"""

import contextlib
import functools
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jax_irkd.errors import UserError

ARCHIVE_SUFFIX = ".zip"
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
IGNORED_FOLDERS = {"__MACOSX"}
# What the zip module raises for archives that are damaged, encrypted or of an unknown kind.
DAMAGED_ZIP = (
    *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
    *(ValueError, KeyError, struct.error, OverflowError, MemoryError),
)


class Member(NamedTuple):
    """A file inside a zip archive."""

    archive: str
    name: str


class Stills(NamedTuple):
    """Pictures that make a film, in order; `name` is what the film is called."""

    name: str
    files: tuple["str | Member", ...]


class Held(NamedTuple):
    """An open file under the name of its source, which is read again from the beginning."""

    label: str
    file: io.BufferedIOBase


class Broken(NamedTuple):
    """What cannot be used, and why; a `container` may hold any number of files."""

    name: str
    why: str
    container: bool = False
    archive: bool = False


class Found(NamedTuple):
    """One file of a folder tree. `stamp` changes when the file does."""

    source: "Source"
    size: int
    stamp: str


Source = str | os.PathLike | Member | Stills | Held


def name_of(source: Source) -> str:
    """What messages call a source: its path, or `archive.zip/member`."""
    if isinstance(source, Member):
        return f"{source.archive}/{'/'.join(_parts(source.name))}"
    if isinstance(source, Stills):
        return source.name
    if isinstance(source, Held):
        return source.label
    return os.fspath(source)


def base_name(source: Source) -> str:
    """The file name alone."""
    return name_of(source).rsplit("/", 1)[-1]


def archive_of(source: Source) -> str | None:
    """The archive that holds the source, or None for what is unpacked."""
    first = source.files[0] if isinstance(source, Stills) else source
    return first.archive if isinstance(first, Member) else None


def find_files(root: str | os.PathLike) -> tuple[list[Found], list[Broken]]:
    """Every file under `root` and inside the zip archives there, in a fixed order.

    Unpacked files come before archived ones, so that who takes the first of two takes what the user
    touched last. Hidden files and the resource forks that macOS leaves behind are passed over. Also
    returns what cannot be used, with the reason: folders and archives that cannot be opened, names
    that are not UTF-8, pipes and devices.
    """
    found, broken = [], []
    if not _is_text(os.fspath(root)):
        raise UserError(f"{shown(os.fspath(root))} is not UTF-8; rename the folder")

    def unreadable(error: OSError) -> None:
        where = shown(str(error.filename or root))
        broken.append(Broken(where, f"cannot be listed ({words(error)})", container=True))

    for folder, folders, files in _walk(root, unreadable):
        for name in [n for n in (*folders, *files) if not _is_text(n)]:
            why, where = "its name is not UTF-8; rename it", shown(os.path.join(folder, name))
            broken.append(Broken(where, why, container=name in folders))
        kept = [f for f in folders if f not in IGNORED_FOLDERS and f[0] != "." and _is_text(f)]
        folders[:] = sorted(kept)
        for name in sorted(files):
            if name.startswith(".") or not _is_text(name):
                continue
            path = Path(folder, name)
            try:
                status = path.stat()
                if not stat.S_ISREG(status.st_mode):
                    why = "is a pipe, a socket or a device, no file"
                    broken.append(Broken(str(path), why))
                    continue
                if path.suffix.lower() == ARCHIVE_SUFFIX:
                    found.extend(_members(str(path), broken))
                else:
                    stamp = f"{status.st_size}-{status.st_mtime_ns}"
                    found.append(Found(str(path), status.st_size, stamp))
            except OSError as error:  # A link whose target is gone, a bad sector.
                packed = path.suffix.lower() == ARCHIVE_SUFFIX
                folder_gone = path.is_symlink() and not path.suffix
                broken.append(Broken(str(path), words(error), packed or folder_gone, packed))
            except DAMAGED_ZIP as error:
                why = f"is not a readable zip archive ({words(error)})"
                broken.append(Broken(str(path), why, container=True, archive=True))
    return sorted(found, key=lambda one: isinstance(one.source, Member)), broken


def _walk(
    root: str | os.PathLike, unreadable: Callable[[OSError], None]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, every folder once, also where links form a circle.

    Links come last, so that a folder is called by its own name where it has one below `root`.
    """
    seen, tops = set(), [os.fspath(root)]
    for top in tops:  # It grows.
        for folder, folders, files in os.walk(top, onerror=unreadable):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            yield folder, folders, files
            paths = [os.path.join(folder, name) for name in folders]
            tops += filter(os.path.islink, paths)


def words(error: BaseException) -> str:
    """What an error says, in short."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def shown(name: str) -> str:
    """A file name that may not be UTF-8, as text that any output can hold."""
    return name.encode("utf-8", "backslashreplace").decode()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parts(name: str) -> list[str]:
    """Folders and file of a member's name; some programs write `./a/b`, some `a\\b`."""
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def _members(archive: str, broken: list[Broken]) -> list[Found]:
    """The files of an archive; encrypted ones are counted in `broken`."""
    found, locked = [], 0
    with zipfile.ZipFile(archive) as opened:
        for info in sorted(opened.infolist(), key=lambda info: info.filename):
            parts = _parts(info.filename)
            hidden = any(part in IGNORED_FOLDERS or part.startswith(".") for part in parts)
            if info.is_dir() or hidden or not parts:
                continue
            if info.flag_bits & 1:
                locked += 1
                continue
            stamp = f"{info.file_size}-{info.CRC:08x}"
            found.append(Found(Member(archive, info.filename), info.file_size, stamp))
    if locked:
        what = "1 file is" if locked == 1 else f"{locked} files are"
        why = f"{what} encrypted; unpack it with its password"
        broken.append(Broken(archive, why, container=True, archive=True))
    return found


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
    if isinstance(source, Stills):
        raise ValueError("is a sequence of pictures, no single file")
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
    except DAMAGED_ZIP as error:
        raise ValueError(str(error)) from error
    with file:
        if whole and isinstance(file, zipfile.ZipExtFile):
            yield io.BytesIO(_all_of(file))
        else:
            yield file


def size_of(source: Source) -> int:
    """Bytes of a source, unpacked. Raises OSError or ValueError like `open_source`."""
    if isinstance(source, Held):
        return source.file.seek(0, 2)
    if isinstance(source, Stills):
        return sum(map(size_of, source.files))
    if not isinstance(source, Member):
        return os.stat(source).st_size
    try:
        status = os.stat(source.archive)
        archive = _archive(source.archive, status.st_size, status.st_mtime_ns)
        return archive.getinfo(source.name).file_size
    except DAMAGED_ZIP as error:
        raise ValueError(str(error)) from error


@contextlib.contextmanager
def held(source: Source) -> Iterator[Source]:
    """A member of an archive that is opened and decompressed once for several readings.

    Other sources need no holding and come back as they are.
    """
    if not isinstance(source, Member):
        yield source
        return
    with open_source(source) as file:
        yield Held(name_of(source), file)


def _all_of(file: zipfile.ZipExtFile) -> bytes:
    try:
        return file.read()
    except DAMAGED_ZIP as error:
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

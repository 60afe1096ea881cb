"""Files where users keep them: unpacked folders and zip archives, the archives read in place."""

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ARCHIVE_SUFFIX = ".zip"
IGNORED_FOLDERS = {"__MACOSX"}


class Member(NamedTuple):
    """A file inside a zip archive."""

    archive: str
    name: str


class Found(NamedTuple):
    """One file of a folder tree. `stamp` changes when the file does."""

    source: "Source"
    size: int
    stamp: str


Source = str | os.PathLike | Member


def name_of(source: Source) -> str:
    """What messages call a source: its path, or `archive.zip/member`."""
    if isinstance(source, Member):
        return f"{source.archive}/{source.name}"
    return os.fspath(source)


def base_name(source: Source) -> str:
    """The file name alone."""
    return (source.name if isinstance(source, Member) else os.fspath(source)).rsplit("/", 1)[-1]


def find_files(root: str | os.PathLike) -> tuple[list[Found], list[tuple[str, str]]]:
    """Every file under `root` and inside the zip archives there, in a fixed order.

    Hidden files and the resource forks that macOS leaves behind are passed over. Also returns the
    archives that cannot be opened, with the reason.
    """
    found, broken = [], []
    for folder, folders, files in os.walk(root, followlinks=True):
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
    if not isinstance(source, Member):
        with open(source, "rb") as file:
            yield file
        return
    try:
        with zipfile.ZipFile(source.archive) as archive:
            info = archive.getinfo(source.name)
            with archive.open(info) as member:
                if whole and info.compress_type != zipfile.ZIP_STORED:
                    member = io.BytesIO(member.read())
                yield member
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from error

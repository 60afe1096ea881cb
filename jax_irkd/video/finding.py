"""What a raw folder holds: films, other files, and what cannot be used, with the reason."""

from pathlib import Path
from typing import NamedTuple

from jax_irkd.video import stills
from jax_irkd.video.archives import (
    Found,
    Source,
    Stills,
    archive_of,
    base_name,
    find_files,
    name_of,
)
from jax_irkd.video.formats import PAGES, is_video, stem_and_suffix


class Skip(NamedTuple):
    """Something left out, and why. `reason` groups, `detail` explains."""

    name: str
    reason: str
    detail: str


class Finds(NamedTuple):
    """Films (videos, pictures as sequences) and other files, unpacked ones first.

    `skipped` are files that could have been films, `unreadable` folders and archives of which
    nobody knows what they hold.
    """

    films: list[Found]
    others: list[Found]
    skipped: list[Skip]
    unreadable: list[Skip]

    @property
    def archives(self) -> int:
        """How many archives are read in place."""
        held = {archive_of(found.source) for found in (*self.films, *self.others)}
        return len(held - {None})


def find(folder: Path) -> Finds:
    """Everything under `folder`."""
    files, broken = find_files(folder)
    gathered, single = stills.gather(files)
    films = [found for found in gathered if film_name(found.source)]
    others = [found for found in gathered if not film_name(found.source)] + single
    unreadable = [
        Skip(one.name, "unreadable archive" if one.archive else "unreadable folder", one.why)
        for one in broken
        if one.container
    ]
    skipped = [
        Skip(one.name, "unreadable file", one.why)
        for one in broken
        if not one.container and is_video(one.name)
    ]
    return Finds(films, others, skipped, unreadable)


def film_name(source: Source) -> str:
    """The name of a film without suffix; empty for a file that is no film by its name."""
    name = base_name(source)
    if isinstance(source, Stills):
        return name
    stem, suffix = stem_and_suffix(name)
    return stem if is_video(name) or suffix in PAGES else ""


def duplicate(name: str, used: Found, other: Found) -> Skip:
    """The remark on a file that is there twice."""
    same = "of the same size" if used.size == other.size else "of another size"
    detail = f"{name_of(used.source)} used, {name_of(other.source)} ({same}) not"
    return Skip(name, "duplicate file", detail)

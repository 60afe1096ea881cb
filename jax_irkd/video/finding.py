"""What a raw folder holds: films, other files, and what cannot be used, with the reason."""

import collections
from pathlib import Path
from typing import NamedTuple

from jax_irkd.video import stills
from jax_irkd.video.archives import (
    Broken,
    Found,
    Source,
    Stills,
    archive_of,
    base_name,
    find_files,
    name_of,
)
from jax_irkd.video.formats import PAGES, is_still, is_video, stem_and_suffix


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
    lost = [one for one in broken if not one.container]
    films, skipped = _without_torn(films, [one for one in lost if _may_be_film(one.name)])
    return Finds(films, others, skipped, unreadable)


def _may_be_film(name: str) -> bool:
    return is_video(name) or is_still(name)


def _without_torn(films: list[Found], broken: list[Broken]) -> tuple[list[Found], list[Skip]]:
    """The films of which no picture is `broken`, and a remark on each of the others.

    A sequence without some of its pictures would show other moments than its partner.
    """
    sequences = {
        still.sequence: film
        for film in films
        if isinstance(film.source, Stills)
        and (still := stills.still_of(name_of(film.source.files[0])))
    }
    lost = collections.defaultdict(list)
    for one in broken:
        still = stills.still_of(one.name)
        whole = still and (still.sequence in sequences or still.sequence.suffix not in PAGES)
        lost[still.sequence if whole else one.name].append(one)
    skipped, torn = [], []
    for key, ones in lost.items():
        name, why, total = ones[0].name, ones[0].why, len(ones)
        if film := sequences.get(key):
            torn.append(film)
            total += len(film.source.files)
        if total > 1:
            first = f"the first is {base_name(name)} ({why})"
            name, why = key.title, f"{len(ones)} of its {total} pictures cannot be used, {first}"
        skipped.append(Skip(name, "unreadable file", why))
    return [film for film in films if film not in torn], skipped


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

"""Films that are pictures: numbered files (`seq_0001.png`, …) and TIFFs of several pages.

This is how thermal cameras deliver, with 8 or 16 bits a pixel, or temperatures as 32-bit numbers.
"""

import collections
import contextlib
import hashlib
import itertools
import os
import re
import statistics
import struct
import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jax_irkd.video.archives import (
    DAMAGED_ZIP,
    Found,
    Source,
    Stills,
    archive_of,
    base_name,
    name_of,
    open_source,
)
from jax_irkd.video.formats import PAGES, is_still, stem_and_suffix

NUMBERED = re.compile(r"^(.*?)[-_. ]*(\d+)$")
# What Pillow raises for a damaged picture, in an archive too, apart from OSError.
DAMAGED = (
    *DAMAGED_ZIP,
    *(ValueError, SyntaxError, struct.error, EOFError, Image.DecompressionBombError, KeyError),
    *(TypeError, IndexError, OverflowError, AttributeError, ZeroDivisionError, MemoryError),
)


def is_pages(source: Source) -> bool:
    """Whether the source is one file that may hold several pictures."""
    return not isinstance(source, Stills) and stem_and_suffix(base_name(source))[1] in PAGES


def count(source: Source) -> int:
    """The number of pictures. Raises OSError or ValueError for what is no TIFF."""
    if isinstance(source, Stills):
        return len(source.files)
    with _opened(source, whole=False) as image, _named("the list of its pages"):
        return getattr(image, "n_frames", 1)


def read(source: Source) -> Iterator[np.ndarray]:
    """The pictures in order: RGB uint8 `h w 3`, or grey `h w` of the file's own type.

    Raises OSError or ValueError, with the picture's name, for one that cannot be read.
    """
    if isinstance(source, Stills):
        for part in source.files:
            with _named(base_name(part)), _opened(part) as image:
                yield _pixels(image)
        return
    with _opened(source) as image:
        with _named("the list of its pages"):
            pages = getattr(image, "n_frames", 1)
        for page in range(pages):
            with _named(f"page {page + 1}"):
                image.seek(page)
                picture = _pixels(image)
            yield picture


def is_deep_colour(source: Source) -> bool:
    """Whether the first picture has colours of 16 bits, of which eight are read."""
    first = source.files[0] if isinstance(source, Stills) else source
    with _opened(first) as image:
        return image.mode.startswith("RGB") and any(";16" in str(tile[3]) for tile in image.tile)


@contextlib.contextmanager
def _opened(source: Source, *, whole: bool = True) -> Iterator[Image.Image]:
    with open_source(source, whole=whole) as file, warnings.catch_warnings():
        # About metadata, which are of no interest; pixels that are not there raise an error.
        warnings.simplefilter("ignore", UserWarning)
        try:
            image = Image.open(file)
        except DAMAGED as error:
            raise ValueError(f"is not a readable picture ({error})") from error
        with image:
            yield image


@contextlib.contextmanager
def _named(part: str) -> Iterator[None]:
    try:
        yield
    except (OSError, *DAMAGED) as error:
        raise ValueError(f"{part} cannot be read ({error})") from error


def _pixels(image: Image.Image) -> np.ndarray:
    image.load()
    with contextlib.suppress(*DAMAGED):  # metadata that cannot be read turn nothing
        image = ImageOps.exif_transpose(image)
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))
    if image.mode.startswith("I") or image.mode == "F":
        pixels = np.asarray(image)
        if image.mode == "F":
            return pixels.astype(np.float32)
        if pixels.size and (pixels.min() < 0 or pixels.max() > np.iinfo(np.uint16).max):
            return pixels.astype(np.float32)
        return pixels.astype(np.uint16)
    return np.asarray(image.convert("RGB"))


class Sequence(NamedTuple):
    """What pictures of one film share: folder, what precedes the number, and suffix."""

    folder: str
    prefix: str
    suffix: str

    @property
    def title(self) -> str:
        """What the film is called: `a/walk`, or the folder where names are numbers only."""
        return f"{self.folder}/{self.prefix}" if self.prefix else self.folder


class Still(NamedTuple):
    """A picture of a film: its sequence and its number there."""

    sequence: Sequence
    number: int


def still_of(name: str) -> Still | None:
    """The picture of this path; None for what has no number, or is no picture."""
    folder, _, base = name.rpartition("/")
    stem, suffix = stem_and_suffix(base)
    match = NUMBERED.match(stem) if is_still(base) else None
    return Still(Sequence(folder, match[1], suffix), int(match[2])) if match else None


def gap(source: Source) -> str:
    """What is missing between the numbers of a sequence, in words; empty when nothing is.

    Numbers may begin anywhere, grow by any step, and be times: missing is what would lie in between
    where a step is twice the usual one or more.
    """
    if not isinstance(source, Stills):
        return ""
    pictures = [still_of(name_of(part)) for part in source.files]
    numbers = [picture.number for picture in pictures if picture]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    usual = statistics.median_low([step for step in steps if step > 0] or [1])
    lost = [max(step // usual - 1, 0) for step in steps]
    if not any(lost):
        return ""
    first = base_name(source.files[next(i for i, count in enumerate(lost) if count)])
    total = sum(lost) + len(numbers)
    return f"lacks {sum(lost)} of {total} pictures by their numbers, the first behind {first}"


def gather(files: Iterable[Found]) -> tuple[list[Found], list[Found]]:
    """Files as films: numbered pictures of one folder become one film, in order of their numbers.

    `a/walk_0001.png`, `a/walk_0002.png` are the film `a/walk`; pictures that are nothing but
    numbers are the film of their folder's name. A TIFF that stands alone may hold pages and stays,
    and so do all that are numbered alike where one of them has pages. Also returns the pictures
    that belong to no film.
    """
    films, single = [], []
    groups = collections.defaultdict(list)
    for found in files:
        name = name_of(found.source)
        if still := still_of(name):
            groups[still.sequence].append((still.number, found))
        elif is_still(name) and stem_and_suffix(base_name(found.source))[1] not in PAGES:
            single.append(found)
        else:
            films.append(found)
    for sequence, members in groups.items():
        if len(members) == 1:
            (films if sequence.suffix in PAGES else single).append(members[0][1])
            continue
        members = [found for _, found in sorted(members, key=lambda item: item[0])]
        if sequence.suffix in PAGES and any(_pages(found.source) > 1 for found in members):
            films += members
            continue
        stamp = hashlib.sha256(" ".join(found.stamp for found in members).encode()).hexdigest()
        source = Stills(sequence.title, tuple(found.source for found in members))
        films.append(Found(source, sum(found.size for found in members), stamp[:16]))
    return sorted(films, key=_order), single


def _order(found: Found) -> tuple[bool, str]:
    return archive_of(found.source) is not None, name_of(found.source)


def _pages(source: Source) -> int:
    try:
        return count(source)
    except (OSError, ValueError):
        return 0  # said when it is decoded


def films_of(paths: Iterable[str | os.PathLike]) -> list[Source]:
    """The films that these pictures make; pictures that belong to none are left out."""
    files = [Found(os.fspath(path), 0, "") for path in paths]
    return [film.source for film in gather(files)[0]]

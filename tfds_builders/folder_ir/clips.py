"""From a folder per class to clip pairs with labels and splits, and from a pair to a record."""

import collections
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared.cache import EncodingResult, EncodingTask
from jax_irkd.tfds_builders._shared.crops import require_crops
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.pairs import (
    FRAMES,
    encode_alone,
    encode_pair,
    same_content,
    unpaired,
)
from jax_irkd.video.archives import ARCHIVE_SUFFIX, Found, Source, Stills, archive_of, name_of
from jax_irkd.video.finding import Skip, duplicate, film_name, find
from jax_irkd.video.formats import composed

SPLITS = ("train", "test")
# Clips of one modality have splits of their own, so that those of pairs hold pairs.
ALONE = tuple(f"{split}_{kind}" for split in SPLITS for kind in FRAMES)
# What the folder of infrared films may be called.
INFRARED = ("infrared", "ir", "thermal", "nir", "lwir")
MODALITIES = {"rgb": "rgb", **dict.fromkeys(INFRARED, "infrared")}
SUBJECT = "__"  # What precedes it in a clip's name is the subject.
TEST_SHARE = 5  # One in so many is kept for testing when there are no train and test folders.
CAMERA = "1"  # Of the crop file: a folder of clips is one rig.
MISPLACED = "video in another place"
LAYOUT = (
    "rgb/CLASS/NAME.mp4 and infrared/CLASS/NAME.mp4, both also under train/ and test/ (infrared "
    f"may be called {', '.join(INFRARED[1:])} too; pictures are NAME/0001.jpg or NAME/img_0001.jpg)"
)


class Place(NamedTuple):
    """What a file's path says: its clip and its modality. `split` is empty when it says none."""

    split: str
    label: str
    name: str
    modality: str

    @property
    def key(self) -> str:
        """Names the clip: CLASS/NAME, below its split where folders give one."""
        return "/".join(filter(None, (self.split, self.label, self.name)))

    @property
    def subject(self) -> str:
        return self.name.split(SUBJECT)[0] if SUBJECT in self.name else ""


class FolderScan(NamedTuple):
    """What lies in a folder: files by clip key and modality, and what is odd about it.

    `recordings` has the names of the modality folders that lie in one folder, by that folder;
    `clashes` are films of one modality that claim one clip and differ.
    """

    clips: dict[str, dict[str, Found]]
    places: dict[str, Place]
    recordings: dict[str, set[str]]
    clashes: list[tuple[str, Found, Found]]
    notes: list[Skip]
    skipped: list[Skip]
    unreadable: list[Skip]
    other_files: list[str]

    @property
    def pairs(self) -> dict[str, dict[str, Found]]:
        return {key: pair for key, pair in sorted(self.clips.items()) if len(pair) == 2}

    @property
    def singles(self) -> dict[str, dict[str, Found]]:
        """The clips of which one modality is there."""
        return {key: pair for key, pair in sorted(self.clips.items()) if len(pair) == 1}

    @property
    def only(self) -> str:
        """The modality of all clips where there is but one, and nothing that may be the other."""
        kinds = {kind for pair in self.clips.values() for kind in pair}
        misplaced = any(skip.reason == MISPLACED for skip in self.skipped)
        return "" if misplaced or len(kinds) != 1 else kinds.pop()

    def kept(self, unpaired: bool) -> dict[str, dict[str, Found]]:
        """The clips that are built: pairs, and `unpaired` ones or those of the only modality."""
        return self.pairs | (self.singles if unpaired or self.only else {})

    def class_names(self, unpaired: bool = False) -> list[str]:
        """Classes with at least one clip that is built, in alphabetical order."""
        return sorted({self.places[key].label for key in self.kept(unpaired)})


def parse(path: str, name: str) -> Place | None:
    """The place of a film called `name` at `[train|test/]MODALITY/CLASS/NAME.SUFFIX`, or None.

    `name` is without suffix and empty for what is no film.
    """
    *folders, _ = path.split("/")
    if not name or len(folders) < 2 or folders[-2].lower() not in MODALITIES:
        return None
    above = folders[-3].lower() if len(folders) > 2 else ""
    split = above if above in SPLITS else ""
    label = composed(folders[-1].strip())
    return Place(split, label, composed(name), MODALITIES[folders[-2].lower()])


def scan(folder: Path) -> FolderScan:
    """Joins the videos under `folder`, unpacked or zipped, by split, class and name."""
    found = find(folder)
    others = [inner_path(one.source, folder) for one in found.others]
    skipped = list(found.skipped)
    result = FolderScan({}, {}, {}, [], [], skipped, found.unreadable, others)
    for film in found.films:
        path = inner_path(film.source, folder)
        name = path.rpartition("/")[2] if isinstance(film.source, Stills) else ""
        place = parse(path, name or film_name(film.source))
        if place is None:
            result.other_files.append(path)
            result.skipped.append(Skip(path, MISPLACED, f"expected {LAYOUT}"))
            continue
        recording, kind = recording_of(path)
        result.recordings.setdefault(recording, set()).add(kind)
        pair = result.clips.setdefault(place.key, {})
        result.places[place.key] = place
        known = pair.setdefault(place.modality, film)
        if known is film:
            continue
        if _is_copy(known, film, folder):
            result.notes.append(duplicate(f"{place.key} {place.modality}", known, film))
        else:
            result.clashes.append((place.key, known, film))
    return result


def recording_of(path: str) -> tuple[str, str]:
    """The folder in which a film's modality folder lies, and that folder's name in lower case."""
    *above, kind, _, _ = path.split("/")
    return "/".join(above), kind.lower()


def _is_copy(used: Found, other: Found, folder: Path) -> bool:
    """Whether `other` has the same bytes, or is what `used` was unpacked from."""
    places = {inner_path(one.source, folder) for one in (used, other)}
    if archive_of(other.source) and not archive_of(used.source) and len(places) == 1:
        return True
    try:
        return used.size == other.size and same_content(used.source, other.source)
    except (OSError, ValueError):  # nobody knows what it holds
        return False


def inner_path(source: Source, folder: Path) -> str:
    """The path below `folder`; an archive counts as a folder of its own name."""
    path = Path(os.path.relpath(name_of(source), folder)).as_posix()
    path = re.sub(rf"{re.escape(ARCHIVE_SUFFIX)}/", "/", path, flags=re.IGNORECASE)
    return path.rpartition("/")[0] if _is_dump(source, path) else path


def _is_dump(source: Source, path: str) -> bool:
    """Whether these are the frames of the clip that their folder is: `rgb/CLASS/NAME/img_1.jpg`."""
    kinds = [part.lower() in MODALITIES for part in path.split("/")]
    return isinstance(source, Stills) and kinds[-4:-2] == [True, False]


def splits_of(found: FolderScan) -> dict[str, str]:
    """The split of every pair: its folder's, or by hash where folders do not say.

    Subjects are ranked by a hash of their name and the first fifth of them (at least one) tests;
    clips without a subject are ranked class by class. What is alone of its kind trains. Where
    there are no pairs, the clips of the only modality are divided so.
    """
    places = {key: found.places[key] for key in found.pairs or found.clips}
    if all(place.split for place in places.values()):
        return {key: place.split for key, place in places.items()}
    ranked = collections.defaultdict(set)
    for key, place in places.items():
        kind, member = ("", place.subject) if place.subject else (place.label, key)
        ranked[bool(place.subject), kind].add(member)
    testing = set()
    for members in ranked.values():
        count = max(round(len(members) / TEST_SHARE), 1) if len(members) > 1 else 0
        testing.update(sorted(members, key=_hash)[:count])
    return {
        key: "test" if (place.subject or key) in testing else "train"
        for key, place in places.items()
    }


def splits_of_singles(found: FolderScan, splits: Mapping[str, str]) -> dict[str, str]:
    """Train or test of clips of one modality: as their folder, their subject's pairs, or train.

    `splits` are those of `splits_of`.
    """
    tests = {found.places[key].subject for key, split in splits.items() if split == "test"} - {""}

    def side(key: str) -> str:
        place = found.places[key]
        by_subject = "test" if place.subject in tests else "train"
        return place.split or splits.get(key, by_subject)

    return {key: side(key) for key in found.singles}


def side_of(split: str) -> str:
    """Train or test, also of a split of clips of one modality."""
    return split.split("_")[0]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def tasks_of(found: FolderScan, options: BuildOptions) -> tuple[list[EncodingTask], list[Skip]]:
    """Tasks for all clips that are kept, and those that lack a modality.

    Raises UserError, also for a crop file without this camera.
    """
    require_crops(options.crop_file, [CAMERA])
    names, splits = found.class_names(options.unpaired), splits_of(found)
    singles = splits_of_singles(found, splits)
    kept = found.kept(options.unpaired)
    left = [unpaired(key, pair) for key, pair in found.singles.items() if key not in kept]
    if len(names) == 1:
        raise UserError(
            f"all clips are of one class, {names[0]}, and a network needs two or more to tell "
            "apart; every class is a folder below rgb/ and infrared/"
        )
    tasks = []
    for key, pair in sorted(kept.items()):
        place = found.places[key]
        scalars = {"label": names.index(place.label), "subject": place.subject}
        stamp = " ".join([pair[kind].stamp for kind in FRAMES if kind in pair])
        films = [(kind, pair[kind].source) for kind in FRAMES if kind in pair]
        split = splits[key] if len(films) == 2 else f"{singles[key]}_{films[0][0]}"
        work = (scalars, films, options)
        tasks.append(EncodingTask(key, split, f"{stamp} {names.index(place.label)}", work))
    if {side_of(task.split) for task in tasks} != {*SPLITS}:
        kind = "clips" if found.only else "pairs"
        raise UserError(
            f"{len(tasks)} {kind} of {len(names)} classes are too few to keep one for testing; add "
            "clips, or divide them yourself into train/ and test/"
        )
    return tasks, left


def encode(task: EncodingTask) -> EncodingResult:
    """The videos of a clip; runs in a worker."""
    scalars, films, options = task.work
    if len(films) == 1:
        return encode_alone(task.key, scalars, *films[0], options, CAMERA)
    (_, rgb), (_, infrared) = films
    return encode_pair(task.key, scalars, rgb, infrared, options, CAMERA)

"""From a folder per class to clip pairs with labels and splits, and from a pair to a record."""

import collections
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared.cache import EncodingResult, EncodingTask, Skip
from jax_irkd.tfds_builders._shared.crops import require_crops
from jax_irkd.tfds_builders._shared.finding import duplicate, film_name, find
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.pairs import FRAMES, encode_pair, unpaired
from jax_irkd.video.archives import ARCHIVE_SUFFIX, Found, Source, name_of
from jax_irkd.video.formats import composed

SPLITS = ("train", "test")
# What the folder of infrared films may be called.
INFRARED = ("infrared", "ir", "thermal", "nir", "lwir")
MODALITIES = {"rgb": "rgb", **dict.fromkeys(INFRARED, "infrared")}
SUBJECT = "__"  # What precedes it in a clip's name is the subject.
TEST_SHARE = 5  # One in so many is kept for testing when there are no train and test folders.
CAMERA = "1"  # Of the crop file: a folder of clips is one rig.
LAYOUT = (
    "rgb/CLASS/NAME.mp4 and infrared/CLASS/NAME.mp4, both also under train/ and test/ (infrared "
    f"may be called {', '.join(INFRARED[1:])} too)"
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
    """What lies in a folder: files by clip key and modality, and what is odd about it."""

    clips: dict[str, dict[str, Found]]
    places: dict[str, Place]
    notes: list[Skip]
    skipped: list[Skip]
    unreadable: list[Skip]
    other_files: list[str]

    @property
    def pairs(self) -> dict[str, dict[str, Found]]:
        return {key: pair for key, pair in sorted(self.clips.items()) if len(pair) == 2}

    @property
    def class_names(self) -> list[str]:
        """Classes with at least one complete pair, in alphabetical order."""
        return sorted({self.places[key].label for key in self.pairs})


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
    others = [_inner_path(one.source, folder) for one in found.others]
    result = FolderScan({}, {}, [], list(found.skipped), found.unreadable, others)
    for film in found.films:
        path = _inner_path(film.source, folder)
        place = parse(path, film_name(film.source))
        if place is None:
            result.other_files.append(path)
            result.skipped.append(Skip(path, "video in another place", f"expected {LAYOUT}"))
            continue
        pair = result.clips.setdefault(place.key, {})
        result.places[place.key] = place
        known = pair.setdefault(place.modality, film)
        if known is not film:
            result.notes.append(duplicate(f"{place.key} {place.modality}", known, film))
    return result


def _inner_path(source: Source, folder: Path) -> str:
    """The path below `folder`; an archive counts as a folder of its own name."""
    path = Path(os.path.relpath(name_of(source), folder)).as_posix()
    return path.replace(f"{ARCHIVE_SUFFIX}/", "/")


def refuse_wrong_folder(folder: Path, found: FolderScan) -> None:
    """Raises UserError when `folder` holds no clips, one modality only, or half a split."""
    counts = collections.Counter(kind for pair in found.clips.values() for kind in pair)
    if not found.clips:
        videos = sum(skip.reason == "video in another place" for skip in found.skipped)
        seen = f"{len(found.other_files)} files, {videos} of them videos"
        first = f" (first: {found.other_files[0]})" if found.other_files else ""
        raise UserError(f"no clips in {folder}: expected {LAYOUT}; found {seen}{first}")
    for kind in FRAMES:
        if not counts[kind]:
            raise UserError(
                f"no {kind} clips in {folder}, only {sum(counts.values())} of the other modality: "
                f"distillation needs both, filmed at the same time; expected {LAYOUT}"
            )
    if not found.pairs:
        first = {
            kind: next(k for k, pair in found.clips.items() if kind in pair) for kind in FRAMES
        }
        raise UserError(
            f"no pairs in {folder}: an RGB and an infrared file belong together when class and "
            f"name agree, but they are called, for example, {first['rgb']} and {first['infrared']}"
        )
    given = {found.places[key].split for key in found.pairs}
    if "" in given and len(given) > 1:
        raise UserError(
            f"{folder} has clips below train/ or test/ and clips outside of both; move all of them "
            "below train/ and test/, or none"
        )
    if given in ({"train"}, {"test"}):
        raise UserError(
            f"all pairs in {folder} lie below {given.pop()}/; add the other folder, or move rgb/ "
            "and infrared/ up to let a share be chosen for testing"
        )


def splits_of(found: FolderScan) -> dict[str, str]:
    """The split of every pair: its folder's, or by hash where folders do not say.

    Subjects are ranked by a hash of their name and the first fifth of them (at least one) tests;
    clips without a subject are ranked class by class. What is alone of its kind trains.
    """
    places = {key: found.places[key] for key in found.pairs}
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


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def tasks_of(
    found: FolderScan, options: BuildOptions
) -> tuple[list[EncodingTask], list[Skip], list[Skip]]:
    """Tasks for all pairs, the clips that lack a modality, and remarks on thin classes.

    Raises UserError, also for a crop file without this camera.
    """
    require_crops(options.crop_file, [CAMERA])
    names, splits = found.class_names, splits_of(found)
    tasks, alone = [], []
    for key in sorted(found.clips):
        place, pair = found.places[key], found.clips[key]
        if len(pair) == 1:
            alone.append(unpaired(key, pair))
            continue
        stamp = f"{pair['rgb'].stamp} {pair['infrared'].stamp} {names.index(place.label)}"
        scalars = {"label": names.index(place.label), "subject": place.subject}
        work = (scalars, pair["rgb"].source, pair["infrared"].source, options)
        tasks.append(EncodingTask(key, splits[key], stamp, work))
    counts = collections.Counter((found.places[task.key].label, task.split) for task in tasks)
    thin = [
        Skip(name, f"class without {split} clips", f"{counts[name, other]} clips, all {other}")
        for name in names
        for split, other in (SPLITS, SPLITS[::-1])
        if not counts[name, split]
    ]
    lost = sorted({found.places[key].label for key in found.clips} - set(names))
    thin += [Skip(name, "class without a complete pair", "left out") for name in lost]
    if not all(any(task.split == split for task in tasks) for split in SPLITS):
        raise UserError(
            f"{len(tasks)} pairs of {len(names)} classes are too few to keep one for testing; add "
            "clips, or divide them yourself into train/ and test/"
        )
    return tasks, alone, thin


def encode(task: EncodingTask) -> EncodingResult:
    """Both videos of a pair; runs in a worker."""
    return encode_pair(task.key, *task.work, CAMERA)

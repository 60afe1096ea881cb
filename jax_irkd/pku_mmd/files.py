"""What a folder of PKU-MMD files holds: videos, their annotations, who belongs to which split."""

import collections
import re
from pathlib import Path
from typing import NamedTuple

from jax_irkd.errors import UserError
from jax_irkd.pku_mmd.annotations import Labels
from jax_irkd.pku_mmd.texts import SPLIT_FILES, compare_actions, read_labels, read_splits
from jax_irkd.video.archives import Found, base_name
from jax_irkd.video.finding import Finds, Skip, duplicate, film_name, find

VIDEO = re.compile(r"^(\d{4}-[LMR])(-infrared)?$", re.IGNORECASE)
LABEL = re.compile(r"^(\d{4}-[LMR])\.(txt|label)$", re.IGNORECASE)
CAMERAS = {"L": 1, "M": 2, "R": 3}
SPLITS = (
    "train_subjects_train_views",
    "train_subjects_test_views",
    "test_subjects_train_views",
    "test_subjects_test_views",
)


class PkuScan(NamedTuple):
    """Files by video name, parsed annotations and split membership, and remarks.

    `unlabelled` says for videos whose label files were no use why that is.
    """

    videos: dict[str, dict[str, Found]]
    labels: dict[str, Labels]
    stamps: dict[str, str]
    splits: dict[str, str]
    listed: list[str]
    notes: list[Skip]
    unlabelled: dict[str, str]
    skipped: list[Skip]
    unreadable: list[Skip]
    archives: int


def scan(folder: Path) -> PkuScan:
    """Finds videos, label files and split files. Raises UserError when they are not there."""
    found = find(folder)
    notes: list[Skip] = []
    videos: dict[str, dict[str, Found]] = {}
    texts, others = collections.defaultdict(list), collections.defaultdict(list)
    for film in found.films:
        match = VIDEO.match(film_name(film.source))
        if match is None:
            others[base_name(film.source).lower()].append(film)
            continue
        kind = "infrared" if match[2] else "rgb"
        known = videos.setdefault(match[1].upper(), {}).setdefault(kind, film)
        if known is not film:
            notes.append(duplicate(f"{match[1]} {kind}", known, film))
    for other in found.others:
        name = base_name(other.source)
        match = LABEL.match(name)
        (texts[match[1].upper()] if match else others[name.lower()]).append(other)
    _refuse_wrong_folder(folder, videos, found, others)
    labels, stamps, unlabelled = read_labels(texts, notes)
    if not labels:
        hint = _missing("0002-L.txt", others, found.unreadable)
        raise UserError(f"no label files in {folder}: {next(iter(unlabelled.values()), hint)}")
    for name in SPLIT_FILES:
        if name not in others:
            hint = _missing(name, others, found.unreadable)
            raise UserError(f"no {name} in {folder}: {hint}")
    splits, listed = read_splits(others, notes)
    compare_actions(others, notes)
    return PkuScan(
        *(videos, labels, stamps, splits, listed, notes, unlabelled),
        *(found.skipped, found.unreadable, found.archives),
    )


def _refuse_wrong_folder(folder: Path, videos: dict, found: Finds, others: dict) -> None:
    wanted = "0002-L.avi and 0002-L-infrared.avi (RGB_VIDEO and IR_VIDEO)"
    how = "request PKU-MMD phase 1 at https://www.icst.pku.edu.cn/struct/Projects/PKUMMD.html"
    if not videos:
        count = len(found.films) + len(found.others)
        seen = f"{count} other files" if count else "no files"
        if any(re.match(r"s\d{3}c\d{3}p\d{3}r\d{3}a\d{3}_", name) for name in others):
            seen += ", some named as in NTU RGB+D (build ntu_rgbd_ir instead)"
        seen += "".join(f"; {one.name} {one.detail}" for one in found.unreadable[:3])
        raise UserError(
            f"no PKU-MMD videos in {folder}: looked for {wanted}; found {seen}. To get them: {how}"
        )
    counts = collections.Counter(kind for pair in videos.values() for kind in pair)
    for kind in ("rgb", "infrared"):
        if not counts[kind]:
            raise UserError(
                f"no {kind} videos in {folder}, only {sum(counts.values())} of the other "
                f"modality: looked for {wanted}. To get them: {how}"
            )


def _missing(name: str, others: dict[str, list[Found]], unreadable: list[Skip]) -> str:
    packed = sorted(other for other in others if other.endswith((".7z", ".rar")))
    hint = f"; unpack {', '.join(packed)} first, these are not read in place" if packed else ""
    hint += "".join(f"; {one.name}: {one.detail}" for one in unreadable[:3])
    return f"looked for {name} at any depth{hint}"

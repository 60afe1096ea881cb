"""From a folder of PKU-MMD files to videos with annotations, and from a video to its instances."""

import collections
import re
from pathlib import Path
from typing import NamedTuple

from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared.cache import EncodingResult, EncodingTask, Record, Skip
from jax_irkd.tfds_builders._shared.crops import crop_for, require_crops
from jax_irkd.tfds_builders._shared.encoding import EncodedClip, encode_ranges
from jax_irkd.tfds_builders._shared.finding import Finds, duplicate, film_name, find
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.pairs import film_notes
from jax_irkd.tfds_builders._shared.report import NO_COLOUR
from jax_irkd.tfds_builders.pku_mmd_ir.annotations import Instance, Labels, background
from jax_irkd.tfds_builders.pku_mmd_ir.texts import (
    SPLIT_FILES,
    compare_actions,
    read_labels,
    read_splits,
)
from jax_irkd.video.archives import Found, base_name, held, name_of
from jax_irkd.video.decoding import Film
from jax_irkd.video.faults import VideoError
from jax_irkd.video.pixels import COLOURLESS
from jax_irkd.video.timing import SAME_CLOCK, Timing, place_of, span_of, time_of

VIDEO = re.compile(r"^(\d{4}-[LMR])(-infrared)?$", re.IGNORECASE)
LABEL = re.compile(r"^(\d{4}-[LMR])\.(txt|label)$", re.IGNORECASE)
CAMERAS = {"L": 1, "M": 2, "R": 3}
SPLITS = (
    "train_subjects_train_views",
    "train_subjects_test_views",
    "test_subjects_train_views",
    "test_subjects_test_views",
)
KEPT_SHARE = 0.5  # An instance of which less is on film is left out.


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


def tasks_of(found: PkuScan, options: BuildOptions) -> tuple[list[EncodingTask], list[Skip]]:
    """A task for every complete video, and one skip for every instance of an incomplete one."""
    tasks, skipped = [], []
    for name in sorted(found.videos):
        pair, labels = found.videos[name], found.labels.get(name)
        if labels is None:
            why = found.unlabelled.get(name, f"no label file {name}.txt")
            skipped.append(Skip(name, "no annotation", why))
            continue
        skipped += [Skip(name, reason, f"row {row}") for row, reason in labels.dropped]
        if len(pair) == 1 or name not in found.splits:
            reason = f"no {'infrared' if 'rgb' in pair else 'rgb'} file"
            if len(pair) == 2:
                reason = "not in both split files"
            spans = [f"{instance.start}-{instance.stop}" for instance in labels.instances]
            present = ", ".join(name_of(found_file.source) for found_file in pair.values())
            skipped += [Skip(f"{name} {span}", reason, f"only {present}") for span in spans]
            continue
        stamp = f"{pair['rgb'].stamp} {pair['infrared'].stamp} {found.stamps[name]}"
        instances = labels.instances + (background(labels.instances) if options.background else [])
        work = (pair["rgb"].source, pair["infrared"].source, instances, options)
        tasks.append(EncodingTask(name, found.splits[name], stamp, work))
    require_crops(options.crop_file, [task.key[-1] for task in tasks])
    return tasks, skipped


def encode(task: EncodingTask) -> EncodingResult:
    """All instances of a video, each modality decoded once, in order.

    A fault in one of the videos costs the instances that reach it, not those before.
    """
    rgb, infrared, instances, options = task.work
    try:
        with held(rgb) as first, held(infrared) as second:
            return _encode(task.key, Film(first), Film(second), instances, options)
    except (VideoError, OSError, ValueError) as error:
        return EncodingResult(
            [], [Skip(task.key, "unreadable video", str(error)) for _ in instances], []
        )


def _encode(
    video: str, rgb: Film, infrared: Film, instances: list[Instance], options: BuildOptions
) -> EncodingResult:
    films = {"rgb": rgb, "infrared": infrared}
    spans = [(instance.start, instance.stop) for instance in instances]
    wanted = {"rgb": spans, "infrared": on_own_clock(spans, rgb.whole, infrared.whole)}
    crops = {"rgb": crop_for(options.crop_file, video[-1]), "infrared": None}
    clips, lengths, faults, notes = {}, {}, {}, []
    for kind, film in films.items():
        clips[kind], lengths[kind], faults[kind] = encode_ranges(
            film,
            wanted[kind],
            infrared=kind == "infrared",
            crop=crops[kind],
            **options.storage,
        )
    if lengths["rgb"] != lengths["infrared"] and not any(faults.values()):
        seconds = [films[kind].timing.end for kind in ("rgb", "infrared")]
        detail = (
            f"{lengths['rgb']} RGB frames in {seconds[0]:.1f} s and {lengths['infrared']} infrared "
            f"frames in {seconds[1]:.1f} s"
        )
        notes.append(Skip(video, "lengths differ", detail))
    records, skipped = [], []
    for row, instance in enumerate(instances):
        pair = {kind: clips[kind][row] for kind in clips}
        why = _too_little(pair, {kind: wanted[kind][row] for kind in wanted}, lengths, faults)
        if why:
            skipped.append(Skip(f"{video} {instance.start}-{instance.stop}", *why))
        else:
            records.append(_record(video, row, instance, pair))
            annotated = instance.stop - instance.start
            if pair["rgb"].total < annotated:
                detail = f"frames {instance.start}-{instance.stop}, the video has {lengths['rgb']}"
                notes.append(Skip(f"{video}-{row:03d}", "cut off at the end", detail))
    for kind, own in clips.items():
        notes += film_notes(video, kind, films[kind], own)
    colour = [clip.colour for clip in clips["rgb"] if clip.frames]
    if colour and sum(colour) / len(colour) < COLOURLESS:
        notes.append(Skip(video, NO_COLOUR, "its channels are equal, as in an IR file"))
    return EncodingResult(records, skipped, notes)


def on_own_clock(
    spans: list[tuple[int, int]], rgb: Timing, infrared: Timing
) -> list[tuple[int, int]]:
    """Annotated frames, which are RGB frames, as the infrared frames of the same moments.

    The same numbers where both films show equally many frames a second on one clock.
    """
    first, second, same = span_of(rgb, infrared)
    alike = same and rgb.steady and infrared.steady
    if alike and abs(rgb.rate - infrared.rate) <= SAME_CLOCK * rgb.rate:
        return spans
    pace = 1.0 if same and rgb.timed else second / first
    moved = [
        (place_of(infrared, pace * time_of(rgb, start)), place_of(infrared, pace * time_of(rgb, e)))
        for start, e in spans
    ]
    return [(start, max(start + 1, stop)) for start, stop in moved]


def _too_little(
    pair: dict[str, EncodedClip], wanted: dict[str, tuple[int, int]], lengths: dict, faults: dict
) -> tuple[str, str] | None:
    """Why an instance cannot be used, or None."""
    for kind, clip in pair.items():
        start, stop = wanted[kind]
        if clip.total == stop - start:
            continue
        if faults[kind]:
            return "unreadable video", str(faults[kind])
        if too_short(clip.total, stop - start):
            return "past the end", f"frames {start}-{stop}, the {kind} video has {lengths[kind]}"
    return None


def too_short(length: int, annotated: int) -> bool:
    """Whether so many frames of an instance on film are too few to keep it."""
    return length < KEPT_SHARE * annotated


def _record(video: str, row: int, instance: Instance, pair: dict[str, EncodedClip]) -> Record:
    key = f"{video}-{row:03d}"
    scalars = {
        "clip_id": key,
        "label": instance.label,
        "video": video,
        "camera": CAMERAS[video[-1]],
        "start": instance.start,
        "stop": instance.stop,
        "confidence": instance.confidence,
        "rgb_frames": pair["rgb"].total,
        "infrared_frames": pair["infrared"].total,
    }
    return Record(key, scalars, {kind: clip.frames for kind, clip in pair.items()})

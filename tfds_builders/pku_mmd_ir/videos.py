"""From a folder of PKU-MMD files to videos with annotations, and from a video to its instances."""

import collections
import re
from pathlib import Path
from typing import NamedTuple

from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared.cache import EncodingResult, EncodingTask, Record, Skip
from jax_irkd.tfds_builders._shared.crops import crop_for
from jax_irkd.tfds_builders._shared.encoding import EncodedClip, encode_ranges
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.report import NO_COLOUR
from jax_irkd.tfds_builders.pku_mmd_ir.annotations import (
    CLASSES,
    Instance,
    Labels,
    looks_like_labels,
    parse_labels,
    parse_split,
    read_actions,
)
from jax_irkd.video.archives import Found, base_name, find_files, name_of, open_source
from jax_irkd.video.decoding import COLOURLESS, VideoError, nominal_frames

VIDEO = re.compile(r"^(\d{4}-[LMR])(-infrared)?\.(avi|mp4|mkv)$", re.IGNORECASE)
LABEL = re.compile(r"^(\d{4}-[LMR])\.(txt|label)$", re.IGNORECASE)
SPLIT_FILES = ("cross-subject.txt", "cross-view.txt")
CAMERAS = {"L": 1, "M": 2, "R": 3}
SPLITS = (
    "train_subjects_train_views",
    "train_subjects_test_views",
    "test_subjects_train_views",
    "test_subjects_test_views",
)
# Kinect writes both streams at 30 frames per second: lengths that nearly agree share a clock.
SAME_CLOCK = 0.02
KEPT_SHARE = 0.5  # An instance of which less is on film is left out.


class PkuScan(NamedTuple):
    """Files by video name, parsed annotations and split membership, and remarks."""

    videos: dict[str, dict[str, Found]]
    labels: dict[str, Labels]
    stamps: dict[str, str]
    splits: dict[str, str]
    listed: list[str]
    notes: list[Skip]
    archives: int


def scan(folder: Path) -> PkuScan:
    """Finds videos, label files and split files. Raises UserError when they are not there."""
    files, broken = find_files(folder)
    notes = [Skip(name, "unreadable archive", why) for name, why in broken]
    videos, texts, others = {}, collections.defaultdict(list), {}
    for found in files:
        name = base_name(found.source)
        if match := VIDEO.match(name):
            kind = "infrared" if match.group(2) else "rgb"
            pair = videos.setdefault(match.group(1).upper(), {})
            if kind in pair:
                detail = f"{name_of(pair[kind].source)} used, {name_of(found.source)} not"
                notes.append(Skip(f"{match.group(1)} {kind}", "duplicate file", detail))
            else:
                pair[kind] = found
        elif match := LABEL.match(name):
            texts[match.group(1).upper()].append(found)
        else:
            others.setdefault(name.lower(), found)
    _refuse_wrong_folder(folder, videos, files, others)
    labels, stamps = _read_labels(texts, notes)
    if not labels:
        raise UserError(f"no label files in {folder}: {_missing('0002-L.txt', others)}")
    splits, listed = _read_splits(folder, others, notes)
    _compare_actions(others, notes)
    archives = {f.source.archive for f in files if not isinstance(f.source, str)}
    return PkuScan(videos, labels, stamps, splits, listed, notes, len(archives))


def _refuse_wrong_folder(folder: Path, videos: dict, files: list[Found], others: dict) -> None:
    wanted = "0002-L.avi and 0002-L-infrared.avi (RGB_VIDEO and IR_VIDEO)"
    how = "request PKU-MMD phase 1 at https://www.icst.pku.edu.cn/struct/Projects/PKUMMD.html"
    if not videos:
        seen = f"{len(files)} other files" if files else "no files"
        if any(re.match(r"s\d{3}c\d{3}p\d{3}r\d{3}a\d{3}_", name) for name in others):
            seen += ", some named as in NTU RGB+D (build ntu_rgbd_ir instead)"
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


def _missing(name: str, others: dict[str, Found]) -> str:
    packed = sorted(other for other in others if other.endswith((".7z", ".rar")))
    hint = f"; unpack {', '.join(packed)} first, these are not read in place" if packed else ""
    return f"looked for {name} at any depth{hint}"


def _text(found: Found) -> str:
    with open_source(found.source) as file:
        return file.read().decode("utf-8", errors="replace")


def _read_labels(texts: dict[str, list[Found]], notes: list[Skip]) -> tuple[dict, dict]:
    labels, stamps = {}, {}
    for video in sorted(texts):
        # Skeleton files have the same names; folders called Label come first.
        candidates = sorted(texts[video], key=lambda f: "label" not in name_of(f.source).lower())
        for found in candidates:
            try:
                text = _text(found)
            except (OSError, ValueError) as error:
                notes.append(Skip(name_of(found.source), "unreadable label file", str(error)))
                continue
            if looks_like_labels(text):
                labels[video], stamps[video] = parse_labels(text), found.stamp
                break
    return labels, stamps


def _read_splits(folder: Path, others: dict, notes: list[Skip]) -> tuple[dict[str, str], list[str]]:
    """The physical split of each video that both files name, and all names in the files."""
    members = []
    for file_name in SPLIT_FILES:
        if file_name not in others:
            raise UserError(f"no {file_name} in {folder}: {_missing(file_name, others)}")
        split = parse_split(_text(others[file_name]))
        both = sorted(set(split.train) & set(split.validation))
        if both:
            raise UserError(f"{file_name} names {both[0]} for training and for validation")
        if not split.train or not split.validation:
            raise UserError(
                f"{file_name} has {len(split.train)} training and {len(split.validation)} "
                "validation videos; expected a 'Training videos:' and a 'Validation videos:' line, "
                "each followed by a line of names such as 0002-L"
            )
        notes += [Skip(entry, "odd entry in a split file", file_name) for entry in split.odd]
        members.append(
            dict.fromkeys(split.train, "train") | dict.fromkeys(split.validation, "test")
        )
    subjects, views = members
    splits = {
        name: f"{subjects[name]}_subjects_{views[name]}_views" for name in subjects if name in views
    }
    return splits, sorted({*subjects, *views})


def _compare_actions(others: dict[str, Found], notes: list[Skip]) -> None:
    if "actions.xlsx" not in others:
        return
    try:
        with open_source(others["actions.xlsx"].source) as file:
            actions = read_actions(file)
    except (OSError, ValueError) as error:
        notes.append(Skip("Actions.xlsx", "unreadable class names", str(error)))
        return
    for label, name in enumerate(CLASSES, start=1):
        given = actions.get(label, "")
        if given.lower() != name:
            detail = f"label {label} is {given!r} there and {name!r} here"
            notes.append(Skip("Actions.xlsx", "class name differs", detail))


def tasks_of(found: PkuScan, options: BuildOptions) -> tuple[list[EncodingTask], list[Skip]]:
    """A task for every complete video, and one skip for every instance of an incomplete one."""
    tasks, skipped = [], []
    for name in sorted(found.videos):
        pair, labels = found.videos[name], found.labels.get(name)
        if labels is None:
            skipped.append(Skip(name, "no annotation", f"no label file {name}.txt"))
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
        work = (pair["rgb"].source, pair["infrared"].source, labels.instances, options)
        tasks.append(EncodingTask(name, found.splits[name], stamp, work))
    return tasks, skipped


def encode(task: EncodingTask) -> EncodingResult:
    """All instances of a video, each modality decoded once, in order.

    A fault in one of the videos costs the instances that reach it, not those before.
    """
    rgb, infrared, instances, options = task.work
    settings = {
        "max_frames": options.max_frames,
        "short_side": options.short_side,
        "quality": options.quality,
    }
    spans = [(instance.start, instance.stop) for instance in instances]
    notes, faults = [], {}
    try:
        own = _on_own_clock(spans, nominal_frames(rgb), nominal_frames(infrared))
        crop = crop_for(options.crop_file, task.key[-1])
        wanted = {"rgb": spans, "infrared": own}
        clips, lengths = {}, {}
        clips["rgb"], lengths["rgb"], faults["rgb"] = encode_ranges(
            rgb, spans, crop=crop, **settings
        )
        clips["infrared"], lengths["infrared"], faults["infrared"] = encode_ranges(
            infrared, own, infrared=True, **settings
        )
    except VideoError as error:
        return EncodingResult(
            [], [Skip(task.key, "unreadable video", str(error)) for _ in spans], []
        )
    if lengths["rgb"] != lengths["infrared"] and not any(faults.values()):
        detail = f"{lengths['rgb']} RGB and {lengths['infrared']} infrared frames"
        notes.append(Skip(task.key, "lengths differ", detail))
    records, skipped = [], []
    for row, instance in enumerate(instances):
        pair = {kind: clips[kind][row] for kind in clips}
        why = _too_little(pair, {kind: wanted[kind][row] for kind in wanted}, lengths, faults)
        if why:
            skipped.append(Skip(f"{task.key} {instance.start}-{instance.stop}", *why))
        else:
            records.append(_record(task.key, row, instance, pair))
    colour = [clip.colour for clip in clips["rgb"] if clip.frames]
    if colour and sum(colour) / len(colour) < COLOURLESS:
        notes.append(Skip(task.key, NO_COLOUR, "its channels are equal, as in an IR file"))
    return EncodingResult(records, skipped, notes)


def _on_own_clock(
    spans: list[tuple[int, int]], rgb_length: int, infrared_length: int
) -> list[tuple[int, int]]:
    """Annotated frames as infrared frames: the same numbers, or scaled when the rates differ."""
    ratio = clock_ratio(rgb_length, infrared_length)
    return [(round(s * ratio), max(round(s * ratio) + 1, round(e * ratio))) for s, e in spans]


def clock_ratio(rgb_length: int, infrared_length: int) -> float:
    """Infrared frames for one RGB frame, by whose numbers the annotation goes.

    1 when the lengths are so near that both streams share a clock, or are not known.
    """
    longest = max(rgb_length, infrared_length)
    if abs(rgb_length - infrared_length) <= max(2, SAME_CLOCK * longest):
        return 1.0
    return infrared_length / rgb_length if rgb_length and infrared_length else 1.0


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
        if clip.total < KEPT_SHARE * (stop - start):
            return "past the end", f"frames {start}-{stop}, the {kind} video has {lengths[kind]}"
    return None


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

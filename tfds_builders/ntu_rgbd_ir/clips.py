"""From a folder of NTU RGB+D files to clip pairs, and from a pair to a record."""

import collections
import functools
from pathlib import Path
from typing import NamedTuple

from jax_irkd.data.archives import Found, base_name, find_files, name_of
from jax_irkd.data.video import COLOURLESS, VideoError, encode_clip
from jax_irkd.errors import UserError
from tfds_builders._shared.cache import Record, Result, Skip, Task
from tfds_builders._shared.crops import crop_for
from tfds_builders._shared.options import BuildOptions
from tfds_builders._shared.report import NO_COLOUR
from tfds_builders.ntu_rgbd_ir.names import ClipName, parse

FRAMES = {"rgb": "rgb_frames", "infrared": "infrared_frames"}
SHORT_CLIP = 8  # Frames; fewer than the segments of the paper's sampling.


class Scan(NamedTuple):
    """What lies in a folder: files by clip key and modality, and what is odd about it."""

    clips: dict[str, dict[str, Found]]
    names: dict[str, ClipName]
    notes: list[Skip]
    archives: int
    other_files: list[str]


def scan(folder: Path) -> Scan:
    """Joins all NTU files under `folder`, unpacked or zipped, on the 20 characters of the clip."""
    files, broken = find_files(folder)
    result = Scan({}, {}, [Skip(name, "unreadable archive", why) for name, why in broken], 0, [])
    archives = set()
    for found in files:
        if not isinstance(found.source, str):
            archives.add(found.source.archive)
        name = parse(base_name(found.source))
        if name is None:
            result.other_files.append(name_of(found.source))
        elif name.odd:
            result.notes.append(Skip(name_of(found.source), "not an NTU RGB+D 60 clip", name.odd))
        else:
            _add(result, name, found)
    return result._replace(archives=len(archives))


def _add(result: Scan, name: ClipName, found: Found) -> None:
    pair = result.clips.setdefault(name.key, {})
    result.names[name.key] = name
    known = pair.get(name.modality)
    # Unpacked files win over archives: they are what the user touched last.
    if known is not None:
        kept, other = (known, found) if isinstance(known.source, str) else (found, known)
        if isinstance(kept.source, str) == isinstance(other.source, str):
            kept, other = known, found
        same = "of the same size" if kept.size == other.size else "of another size"
        detail = f"{name_of(kept.source)} used, {name_of(other.source)} ({same}) not"
        result.notes.append(Skip(f"{name.key} {name.modality}", "duplicate file", detail))
        found = kept
    pair[name.modality] = found


def refuse_wrong_folder(folder: Path, found: Scan) -> None:
    """Raises UserError when `folder` cannot be NTU RGB+D with both modalities."""
    counts = collections.Counter(kind for pair in found.clips.values() for kind in pair)
    wanted = "S…C…P…R…A…_rgb.avi and S…C…P…R…A…_ir.avi, in folders or nturgbd_*.zip archives"
    source = (
        "request RGB videos and IR videos of NTU RGB+D at "
        "https://rose1.ntu.edu.sg/dataset/actionRecognition/, or make the demo data with "
        "python -m jax_irkd.data.synthetic --out=FOLDER"
    )
    if not found.clips:
        seen = f"{len(found.other_files)} other files" if found.other_files else "no files"
        pku = sum(n.rsplit("/", 1)[-1][4:6] in ("-L", "-M", "-R") for n in found.other_files)
        if pku:
            seen += f", {pku} of them named as in PKU-MMD (build pku_mmd_ir instead)"
        notes = "".join(f"; {n.name}: {n.detail}" for n in found.notes[:3])
        raise UserError(
            f"no NTU RGB+D clips in {folder}: looked for {wanted}; found {seen}{notes}."
            f" To get them: {source}"
        )
    for kind, label in (("rgb", "RGB (_rgb.avi)"), ("infrared", "infrared (_ir.avi)")):
        if not counts[kind]:
            raise UserError(
                f"no {label} clips in {folder}, only {sum(counts.values())} of the other "
                f"modality: looked for {wanted}. To get them: {source}"
            )


def tasks_of(found: Scan, classes: int, options: BuildOptions) -> tuple[list[Task], list[Skip]]:
    """Tasks for the pairs of the first `classes` actions, and the clips that lack a modality."""
    tasks, unpaired = [], []
    for key in sorted(found.clips):
        name, pair = found.names[key], found.clips[key]
        if name.action > classes:
            continue
        if len(pair) == 1:
            (kind,) = pair
            other = "infrared" if kind == "rgb" else "rgb"
            detail = f"only {name_of(pair[kind].source)}"
            unpaired.append(Skip(key, f"no {other} file", detail))
            continue
        stamp = f"{pair['rgb'].stamp} {pair['infrared'].stamp}"
        work = (name, pair["rgb"].source, pair["infrared"].source, options)
        tasks.append(Task(key, name.split, stamp, work))
    return tasks, unpaired


def encode(task: Task) -> Result:
    """Both videos of a pair as JPEG frames; a fault of either skips the clip."""
    name, rgb, infrared, options = task.work
    settings = functools.partial(
        encode_clip,
        max_frames=options.max_frames,
        short_side=options.short_side,
        quality=options.quality,
    )
    try:
        clips = {
            "rgb": settings(rgb, crop=crop_for(options.crop_file, name.camera)),
            "infrared": settings(infrared, infrared=True),
        }
    except VideoError as error:
        return Result([], [Skip(task.key, "unreadable video", str(error))], [])
    scalars = {
        "clip_id": task.key,
        "label": name.action - 1,
        "subject": name.subject,
        "camera": name.camera,
        "setup": name.setup,
        "repetition": name.repetition,
    }
    scalars |= {FRAMES[kind]: clip.total for kind, clip in clips.items()}
    frames = {kind: clip.frames for kind, clip in clips.items()}
    return Result([Record(task.key, scalars, frames)], [], _notes(task.key, clips))


def _notes(key: str, clips: dict) -> list[Skip]:
    notes = []
    for kind, clip in clips.items():
        if clip.total < SHORT_CLIP:
            notes.append(Skip(key, "short clip", f"{clip.total} {kind} frames"))
    if clips["rgb"].colour < COLOURLESS:
        notes.append(Skip(key, NO_COLOUR, "its channels are equal, as in an IR file"))
    return notes

"""From a folder of NTU RGB+D files to clip pairs, and from a pair to a record."""

import collections
from pathlib import Path
from typing import NamedTuple

from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared.cache import EncodingResult, EncodingTask
from jax_irkd.tfds_builders._shared.crops import require_crops
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.pairs import encode_pair, unpaired
from jax_irkd.tfds_builders.ntu_rgbd_ir.names import ClipName, parse
from jax_irkd.video.archives import Found, name_of
from jax_irkd.video.finding import Skip, duplicate, film_name, find


class NtuScan(NamedTuple):
    """What lies in a folder: files by clip key and modality, and what is odd about it."""

    clips: dict[str, dict[str, Found]]
    names: dict[str, ClipName]
    notes: list[Skip]
    skipped: list[Skip]
    unreadable: list[Skip]
    archives: int
    other_files: list[str]


def scan(folder: Path) -> NtuScan:
    """Joins all NTU files under `folder`, unpacked or zipped, on the 20 characters of the clip."""
    found = find(folder)
    others = [name_of(one.source) for one in found.others]
    result = NtuScan({}, {}, [], list(found.skipped), found.unreadable, found.archives, others)
    odd: dict[str, Skip] = {}
    for film in found.films:
        name = parse(film_name(film.source))
        if name is None:
            result.other_files.append(name_of(film.source))
        elif name.odd:
            odd.setdefault(name.key, Skip(name.key, "not an NTU RGB+D 60 clip", name.odd))
        else:
            known = result.clips.setdefault(name.key, {}).setdefault(name.modality, film)
            result.names[name.key] = name
            if known is not film:
                result.notes.append(duplicate(f"{name.key} {name.modality}", known, film))
    result.skipped.extend(odd.values())
    return result


def refuse_wrong_folder(folder: Path, found: NtuScan) -> None:
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
        notes = "".join(f"; {n.name}: {n.detail}" for n in (found.skipped + found.unreadable)[:3])
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


def tasks_of(
    found: NtuScan, classes: int, options: BuildOptions
) -> tuple[list[EncodingTask], list[Skip]]:
    """Tasks for the pairs of the first `classes` actions, and the clips that lack a modality."""
    tasks, alone = [], []
    for key in sorted(found.clips):
        name, pair = found.names[key], found.clips[key]
        if name.action > classes:
            continue
        if len(pair) == 1:
            alone.append(unpaired(key, pair))
            continue
        stamp = f"{pair['rgb'].stamp} {pair['infrared'].stamp}"
        work = (name, pair["rgb"].source, pair["infrared"].source, options)
        tasks.append(EncodingTask(key, name.split, stamp, work))
    require_crops(options.crop_file, [found.names[task.key].camera for task in tasks])
    return tasks, alone


def encode(task: EncodingTask) -> EncodingResult:
    """Both videos of a pair; runs in a worker."""
    name, rgb, infrared, options = task.work
    scalars = {
        "label": name.action - 1,
        "subject": name.subject,
        "camera": name.camera,
        "setup": name.setup,
        "repetition": name.repetition,
    }
    return encode_pair(task.key, scalars, rgb, infrared, options, name.camera)

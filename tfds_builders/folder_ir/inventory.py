"""The inventory of a folder per class."""

import collections
from pathlib import Path

from jax_irkd.tfds_builders._shared.cache import Skip
from jax_irkd.tfds_builders._shared.inventory import MODALITIES, Inventory, estimate
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders.folder_ir import clips
from jax_irkd.video.archives import Found, name_of
from jax_irkd.video.decoding import VideoError, nominal_frames

SAMPLES = 20  # Files of each modality whose headers tell the usual length.


def take(folder: Path, options: BuildOptions, out: Path) -> Inventory:
    """Clips by class, modality and split, what is missing or odd, and an estimate."""
    found = clips.scan(folder)
    clips.refuse_wrong_folder(folder, found)
    tasks, unpaired, thin = clips.tasks_of(found, options)
    problems, decoded, stored = found.notes + unpaired + thin, {}, {}
    samples = {kind: [pair[kind] for pair in found.pairs.values()] for kind in MODALITIES}
    for kind in MODALITIES:
        length, unreadable = _usual_length(samples[kind])
        problems += unreadable
        decoded[kind] = length * len(tasks)
        stored[kind] = min(length, options.max_frames or length) * len(tasks)
    given = all(found.places[task.key].split for task in tasks)
    counts = collections.Counter(task.split for task in tasks)
    how = "as the folders say" if given else "chosen by name"
    return Inventory(
        title=f"folder_ir in {folder}",
        totals=[
            f"{len(tasks)} pairs of {len(found.class_names)} classes; {counts['train']} train, "
            f"{counts['test']} test, {how}; {len(found.other_files)} other files passed over"
        ],
        columns=["class", "RGB", "infrared", "pairs", *clips.SPLITS],
        rows=[_row(found, tasks, name) for name in _all_classes(found)],
        problems=problems,
        estimate=estimate(samples, decoded, stored, options, out, {}),
    )


def _all_classes(found: clips.FolderScan) -> list[str]:
    return sorted({place.label for place in found.places.values()})


def _row(found: clips.FolderScan, tasks: list, name: str) -> list[str]:
    own = [pair for key, pair in found.clips.items() if found.places[key].label == name]
    cells = [sum(kind in pair for pair in own) for kind in MODALITIES]
    cells.append(sum(len(pair) == 2 for pair in own))
    splits = [task.split for task in tasks if found.places[task.key].label == name]
    return [name, *map(str, [*cells, *map(splits.count, clips.SPLITS)])]


def _usual_length(files: list[Found]) -> tuple[int, list[Skip]]:
    """Mean frame count that the headers of a few files promise, and those without a header."""
    lengths, unreadable = [], []
    for found in files[:: max(1, len(files) // SAMPLES)]:
        try:
            lengths.append(nominal_frames(found.source))
        except VideoError as error:
            unreadable.append(Skip(name_of(found.source), "unreadable video", error.reason))
    return (round(sum(lengths) / len(lengths)) if lengths else 0), unreadable

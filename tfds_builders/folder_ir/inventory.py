"""The inventory of a folder per class."""

import collections
from pathlib import Path

from jax_irkd.tfds_builders._shared.inventory import (
    MODALITIES,
    Inventory,
    estimate,
    gap_problems,
    length_problems,
    read_headers,
)
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders.folder_ir import clips, refusals
from jax_irkd.tfds_builders.folder_ir.remarks import remarks


def take(folder: Path, options: BuildOptions, out: Path) -> Inventory:
    """Clips by class, modality and split, what is missing or odd, and an estimate."""
    found = clips.scan(folder)
    refusals.refuse_wrong_folder(folder, found, options.unpaired)
    tasks, unpaired = clips.tasks_of(found, options)
    names = found.class_names(options.unpaired)
    problems, decoded, stored = found.notes + found.skipped + unpaired, {}, {}
    problems += remarks(found, tasks, names)
    problems += found.unreadable
    kept = found.kept(options.unpaired)
    files = {(key, kind): film for key, pair in kept.items() for kind, film in pair.items()}
    samples = {kind: [f for (_, k), f in files.items() if k == kind] for kind in MODALITIES}
    headers, unreadable = read_headers(files, options.processes)
    problems += unreadable + length_problems(headers) + gap_problems(files)
    for kind in MODALITIES:
        lengths = [facts.frames for (_, k), facts in headers.items() if k == kind]
        decoded[kind] = sum(lengths)
        stored[kind] = sum(min(n, options.max_frames or n) for n in lengths)
    given = all(found.places[task.key].split for task in tasks)
    counts = collections.Counter(clips.side_of(task.split) for task in tasks)
    singles = sum(task.split in clips.ALONE for task in tasks)
    pairs = f"{len(tasks) - singles} pairs" + (f" and {singles} single films" if singles else "")
    how = "as the folders say" if given else "chosen by name"
    return Inventory(
        title=f"folder_ir in {folder}",
        totals=[
            f"{pairs} of {len(names)} classes; "
            f"{counts['train']} train, "
            f"{counts['test']} test, {how}; {len(found.other_files)} other files passed over"
        ],
        columns=["class", "RGB", "infrared", "pairs", *clips.SPLITS],
        rows=[_row(found, tasks, name) for name in _all_classes(found)],
        problems=problems,
        estimate=estimate(samples, len(tasks), decoded, stored, options, out, {}),
    )


def _all_classes(found: clips.FolderScan) -> list[str]:
    return sorted({place.label for place in found.places.values()})


def _row(found: clips.FolderScan, tasks: list, name: str) -> list[str]:
    lie = [pair for key, pair in found.clips.items() if found.places[key].label == name]
    cells = [sum(kind in pair for pair in lie) for kind in MODALITIES]
    cells.append(sum(len(pair) == 2 for pair in lie))
    own = [task for task in tasks if found.places[task.key].label == name]
    splits = [clips.side_of(task.split) for task in own]
    return [name, *map(str, [*cells, *map(splits.count, clips.SPLITS)])]

"""The inventory of a PKU-MMD folder."""

from pathlib import Path

from jax_irkd.pku_mmd.files import CAMERAS, SPLITS, PkuScan, scan
from jax_irkd.tfds_builders._shared.inventory import (
    MODALITIES,
    Inventory,
    estimate,
    gap_problems,
    length_problems,
    odd_headers,
    read_headers,
)
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders.pku_mmd_ir import videos
from jax_irkd.video.finding import Skip

VIDEOS, INSTANCES, MEAN_FRAMES, MEAN_INSTANCE = 1_076, 21_545, 4_937, 115
SHORT_VIDEO = 300


def take(folder: Path, options: BuildOptions, out: Path) -> Inventory:
    """Videos by view and modality, annotations, what is missing or odd, and an estimate."""
    found = scan(folder)
    tasks, skipped = videos.tasks_of(found, options)
    files = {(name, kind): pair[kind] for name, pair in found.videos.items() for kind in pair}
    headers, unreadable = read_headers(files, options.processes)
    absent = [name for name in found.listed if name not in found.videos]
    problems = found.notes + found.skipped + found.unreadable + skipped + unreadable
    problems += odd_headers(headers, SHORT_VIDEO) + gap_problems(files)
    problems += length_problems(headers) + _past_the_end(found, tasks, headers)
    problems += [Skip(name, "in a split file, not on disk", "no video") for name in absent]
    problems += [
        Skip(name, reason, f"row {row}")
        for name, labels in found.labels.items()
        for row, reason in labels.repaired
    ]
    decoded, stored = {}, {}
    for kind in MODALITIES:
        decoded[kind] = sum(
            headers[task.key, kind].frames if (task.key, kind) in headers else MEAN_FRAMES
            for task in tasks
        )
        stored[kind] = sum(
            min(span.stop - span.start, options.max_frames or span.stop)
            for task in tasks
            for span in found.labels[task.key].instances
        )
    instances = sum(len(labels.instances) for labels in found.labels.values())
    usable = sum(len(found.labels[task.key].instances) for task in tasks)
    samples = {kind: [p[kind] for p in found.videos.values() if kind in p] for kind in MODALITIES}
    kept = min(options.max_frames or MEAN_INSTANCE, MEAN_INSTANCE)
    complete = {"PKU-MMD": (VIDEOS * MEAN_FRAMES, INSTANCES * kept)}
    return Inventory(
        title=f"pku_mmd_ir in {folder}",
        totals=[
            f"{len(tasks)} of the {VIDEOS:,} videos are complete; {instances} of the "
            f"{INSTANCES:,} instances annotated, {usable} of them in complete videos; "
            f"{found.archives} archives read in place"
        ],
        columns=["view", "RGB", "infrared", "labels", *map(_short, SPLITS)],
        rows=[_row(found, view) for view in CAMERAS],
        problems=problems,
        estimate=estimate(samples, len(tasks), decoded, stored, options, out, complete),
    )


def _past_the_end(found: PkuScan, tasks: list, headers: dict) -> list[Skip]:
    """Rows that the build will leave out because less than half of them is on film."""
    problems = []
    for task in tasks:
        if (task.key, "rgb") not in headers:
            continue
        length = headers[task.key, "rgb"].frames
        for row in found.labels[task.key].instances:
            if videos.too_short(min(row.stop, length) - row.start, row.stop - row.start):
                detail = f"frames {row.start}-{row.stop}, the rgb video has {length}"
                problems.append(Skip(task.key, "past the end", detail))
    return problems


def _short(split: str) -> str:
    """Subjects and views of a split: train/test is training subjects seen from test views."""
    return split.replace("_subjects_", "/").removesuffix("_views")


def _row(found: PkuScan, view: str) -> list[str]:
    own = {name: pair for name, pair in found.videos.items() if name.endswith(view)}
    cells = [sum(kind in pair for pair in own.values()) for kind in MODALITIES]
    cells.append(sum(name.endswith(view) for name in found.labels))
    cells += [sum(found.splits.get(name) == split for name in own) for split in SPLITS]
    return [view, *map(str, cells)]

"""The inventory of an NTU RGB+D folder."""

import collections
from pathlib import Path

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
from jax_irkd.tfds_builders._shared.pairs import SHORT_CLIP
from jax_irkd.tfds_builders.ntu_rgbd_ir import clips, names
from jax_irkd.video.finding import Skip


def take(folder: Path, config: str, classes: int, options: BuildOptions, out: Path) -> Inventory:
    """Clips by set-up, camera and modality, what is missing or odd, and an estimate."""
    found = clips.scan(folder)
    clips.refuse_wrong_folder(folder, found)
    wanted = {key: pair for key, pair in found.clips.items() if found.names[key].action <= classes}
    _, unpaired = clips.tasks_of(found, classes, options)
    files = {(key, kind): pair[kind] for key, pair in wanted.items() for kind in pair}
    headers, unreadable = read_headers(files, options.processes)
    missing, rows = _missing(found, wanted, classes), _rows(found, wanted)
    problems = found.notes + found.skipped + found.unreadable + unpaired + unreadable + missing
    problems += odd_headers(headers, SHORT_CLIP) + length_problems(headers) + gap_problems(files)
    pairs = sum(len(pair) == 2 for pair in wanted.values())
    other = len(found.clips) - len(wanted)
    decoded, stored = {}, {}
    for kind in MODALITIES:
        lengths = [
            headers[key, kind].frames if (key, kind) in headers else names.MEAN_FRAMES
            for key, pair in wanted.items()
            if len(pair) == 2
        ]
        decoded[kind] = sum(lengths)
        stored[kind] = sum(min(n, options.max_frames or n) for n in lengths)
    samples = {kind: [p[kind] for p in wanted.values() if kind in p] for kind in MODALITIES}
    kept = min(options.max_frames or names.MEAN_FRAMES, names.MEAN_FRAMES)
    complete = {n: (c * names.MEAN_FRAMES, c * kept) for n, c in names.TOTALS.items()}
    totals = [
        f"{pairs} of the {names.TOTALS[config]:,} clips of {config} have both modalities; "
        f"{other} clips of other classes; {found.archives} archives read in place; "
        f"{len(found.other_files)} other files passed over"
    ]
    return Inventory(
        title=f"ntu_rgbd_ir/{config} in {folder}: RGB/infrared clips",
        totals=totals,
        columns=["set-up", *(f"C{camera:03d}" for camera in range(1, names.CAMERAS + 1)), "sum"],
        rows=rows,
        problems=problems,
        estimate=estimate(samples, pairs, decoded, stored, options, out, complete),
    )


def _rows(found: clips.NtuScan, wanted: dict) -> list[list[str]]:
    counts = collections.Counter(
        (found.names[key].setup, found.names[key].camera, kind)
        for key, pair in wanted.items()
        for kind in pair
    )
    rows = []
    for setup in range(1, names.SETUPS + 1):
        cells = []
        for cameras in [(c,) for c in range(1, names.CAMERAS + 1)] + [(1, 2, 3)]:
            both = [sum(counts[setup, camera, kind] for camera in cameras) for kind in MODALITIES]
            cells.append(f"{both[0]}/{both[1]}" if any(both) else "-")
        rows.append([f"S{setup:03d}", *cells])
    return rows


def _missing(found: clips.NtuScan, wanted: dict, classes: int) -> list[Skip]:
    """Recordings of which some actions are on disk and others are not: all have every action."""
    recordings = collections.defaultdict(set)
    for key in wanted:
        recordings[key[:16]].add(found.names[key].action)
    problems = []
    for recording, actions in sorted(recordings.items()):
        absent = sorted(set(range(1, classes + 1)) - actions)
        if absent:
            listed = ", ".join(f"A{action:03d}" for action in absent[:10])
            more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
            problems.append(Skip(recording, "recordings without some actions", listed + more))
    return problems

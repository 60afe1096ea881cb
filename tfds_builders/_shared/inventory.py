"""What a build would find: tables, problems, and an estimate of disk and time, without building."""

import functools
import itertools
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from jax_irkd.data.spec import CHANNELS
from jax_irkd.tfds_builders._shared import pool
from jax_irkd.tfds_builders._shared.encoding import FrameStorage, encode_jpeg
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.pairs import UNUSUAL, length_notes
from jax_irkd.video.archives import Found, base_name, held
from jax_irkd.video.decoding import Facts, Film
from jax_irkd.video.faults import VideoError, named_faults
from jax_irkd.video.finding import Skip
from jax_irkd.video.stills import gap

SAMPLES, SAMPLE_FRAMES = 3, 96
FILES_PER_WORKER = 200  # headers to be read before another process is worth its start
# Seconds of a build that no sample shows: the start of its workers, and packing a pair.
STARTING, PACKING = 3.0, 0.01
USUAL_RATE = (29.0, 31.0)
MODALITIES = tuple(CHANNELS)


class Inventory(NamedTuple):
    """The answer to --check. `problems` are grouped by reason when shown."""

    title: str
    totals: list[str]
    columns: list[str]
    rows: list[list[str]]
    problems: list[Skip]
    estimate: list[str]

    def show(self, console: Console, names: int = 5) -> None:
        table = Table(title=self.title)
        for column in self.columns:
            table.add_column(column, justify="right")
        for row in self.rows:
            table.add_row(*map(escape, row))
        console.print(table)
        for line in self.totals:
            console.print(line, highlight=False, soft_wrap=True)
        for reason, items in itertools.groupby(
            sorted(self.problems, key=lambda item: item.reason), key=lambda item: item.reason
        ):
            items = list(items)
            console.print(f"{reason}: {len(items)}", style="bold", highlight=False)
            for item in items[:names]:
                console.print(
                    f"  {item.name}: {item.detail}", highlight=False, markup=False, soft_wrap=True
                )
        for line in self.estimate:
            console.print(line, highlight=False, soft_wrap=True)


def read_headers(
    files: dict[tuple[str, str], Found], processes: int, show: bool = True
) -> tuple[dict[tuple[str, str], Facts], list[Skip]]:
    """What films by (name, modality) say of themselves, and those that the build would refuse.

    Damage in between shows only when they are decoded. They are read where the build decodes, in
    other processes: one that crashes the decoder is named, as it is there.
    """
    headers, unreadable = {}, {}
    workers = min(processes, 1 + len(files) // FILES_PER_WORKER)
    done = pool.in_workers(files.items(), _header, workers)
    for (key, found), facts in track(done, "reading headers", len(files), disable=not show):
        if isinstance(facts, str):
            facts = Skip(base_name(found.source), pool.CRASHES, facts)
        (unreadable if isinstance(facts, Skip) else headers)[key] = facts
    in_order = [{key: told[key] for key in files if key in told} for told in (headers, unreadable)]
    return in_order[0], list(in_order[1].values())


def _header(file: tuple[tuple[str, str], Found]) -> Facts | Skip:
    found = file[1]
    try:
        with named_faults(found.source):
            return Film(found.source).facts()
    except VideoError as error:
        return Skip(error.name, "unreadable video", error.reason)


def odd_headers(headers: dict[tuple[str, str], Facts], short: int) -> list[Skip]:
    """Clips that are short, run at an unusual rate, or have another size than most."""
    notes = []
    for kind in MODALITIES:
        own = {name: header for (name, k), header in headers.items() if k == kind}
        sizes = [(header.width, header.height) for header in own.values()]
        usual = max(set(sizes), key=sizes.count) if sizes else None
        for name, header in own.items():
            label = f"{name} {kind}"
            if header.frames < short:
                notes.append(Skip(label, f"shorter than {short} frames", f"{header.frames} frames"))
            rate = header.timing.rate
            if header.timing.timed and not USUAL_RATE[0] <= rate <= USUAL_RATE[1]:
                rate = f"{rate:.2f} frames per second"
                notes.append(Skip(label, "not 30 frames per second", rate))
            if (header.width, header.height) != usual:
                size = f"{header.width}x{header.height}, most are {usual[0]}x{usual[1]}"
                notes.append(Skip(label, "unusual picture size", size))
    return notes


def length_problems(headers: dict[tuple[str, str], Facts]) -> list[Skip]:
    """The remarks that a build will make on pairs which do not last equally long."""
    problems = []
    for key in sorted({key for key, _ in headers}):
        pair = {kind: headers.get((key, kind)) for kind in MODALITIES}
        if all(pair.values()):
            problems += length_notes(key, {kind: facts.timing for kind, facts in pair.items()})
    return problems


def gap_problems(files: dict[tuple[str, str], Found]) -> list[Skip]:
    """The remarks that a build will make on sequences of pictures whose numbers have gaps."""
    lost = {place: gap(found.source) for place, found in files.items()}
    return [
        Skip(f"{key} {kind}", UNUSUAL, f"it {what}") for (key, kind), what in lost.items() if what
    ]


def estimate(
    samples: dict[str, list[Found]],
    films: int,
    decoded: dict[str, int],
    stored: dict[str, int],
    options: BuildOptions,
    folder: Path,
    complete: dict[str, tuple[int, int]],
) -> list[str]:
    """Disk and time of a build in words, from a few frames of a few files of each modality.

    `films` is the number of pairs, `decoded` and `stored` are the frames the build decodes and
    keeps, by modality; `complete` has both numbers (per modality) for datasets in full, by name.
    """
    size, seconds = 0.0, PACKING * films
    full = dict.fromkeys(complete, 0.0)
    full_seconds = dict.fromkeys(complete, 0.0)
    measured = {kind: [] for kind in MODALITIES}
    tried = [(kind, found) for kind in MODALITIES for found in _spread(samples[kind])]
    for (kind, _), cost in pool.in_workers(tried, functools.partial(_cost, options), 1):
        if isinstance(cost, _Cost):
            measured[kind].append(cost)
    for kind, costs in measured.items():
        if not samples[kind]:
            continue  # a folder of one modality
        if not costs:
            return ["no estimate: none of the samples could be read"]
        cost = _Cost(*(sum(column) / len(costs) for column in zip(*costs)))
        size += cost.bytes * stored[kind]
        seconds += (
            cost.opening * films + cost.decoding * decoded[kind] + cost.storing * stored[kind]
        )
        for name, (all_decoded, all_stored) in complete.items():
            full[name] += cost.bytes * all_stored
            full_seconds[name] += cost.decoding * all_decoded + cost.storing * all_stored
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return [
        f"disk: {size / 1e9:.2f} GB of records, as much again while building, "
        f"{free / 1e9:.2f} GB free",
        f"time: {_duration(STARTING + seconds / options.processes)} with {options.processes} "
        f"processes ({seconds / 3600:.1f} core hours; measured on {SAMPLES} files of each "
        "modality)",
        *(
            f"all of {name}: {full[name] / 1e9:.1f} GB, {full_seconds[name] / 3600:.1f} core hours "
            "at these rates"
            for name in complete
        ),
    ]


def _spread(files: list[Found]) -> Iterable[Found]:
    step = max(1, len(files) // SAMPLES)
    return files[step // 2 :: step][:SAMPLES]


class _Cost(NamedTuple):
    """Seconds to open a film, to decode a frame and to store one; bytes of a stored one."""

    opening: float
    decoding: float
    storing: float
    bytes: float


def _cost(options: BuildOptions, sample: tuple[str, Found]) -> _Cost | None:
    """Measured on the first frames of a film of a modality; None when none can be read."""
    kind, found = sample
    stored, sizes, count = 0.0, [], 0
    storage = FrameStorage(**options.storage)
    begin = time.perf_counter()
    try:
        with held(found.source) as source:
            film = Film(source)
            opening = bool(film.timing) and time.perf_counter() - begin
            begin = time.perf_counter()
            for shot in film.shots():
                if count % 6 == 0:
                    start = time.perf_counter()
                    image = shot.image(options.short_side, grey=kind == "infrared")
                    image = storage.range.levels(image)
                    sizes.append(len(encode_jpeg(image, options.quality)))
                    stored += time.perf_counter() - start
                count += 1
                if count == SAMPLE_FRAMES:
                    break
    except (VideoError, OSError, ValueError):
        if not sizes:
            return None
    decoding = (time.perf_counter() - begin - stored) / max(count, 1)
    return _Cost(opening, decoding, stored / len(sizes), sum(sizes) / len(sizes))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{max(1, minutes)} min"

"""What a build would find: tables, problems, and an estimate of disk and time, without building."""

import itertools
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from jax_irkd.tfds_builders._shared.cache import Skip
from jax_irkd.tfds_builders._shared.encoding import encode_jpeg
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.video.archives import Found, name_of
from jax_irkd.video.avi import Header, read_header
from jax_irkd.video.decoding import VideoError, iterate_frames, resize

SAMPLES, SAMPLE_FRAMES = 3, 48
USUAL_RATE = (29.0, 31.0)
MODALITIES = ("rgb", "infrared")


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
            table.add_row(*row)
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
    files: dict[tuple[str, str], Found], show: bool = True
) -> tuple[dict[tuple[str, str], Header], list[Skip]]:
    """Headers by (name, modality), and the files whose header tells that they are unusable.

    Files other than AVI are passed over: only decoding tells about them.
    """
    headers, unreadable = {}, []
    for key, found in track(files.items(), "reading headers", len(files), disable=not show):
        if not name_of(found.source).lower().endswith(".avi"):
            continue
        try:
            headers[key] = read_header(found.source, found.size)
        except ValueError as error:
            unreadable.append(Skip(name_of(found.source), "unreadable video", str(error)))
    return headers, unreadable


def odd_headers(headers: dict[tuple[str, str], Header], short: int) -> list[Skip]:
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
            if not USUAL_RATE[0] <= header.rate <= USUAL_RATE[1]:
                rate = f"{header.rate:.2f} frames per second"
                notes.append(Skip(label, "not 30 frames per second", rate))
            if (header.width, header.height) != usual:
                size = f"{header.width}x{header.height}, most are {usual[0]}x{usual[1]}"
                notes.append(Skip(label, "unusual picture size", size))
    return notes


def estimate(
    samples: dict[str, list[Found]],
    decoded: dict[str, int],
    stored: dict[str, int],
    options: BuildOptions,
    folder: Path,
    complete: dict[str, tuple[int, int]],
) -> list[str]:
    """Disk and time of a build in words, from a few frames of a few files of each modality.

    `decoded` and `stored` are the frames the build decodes and keeps, by modality; `complete` has
    both numbers (per modality) for datasets in full, by name.
    """
    size, seconds = 0.0, 0.0
    full = dict.fromkeys(complete, 0.0)
    full_seconds = dict.fromkeys(complete, 0.0)
    for kind in MODALITIES:
        costs = [_cost(found, kind, options) for found in _spread(samples[kind])]
        costs = [cost for cost in costs if cost]
        if not costs:
            return ["no estimate: none of the samples could be read"]
        decode, encode, byte = (sum(column) / len(costs) for column in zip(*costs))
        size += byte * stored[kind]
        seconds += decode * decoded[kind] + encode * stored[kind]
        for name, (all_decoded, all_stored) in complete.items():
            full[name] += byte * all_stored
            full_seconds[name] += decode * all_decoded + encode * all_stored
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return [
        f"disk: {size / 1e9:.2f} GB of records, as much again while building, "
        f"{free / 1e9:.2f} GB free",
        f"time: {_duration(seconds / options.processes)} with {options.processes} processes "
        f"({seconds / 3600:.1f} core hours; measured on {SAMPLES} files of each modality)",
        *(
            f"all of {name}: {full[name] / 1e9:.1f} GB, {full_seconds[name] / 3600:.1f} core hours "
            "at these rates"
            for name in complete
        ),
    ]


def _spread(files: list[Found]) -> Iterable[Found]:
    step = max(1, len(files) // SAMPLES)
    return files[step // 2 :: step][:SAMPLES]


def _cost(found: Found, kind: str, options: BuildOptions) -> tuple[float, float, float] | None:
    """Seconds to decode a frame, seconds and bytes to store one."""
    frames = iterate_frames(found.source)
    times, sizes = [0.0, 0.0], []
    try:
        for index in range(SAMPLE_FRAMES):
            begin = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                break
            times[0] += time.perf_counter() - begin
            if index % 6 == 0:
                begin = time.perf_counter()
                image = resize(frame, options.short_side)
                image = image[..., 0] if kind == "infrared" else image
                sizes.append(len(encode_jpeg(image, options.quality)))
                times[1] += time.perf_counter() - begin
    except VideoError:
        if not sizes:
            return None
    return (times[0] / (index + 1), times[1] / len(sizes), sum(sizes) / len(sizes))


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{max(1, minutes)} min"

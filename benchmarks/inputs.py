"""The input path from ArrayRecord to the device, stage by stage, beside decoding the source AVIs.

    python -m benchmarks.inputs [--clips=8] [--frames=90]

Films generated clips as NTU RGB+D stores them (1080p H.264 and 512x424 infrared), builds them with
the library's builder and reads 8 + 8 frames a clip: the share of every stage, whole batches by
threads and by processes, what glibc's malloc costs, what smaller JPEG decoding would save, and the
same frames decoded from the AVI files. "Per core" is one over the processor time of a clip. Needs
the package.
"""

import argparse
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import jax
import numpy as np

from benchmarks._measure import Result, Timing, alternate, make_parser, ratio, run, show, spread
from benchmarks._reading import (
    BATCH,
    NAME,
    SEGMENTS,
    WARM,
    all_records,
    consume,
    make_data,
    make_reader,
    processor_time,
)
from benchmarks._source_films import SIZES, by_seeking, from_avi
from jax_irkd.data import augment, loading
from jax_irkd.data.frames import fit
from jax_irkd.data.sampling import frame_indices, segment_positions
from jax_irkd.host import devices

RESOLUTION = 224
SMALL = {"rgb": (112, 150), "infrared": (112, 135)}  # what half of a stored frame covers
STAGES = ("read", "parse", "decode", "fit", "stack")


def stages(folder: Path, rounds: int) -> list[Result]:
    """Milliseconds of processor time of a clip in every stage on the host, then on the device."""
    dataset = loading.open_dataset(NAME, str(folder / "tfds"))
    sources = [source for source in dataset.splits.values() if len(source)]
    places = [(source, i) for source in sources for i in range(len(source))]
    spent = {name: [] for name in STAGES}
    rng, batch = np.random.default_rng(0), []
    for turn in range(rounds + 1):
        for source, index in places:
            marks = [time.process_time()]
            clip = _staged(source, index, segment_positions(SEGMENTS, rng), marks)
            batch = [*batch, clip][-BATCH:]
            for name, begin, end in zip(STAGES, marks, marks[1:]):
                if turn:  # The first round opens files.
                    spent[name].append(1e3 * (end - begin))
    made = [spread(spent[name]).result(f"{name}, a clip", "ms") for name in STAGES]
    whole = spread(map(sum, zip(*spent.values())))
    made.append(whole.result("all stages on the host, a clip", "ms"))
    return made + _device_stages(batch, rounds)


def _staged(source, index: int, positions: np.ndarray, marks: list[float]) -> dict:
    """What `ClipReader` does with a record, with the clock read after every stage."""

    def mark() -> None:
        marks.append(time.process_time())

    raw = source.data_source[index]
    mark()
    record = source.dataset_info.features.deserialize_example_np(raw, decoders=source.decoders)
    mark()
    encoded = {
        name: [record[name][i] for i in frame_indices(positions, len(record[name]))]
        for name in SIZES
    }
    frames = {name: [_decoded(data, name) for data in encoded[name]] for name in SIZES}
    mark()
    frames = {name: [fit(frame, SIZES[name]) for frame in frames[name]] for name in SIZES}
    mark()
    clip = {name: np.stack(frames[name]) for name in SIZES}
    clip["infrared"] = clip["infrared"][..., None]
    mark()
    return clip


def _decoded(data: bytes, modality: str, reduced: bool = False) -> np.ndarray:
    colour = cv2.IMREAD_REDUCED_COLOR_2 if reduced else cv2.IMREAD_COLOR_RGB
    grey = cv2.IMREAD_REDUCED_GRAYSCALE_2 if reduced else cv2.IMREAD_GRAYSCALE
    frame = cv2.imdecode(np.frombuffer(data, np.uint8), grey if modality == "infrared" else colour)
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if reduced and frame.ndim == 3 else frame


def _device_stages(clips: list[dict], rounds: int) -> list[Result]:
    """Copying a batch to the device, and augmenting it there, for one clip."""
    batch = {name: np.stack([clip[name] for clip in clips]) for name in SIZES}
    keys = jax.random.split(jax.random.key(0), len(clips))
    prepare = functools.partial(
        augment.prepare_training,
        resolution=RESOLUTION,
        scales=(1.0, 0.875, 0.75, 0.66),
        flip=True,
        colour_jitter=0.2,
    )
    prepare, there = jax.jit(prepare), jax.device_put(batch)
    timings = alternate(
        {
            "copy to the device": lambda: jax.block_until_ready(jax.device_put(batch)),
            "augment on the device": lambda: jax.block_until_ready(prepare(there, keys)),
        },
        max(3, rounds),
    )
    return [
        spread(1e3 * t / len(clips) for t in timing.wall).result(f"{name}, a clip", "ms")
        for name, timing in timings.items()
    ]


def pipelines(
    folder: Path, threads: list[int], processes: list[int], batches: int, repeats: int
) -> list[Result]:
    """Clips a second of whole pipelines on all cores, and of one core's processor time."""
    read = functools.partial(
        loading.training_batches, make_reader(folder), seed=0, batch_size=BATCH, first_step=0
    )
    makers: dict[str, Callable[[], Iterator]] = {
        f"{number} threads": functools.partial(read, threads=number) for number in threads
    }
    threads_of = list(makers)
    for number in processes:
        makers[f"{number} processes"] = functools.partial(read, processes=number)
    walls, cores = {name: [] for name in makers}, {name: [] for name in threads_of}
    for _ in range(repeats):
        for name, maker in makers.items():
            stream = maker()
            consume(stream, WARM)
            wall = time.perf_counter()
            consume(stream, batches)
            walls[name].append(batches * BATCH / (time.perf_counter() - wall))
            if name in threads_of:
                cores[name].append(1 / processor_time(stream, batches))
            stream.close()
    made = [spread(walls[name]).result(f"whole batches, {name}", "clips/s") for name in makers]
    best = max(cores, key=lambda name: np.median(cores[name]))
    return [
        *made,
        spread(cores[best]).result("input path, per core", "clips/s", "≥ 120", best),
    ]


def against_source(folder: Path, pairs: list[tuple[Path, Path]], rounds: int) -> list[Result]:
    """Ours, PyAV in order and OpenCV seeking, in turns, on one core."""
    reader, rng = make_reader(folder), np.random.default_rng(0)
    turn = iter(range(10**9))

    def one(read: Callable) -> Callable[[], None]:
        def call() -> None:
            read(next(turn) % len(pairs), segment_positions(SEGMENTS, rng))

        return call

    calls = {
        "ours": one(lambda index, _: reader(index, rng)),
        "PyAV in order": one(lambda index, positions: from_avi(pairs[index], positions)),
        "OpenCV seeking": one(lambda index, positions: by_seeking(pairs[index], positions)),
    }
    timings = alternate(calls, rounds * len(pairs))
    made = [
        spread(1 / t for t in timing.processor).result(f"{name}, per core", "clips/s")
        for name, timing in timings.items()
    ]
    for name in ("PyAV in order", "OpenCV seeking"):
        gain = ratio(timings[name], timings["ours"], "processor")
        made.append(gain.result(f"ours against {name} from the source AVI", "×", "≥ 10"))
    return made


def smaller(folder: Path, rounds: int) -> list[Result]:
    """Decoding JPEGs at half size where a small crop allows it: time, and how pixels differ."""
    records = all_records(folder)
    encoded = {name: list(records[0][name])[:SEGMENTS] for name in SMALL}

    def clip(reduced: bool) -> dict[str, np.ndarray]:
        return {
            name: np.stack([fit(_decoded(x, name, reduced), SMALL[name]) for x in encoded[name]])
            for name in SMALL
        }

    timings = alternate(
        {"whole": lambda: clip(False), "half": lambda: clip(True)}, 5 * max(1, rounds)
    )
    whole, half = clip(False), clip(True)
    made = []
    for name in SMALL:
        difference = np.abs(whole[name].astype(float) - half[name])
        made.append(
            Result(
                f"half-size JPEG decoding to {SMALL[name][0]} pixels, {name}: mean difference",
                float(difference.mean()),
                "grey levels",
                note=f"largest {difference.max():.0f}",
            )
        )
    gain = ratio(timings["whole"], timings["half"], "processor")
    return [gain.result("half-size JPEG decoding and fitting, speed", "×"), *made]


MALLOC = {
    "glibc's defaults": ({}, False),
    "MALLOC_ variables": (
        {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)},
        False,
    ),
    "as jax_irkd starts": ({}, True),
}


def malloc(folder: Path, batches: int, repeats: int) -> list[Result]:
    """Processor time of a clip under three settings of malloc, each in its own process."""
    found = {name: [] for name in MALLOC}
    for _ in range(repeats):
        for name, (variables, start) in MALLOC.items():
            command = [sys.executable, "-m", "benchmarks.inputs", "--worker", str(folder)]
            command += [f"--batches={batches}", *(["--start"] if start else [])]
            done = subprocess.run(
                command, env=os.environ | variables, capture_output=True, text=True, check=True
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    made = []
    for name, rows in found.items():
        faults = np.median([row["faults"] for row in rows])
        value = spread(row["milliseconds"] for row in rows)
        made.append(value.result(f"malloc: {name}, a clip", "ms", note=f"{faults:.0f} page faults"))
    default, ours = (
        Timing([], [row["milliseconds"] for row in found[name]])
        for name in ("glibc's defaults", "as jax_irkd starts")
    )
    gain = ratio(default, ours, "processor")
    return [*made, gain.result("malloc: gain of our settings", "×")]


def work(folder: Path, batches: int, start: bool) -> None:
    """In a process of its own: processor time and page faults of a clip, printed."""
    if start:
        devices.start("off")
    stream = loading.training_batches(
        make_reader(folder), seed=0, batch_size=BATCH, first_step=0, threads=2
    )
    consume(stream, WARM)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    spent = 1e3 * processor_time(stream, batches)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    faults /= batches * BATCH
    print(json.dumps({"milliseconds": spent, "faults": faults}))


def results(arguments: argparse.Namespace) -> list[Result]:
    """Everything this benchmark measures, printed as it comes."""
    devices.start("off")
    folder, made = Path(tempfile.mkdtemp()), []
    try:
        pairs = make_data(folder, arguments.clips, arguments.frames)
        rounds, repeats, batches = arguments.rounds, arguments.repeats, arguments.batches
        for part in (
            lambda: stages(folder, rounds),
            lambda: pipelines(folder, arguments.threads, arguments.processes, batches, repeats),
            lambda: against_source(folder, pairs, rounds),
            lambda: malloc(folder, batches, repeats),
            lambda: smaller(folder, rounds),
        ):
            found = part()
            show(found)
            made += found
    finally:
        shutil.rmtree(folder)
    return made


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them; none at all may be given."""
    return [int(part) for part in text.split(",") if part]


def parser() -> argparse.ArgumentParser:
    made = make_parser(__doc__)
    made.add_argument("--clips", type=int, default=8)
    made.add_argument("--frames", type=int, default=90, help="of a clip, as in NTU RGB+D")
    made.add_argument("--rounds", type=int, default=3, help="times every clip is read")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--batches", type=int, default=16, help=f"of {BATCH} clips in a measurement")
    made.add_argument("--threads", type=numbers, default=[1, 2, 4, 8])
    made.add_argument("--processes", type=numbers, default=[1, 2])
    made.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    return made


def main() -> None:
    arguments = parser().parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.batches, arguments.start)
    else:
        run("inputs", results, arguments, arguments.json)


if __name__ == "__main__":
    main()

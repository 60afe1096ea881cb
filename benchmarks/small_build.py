"""What the build of many small films costs beside the bare work, and what its digest costs.

    python -m benchmarks.small_build [--pairs=748 --turns=3]

Pairs of 320x240 films of 60 frames as NTU RGB+D stores them: eight films under many names. The
whole command of a build with one worker, start of Python included, and PyAV + OpenCV alone doing
the same work in a process of its own take turns; the share is of processor time, which a busy
machine changes less than the clock.
"""

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks._measure import Result, alternate, make_parser, run, show, spread
from benchmarks.build import write_film
from jax_irkd.data.synthetic import raw_ntu

SIZE, FRAMES, FILMS = (320, 240), 60, 8
DATASET = "ntu_rgbd_ir/ten"
ACTIONS, REPETITIONS = 10, 2


def film(raw: Path, pairs: int) -> None:
    """The first of every eight people is filmed, the others' films are links to theirs."""
    kept: dict[tuple[int, bool], Path] = {}
    for number in range(pairs):
        rest, action = divmod(number, ACTIONS)
        person, repetition = divmod(rest, REPETITIONS)
        key = f"S001C{person % 3 + 1:03d}P{person + 1:03d}R{repetition + 1:03d}A{action + 1:03d}"
        for path in raw_ntu.ntu_paths(raw, key):
            infrared = path.stem.endswith("_ir")
            path.parent.mkdir(parents=True, exist_ok=True)
            if source := kept.get((person % FILMS, infrared)):
                os.link(source, path)
                continue
            write_film(path, SIZE, FRAMES, person % FILMS)
            kept[person % FILMS, infrared] = path


def processor_seconds(command: list[str]) -> float:
    """Of all processes that `command` starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def digest_seconds(data: Path) -> float:
    """Processor time of the digest of all that was built; reading is not in it."""
    spent = 0.0
    for path in sorted(data.rglob("*array_record*")):
        content = path.read_bytes()
        begin = time.process_time()
        hashlib.sha256(content).digest()
        spent += time.process_time() - begin
    return spent


def opening(data: Path, repeats: int = 20) -> Result:
    """What opening the data set takes longer than by TFDS alone, which looks at no digest."""
    import tensorflow_datasets as tfds

    from jax_irkd.data import loading

    version = next(data.glob(f"{DATASET}/*/dataset_info.json")).parent
    calls = {
        "ours": lambda: loading.open_dataset(DATASET, str(data)),
        "TFDS": lambda: tfds.builder_from_directory(str(version)).as_data_source(),
    }
    timings = alternate(calls, repeats)
    ours, theirs = (1e3 * np.array(timings[name].wall) for name in calls)
    note = f"{np.median(ours):.1f} ms, TFDS alone {np.median(theirs):.1f}"
    return spread(ours - theirs).result("opening beside TFDS alone", "ms", "≤ 50", note)


def results(arguments: argparse.Namespace) -> list[Result]:
    """Everything this benchmark measures."""
    with tempfile.TemporaryDirectory() as folder:
        made = _results(Path(folder, "raw"), Path(folder, "data"), arguments)
    show(made)
    return made


def _results(raw: Path, data: Path, arguments: argparse.Namespace) -> list[Result]:
    film(raw, arguments.pairs)
    build = ["jax_irkd.build", DATASET, f"--manual_dir={raw}", f"--data_dir={data}", "--workers=1"]
    commands = {"bare": ["benchmarks._bare_video", str(raw)], "build": build}
    spent: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(arguments.turns):
        for name in list(commands)[:: -1 if turn % 2 else 1]:
            if name == "build":
                shutil.rmtree(data, ignore_errors=True)
            spent[name].append(processor_seconds(commands[name]))
    bare, ours = (np.array(spent[name]) for name in commands)
    note = f"{arguments.pairs} pairs, {np.median(ours):.1f} s for {np.median(bare):.1f}"
    return [
        spread(bare / ours).result("whole command: share of the bare one", "×", "≥ 0.85", note),
        Result("digest of what was built", 100 * digest_seconds(data) / ours[-1], "%", "≤ 2"),
        opening(data),
    ]


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=748)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    run("small_build", results, arguments, arguments.json)


if __name__ == "__main__":
    main()

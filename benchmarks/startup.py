"""How long a run takes to its first step, the first time and later; how much memory training takes.

    python -m benchmarks.startup [--repeats=1]

Every start is a process of its own with `configs/demo.py:method=ours` and an own XDG_CACHE_HOME:
empty the first time, with the compiled programs of the first the second time. The teacher is there
already. Memory is the peak of one process that trains teacher and student and writes their reports,
with nothing compiled before. Clips lie in memory, so that no data set has to be built.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from benchmarks._measure import Result, make_parser, peak_memory, run, show, spread

FRAME = (256, 340)
CLIPS = {"train": 16, "test": 32}  # a split
SECONDS = {"wall": "by the clock", "processor": "by processor time"}


class Start(NamedTuple):
    """Seconds from the command to the first step, on the clock and of all processors."""

    wall: float
    processor: float


def measure(repeats: int = 1) -> dict:
    """Pairs of first and second starts, and the peak memory in bytes at the end of every phase."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        peaks = _finish(_start(root / "whole", root / "cache"))
        pairs = [_pair(root / str(number), root / "whole" / "teacher") for number in range(repeats)]
    return {"starts": pairs, "peaks": peaks}


def results(arguments: argparse.Namespace) -> list[Result]:
    """Everything this benchmark measures."""
    found = measure(arguments.repeats)
    made = []
    for clock, name in SECONDS.items():
        first, second = ([getattr(pair[i], clock) for pair in found["starts"]] for i in (0, 1))
        made += [
            spread(first).result(f"start to first step, first time, {name}", "s"),
            spread(second).result(f"start to first step, second time, {name}", "s"),
            spread(b / a for a, b in zip(first, second)).result(
                f"start to first step, second over first, {name}", "", "≤ 0.35"
            ),
        ]
    said = ", ".join(f"{name} {peak / 1e9:.2f}" for name, peak in found["peaks"].items())
    peak = found["peaks"]["ours"] / 1e9
    made.append(
        Result("peak memory of training, demo", peak, "GB", "≤ 1.5", note=f"so far after: {said}")
    )
    show(made)
    return made


def _pair(root: Path, teacher: Path) -> tuple[Start, Start]:
    return tuple(_to_first_step(root / name, root / "cache", teacher) for name in ("a", "b"))


def _to_first_step(workdir: Path, cache: Path, teacher: Path) -> Start:
    """Waits until the student's first step is in the log, and ends the process then."""
    shutil.copytree(teacher, workdir / "teacher")
    begin = time.perf_counter()
    process = _start(workdir, cache)
    log = workdir / "ours" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.02)
    if process.poll() is not None:
        _finish(process)
        raise RuntimeError(f"the run in {workdir} ended before its first step was seen")
    taken = Start(time.perf_counter() - begin, _processor_seconds(process.pid))
    process.kill()
    process.communicate()
    return taken


def _processor_seconds(process: int) -> float:
    # Fields 14 and 15 of proc(5), user and system; the second, in brackets, may hold blanks.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _start(workdir: Path, cache: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.startup", "--worker", workdir],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen) -> dict:
    """What a worker says at its end. Raises RuntimeError when it has failed."""
    said, complaint = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {complaint[-2000:]}")
    return json.loads(said.splitlines()[-1])


def work(workdir: Path) -> None:
    """Train `ours` for a few steps as `python -m jax_irkd.main` would; print the peak memory."""
    from jax_irkd import algorithm
    from jax_irkd.configs import demo
    from jax_irkd.data import loading
    from jax_irkd.host import devices

    devices.start("off")
    config = demo.get_config("method=ours")
    config.allow_weak_teacher, config.log_every = True, 1
    for training in (config.teacher_training, config.student_training):
        training.num_epochs = training.eval_every = 2.0
    peaks = {"imports": peak_memory()}
    data = _dataset(config)
    loading.open_dataset = lambda *args: data
    algorithm.train_teacher(config, data, workdir)
    peaks["teacher"] = peak_memory()
    algorithm.run(config, workdir)
    peaks["ours"] = peak_memory()
    print(json.dumps(peaks))


def _dataset(config):
    """Noise as clips of ten classes, as large as built ones."""
    from jax_irkd.data.loading import Dataset

    rng = np.random.default_rng(0)
    names = {split for parts in config.dataset.protocols.cross_subject.values() for split in parts}
    splits = {
        name: [_record(rng, number) for number in range(CLIPS[name.partition("_")[0]])]
        for name in sorted(names)
    }
    return Dataset("noise/ten", tuple(f"class {i}" for i in range(10)), splits, "noise")


def _record(rng: np.random.Generator, number: int) -> dict:
    def frames(channels: int) -> list[bytes]:
        coarse = rng.integers(0, 256, (16, 16, channels), dtype=np.uint8)
        image = cv2.resize(coarse, FRAME[::-1], interpolation=cv2.INTER_CUBIC)
        return [cv2.imencode(".jpg", image)[1].tobytes()] * 30

    return {
        "clip_id": f"noise-{number:03d}",
        "label": number % 10,
        "rgb": frames(3),
        "infrared": frames(1),
    }


def parser() -> argparse.ArgumentParser:
    made = make_parser(__doc__)
    made.add_argument("--repeats", type=int, default=1)
    made.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    given = parser().parse_args()
    if given.worker:
        work(given.worker)
    else:
        run("startup", results, given, given.json)

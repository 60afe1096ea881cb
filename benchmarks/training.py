"""A run as users start it, on films of NTU RGB+D's size: its rate, and the time it waits for data.

    python -m benchmarks.training [--clips=8,32] [--steps=120] [--films=160] [--threads=8]

Films and builds pairs as `benchmarks.inputs` does, then `python -m jax_irkd.main` with
configs/ntu.py trains teacher and student from nothing, once for every number of clips a step: how
many updates a second the commands reach with reading, decoding, copying and logging, where
`benchmarks.step` has its clips on the device. The first `log_every` updates, which compile, are
left out. Needs the package.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._measure import Result, make_parser, run, show, spread
from benchmarks._reading import make_data
from benchmarks.inputs import numbers
from jax_irkd.host import processor

TARGET = "≤ 5"
ROLES = {"teacher": "teacher", "ours": "student (DKD + MGCAM)"}
EVERY = 20  # updates between two lines of the log


def train(folder: Path, films: int, clips: int, steps: int, threads: int) -> list[Result]:
    """What teacher and student, each of `steps` updates, say of themselves."""
    workdir = folder / f"runs{clips}"
    epochs = epochs_of(steps, clips, films)
    command = [sys.executable, "-m", "jax_irkd.main", "--config=configs/ntu.py:method=ours"]
    command += [f"--workdir={workdir}", f"--config.dataset.data_dir={folder / 'tfds'}"]
    command += [f"--config.input.threads={threads}", f"--config.log_every={EVERY}"]
    for role in ("teacher", "student"):
        # Grain shuffles very short data sets slowly: 0.5 ms a clip of 80, 0.02 of 6,720.
        command.append(f"--config.{role}_training.sampling=balanced")
        command.append(f"--config.{role}_training.batch_size={clips}")
        command.append(f"--config.{role}_training.num_epochs={epochs}")
        command.append(f"--config.{role}_training.eval_every={epochs}")
    subprocess.run(command, check=True)
    return [result for name in ROLES for result in said(workdir / name, clips)]


def epochs_of(steps: int, clips: int, films: int) -> float:
    """Epochs that take `steps` updates; half of NTU's forty subjects train.

    Clips that do not fill a step are left out of an epoch.
    """
    return steps / max(films // 2 // clips, 1)


def said(run_folder: Path, clips: int) -> list[Result]:
    """Updates a second, and the share of the time between them that passed without a batch."""
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "time"][1:]
    parts = [{name: row[name] for name in row if name.startswith("ms/")} for row in rows]
    waited = spread(100 * part["ms/data"] / sum(part.values()) for part in parts)
    rates = [row["steps_per_s"] for row in rows]
    title = f"{ROLES[run_folder.name]}, {clips} clips a step"
    return [
        spread(rates).result(title, "updates/s"),
        spread(clips * rate for rate in rates).result(title, "clips/s"),
        waited.result(f"{title}: time waiting for data", "%", TARGET),
    ]


def results(arguments: argparse.Namespace) -> list[Result]:
    """Everything this benchmark measures, printed as it comes."""
    made = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, arguments.films, arguments.frames, processor.cores())
        for clips in arguments.clips:
            made += train(folder, arguments.films, clips, arguments.steps, arguments.threads)
            show(made[-3 * len(ROLES) :])
    return made


def parser() -> argparse.ArgumentParser:
    made = make_parser(__doc__)
    made.add_argument("--clips", type=numbers, default=[8], help="of a step, as 8,32")
    made.add_argument("--steps", type=int, default=120, help="updates of each network")
    made.add_argument("--films", type=int, default=160, help="a multiple of 40; half of them train")
    made.add_argument("--frames", type=int, default=90)
    made.add_argument("--threads", type=int, default=processor.cores(), help="that read clips")
    return made


def main() -> None:
    arguments = parser().parse_args()
    run("training", results, arguments, arguments.json)


if __name__ == "__main__":
    main()

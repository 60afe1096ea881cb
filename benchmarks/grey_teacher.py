"""Does the teacher read colour? Its top-1 on the test clips and on the same clips in grey.

    python -m benchmarks.grey_teacher --runs=runs/demo

What only colour tells cannot be learnt from infrared: a teacher to learn from stays within 15
points of itself in grey, and leads infrared only in every class. RUNS holds the finished runs
`teacher` and, for the comparison by class, `baseline`. Not part of `python -m benchmarks`: it
measures a run.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from benchmarks._measure import Result, show
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.runs.network import load_network
from jax_irkd.training.evaluation import Scores, evaluate
from jax_irkd.training.setup import make_reader

LUMA = np.array([0.299, 0.587, 0.114])


class GreyReader(loading.ClipReader):
    """Reads RGB frames as their luma in all three channels."""

    def _decode(self, frames, positions, modality):
        clip = super()._decode(frames, positions, modality)
        return np.repeat(np.rint(clip @ LUMA).astype(np.uint8)[..., None], 3, axis=-1)


def by_class(scores: Scores, classes: int) -> np.ndarray:
    """Share of each class that is recognised."""
    right = scores.logits.argmax(-1) == scores.labels
    return np.array([right[scores.labels == k].mean() for k in range(classes)])


def measure(runs: Path) -> list[tuple[str, np.ndarray]]:
    """Named columns of top-1 by class, the mean over all classes last."""
    network, meta = load_network(runs / "teacher")
    config, names = ConfigDict(meta["config"]), meta["class_names"]
    dataset = loading.open_dataset(config.dataset.name, config.dataset.data_dir)
    colour = make_reader(config, dataset, "test", ("rgb",))
    fields = {field.name: getattr(colour, field.name) for field in dataclasses.fields(colour)}
    columns = [
        ("teacher", by_class(evaluate(network, config, colour), len(names))),
        ("in grey", by_class(evaluate(network, config, GreyReader(**fields)), len(names))),
    ]
    if (runs / "baseline").is_dir():
        network, _ = load_network(runs / "baseline")
        infrared = make_reader(config, dataset, "test", ("infrared",))
        columns.append(("infrared", by_class(evaluate(network, config, infrared), len(names))))
    shown = [(title, np.append(values, values.mean())) for title, values in columns]
    return [("", np.array([*names, "mean of the classes"])), *shown]


def limits(columns: list[tuple[str, np.ndarray]]) -> list[Result]:
    """What grey takes from the teacher, and by how much it leads infrared only where least."""
    found = dict(columns)
    names, teacher = found.pop(""), found["teacher"]
    lost = 100 * (teacher - found["in grey"])[-1]
    made = [Result("what the teacher loses in grey", lost, "points", "≤ 15")]
    if "infrared" in found:
        lead = 100 * (teacher - found["infrared"])[:-1]
        title, worst = "its least lead over infrared only in a class", lead.argmin()
        made.append(Result(title, lead[worst], "points", "≥ 0", note=names[worst]))
    return made


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.grey_teacher", description="Does the teacher read colour?"
    )
    parser.add_argument("--runs", required=True, type=Path, help="holds the run `teacher`")
    try:
        made = measure(parser.parse_args(arguments).runs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (_, names), *columns = made
    print(" " * 36 + "".join(f"{title:>10}" for title, _ in columns))
    for row, name in enumerate(names):
        print(f"{name[:35]:36}" + "".join(f"{100 * values[row]:9.1f}%" for _, values in columns))
    show(limits(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What every run of a study answered to every test clip, as a table that outlives the runs.

Every difference between two methods, of a study or of several on the same clips, can be computed
from it again: `read` it and hand `right` to `metrics.significance`.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jax_irkd.data.groups import performances_of
from jax_irkd.errors import UserError, nearest, one_line
from jax_irkd.metrics import significance
from jax_irkd.runs.results import Run

ANSWERS = "answers.csv"
FIRST = ["clip", "label"]
Key = tuple[int, str]  # (seed, method), as everywhere in studies
NONE = -1  # of a run that could not read the clip


class Answers(NamedTuple):
    """Class numbers from 0 on; of `runs` one a clip, in the order of `clip_ids`."""

    clip_ids: list[str]
    labels: Int[np.ndarray, " n"]
    runs: dict[Key, Int[np.ndarray, " n"]]

    def right(self, keys: list[Key]) -> Bool[np.ndarray, "s n"]:
        """Which clips each of the runs got right. Raises ValueError where one could not read some:
        `of` leaves these out."""
        for key in keys:
            unread = np.flatnonzero(self.runs[key] == NONE)
            if unread.size:
                raise ValueError(f"{key} has no answer to {self.clip_ids[unread[0]]}")
        return np.stack([self.runs[key] == self.labels for key in keys])

    def of(self, keys: list[Key]) -> "Answers":
        """The clips that all of these runs could read: what a comparison of them is about."""
        kept = np.all([self.runs[key] != NONE for key in keys], axis=0)
        clips = [clip for clip, there in zip(self.clip_ids, kept) if there]
        return Answers(clips, self.labels[kept], {key: self.runs[key][kept] for key in keys})


def write(runs: Mapping[Key, Run]) -> str:
    """The table of `runs`; those without scores are not in it. Empty when none has any."""
    scored = {key: run for key, run in sorted(runs.items()) if run.logits is not None}
    labels: dict[str, int] = {}
    answers: dict[Key, dict[str, int]] = {}
    for key, run in scored.items():
        clips = run.clip_ids.tolist()
        labels |= zip(clips, run.labels.tolist(), strict=True)
        answers[key] = dict(zip(clips, run.logits.argmax(1).tolist(), strict=True))
    if not labels:
        return ""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*FIRST, *(f"seed{seed}/{method}" for seed, method in scored)])
    for clip in sorted(labels):
        rows.writerow([clip, labels[clip], *(given.get(clip, "") for given in answers.values())])
    return text.getvalue()


def read(path: str | Path) -> Answers:
    """The table in a file. Raises UserError when it cannot be read or is none."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            first, *rows = csv.reader(file)
        if first[:2] != FIRST or not rows:
            raise ValueError(f"its columns are {first}")
        clips, labels, *given = zip(*rows, strict=True)
        runs = {_key(name): _numbers(column) for name, column in zip(first[2:], given, strict=True)}
        return Answers(list(clips), _numbers(labels), runs)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is no {ANSWERS} of a study: {one_line(error)}") from error


def joined(paths: Sequence[str | Path]) -> Answers:
    """The runs of several tables. Raises UserError unless they are of the same test clips."""
    first, *others = (read(path) for path in paths)
    runs = dict(first.runs)
    for path, other in zip(paths[1:], others, strict=True):
        if other.clip_ids != first.clip_ids or not np.array_equal(other.labels, first.labels):
            raise UserError(f"{paths[0]} and {path} are of different test clips")
        for (seed, method), given in other.runs.items():
            if not np.array_equal(runs.setdefault((seed, method), given), given):
                raise UserError(
                    f"{path} has other answers of seed{seed}/{method} than the files before it: "
                    "two runs of one name cannot be compared together"
                )
    return first._replace(runs=runs)


class Compared(NamedTuple):
    """A method beside another, over the seeds that both have."""

    method: str
    seeds: list[int]
    top1: float
    difference: significance.PairedInterval
    by_seed: list[float]
    p_holm: float


def compare(answers: Answers, against: str) -> list[Compared]:
    """Every student beside `against`, the largest gain first.

    Raises UserError where no run is of `against`.
    """
    methods = list(dict.fromkeys(method for _, method in answers.runs))
    if against not in methods:
        raise UserError(f"no run of {against!r} to compare with{nearest(against, methods)}")
    found = []
    for method in methods:
        seeds = [s for s, name in answers.runs if name == method and (s, against) in answers.runs]
        if method in (against, "teacher") or not seeds:
            continue
        pairs = [[(s, name) for s in seeds] for name in (method, against)]
        shared = answers.of(pairs[0] + pairs[1])
        if not shared.clip_ids:
            raise UserError(f"{method} and {against} could read no clip that the other could, too")
        right, theirs = map(shared.right, pairs)
        gains = right.mean(axis=1) - theirs.mean(axis=1)
        shown = performances_of(shared.clip_ids)
        difference = significance.paired_bootstrap(right, theirs, performances=shown)
        found.append(Compared(method, seeds, right.mean(), difference, gains.tolist(), np.nan))
    corrected = significance.holm([one.difference.p_value for one in found])
    found = [one._replace(p_holm=p) for one, p in zip(found, corrected, strict=True)]
    return sorted(found, key=lambda one: -one.difference.difference)


def _key(name: str) -> Key:
    folder, method = name.split("/", 1)
    return int(folder.removeprefix("seed")), method


def _numbers(column: tuple[str, ...]) -> Int[np.ndarray, " n"]:
    return np.array([int(answer) if answer else NONE for answer in column])

"""How hard each distillation term of a run pulled beside the labels, from its log."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_irkd.reporting.sections import Section, table_section
from jax_irkd.runs.results import Run, number

TITLE = "Pull of each term"
LEAD = (
    "Pull: length of the term's gradient to the student's parameters over that of the "
    "cross-entropy's, in the batches in which both were measured (median [quartiles]). Cosine: of "
    "the two gradients; below 0 the term works against the labels. Share: where the pull is held; "
    "without one the weight is fixed."
)
HEADERS = ("term", "share", "pull", "cosine", "weight, first to last", "batches")


def pulls_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What runs of one method measured of each term, JSON-ready, in the order of their logs.

    `pull` and `cosine` are quartiles over the batches of all runs, `weight` the first and the last
    one (means over the runs), None where it is fixed.
    """
    logs = [[line for line in run.log if line.get("kind") == "train"] for run in runs]
    keys = [key for log in logs for line in log for key in line if key.endswith("/pull")]
    found = []
    for name in dict.fromkeys(key.removesuffix("/pull") for key in keys):
        pulls, cosines, weights = (
            [_values(log, f"{name}/{kind}") for log in logs]
            for kind in ("pull", "cosine", "weight")
        )
        ends = [(own[0], own[-1]) for own in weights if own]
        if any(pulls) and any(cosines):
            pull = {"name": name, "share": _share(runs[0], name), "batches": sum(map(len, pulls))}
            pull |= {"pull": _quartiles(pulls), "cosine": _quartiles(cosines)}
            found.append(pull | {"weight": np.mean(ends, axis=0).tolist() if ends else None})
    return found


def _values(log: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    values = [number(line.get(key)) for line in log]
    return [value for value in values if value is not None]


def _quartiles(values: Sequence[Sequence[float]]) -> list[float]:
    return np.percentile([value for own in values for value in own], (25, 50, 75)).tolist()


def _share(run: Run, name: str) -> float | None:
    fields = (run.results.get("config") or {}).get("distillers") or {}
    return number((fields.get(name) or {}).get("share"))


def rows(pulls: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Cells below `HEADERS`."""
    return [
        [
            pull["name"],
            "–" if pull["share"] is None else f"{pull['share']:g}",
            _spread(pull["pull"]),
            _spread(pull["cosine"]),
            "fixed" if pull["weight"] is None else " to ".join(f"{w:.3g}" for w in pull["weight"]),
            str(pull["batches"]),
        ]
        for pull in pulls
    ]


def section(run: Run) -> list[Section]:
    """The table of a run's page; none where nothing was measured."""
    found = pulls_of([run])
    return [table_section(TITLE, HEADERS, rows(found), LEAD)] if found else []


def _spread(quartiles: Sequence[float]) -> str:
    low, middle, high = (f"{round(value, 2) + 0.0:.2f}" for value in quartiles)
    return f"{middle} [{low}, {high}]"

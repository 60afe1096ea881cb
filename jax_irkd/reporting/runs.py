"""Finished runs as a report sees them: who is compared with whom, and how figures are worded."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jax_irkd import statistics

TITLES = {
    "teacher": "RGB teacher",
    "baseline": "Infrared only",
    "ours": "Ours (DKD + MGCAM)",
    "dkd": "DKD",
    "mgcam": "MGCAM",
    "tstdd": "TSTDDs",
    "ccskd": "CCSKD",
}


class Run(NamedTuple):
    """A finished run: its folder, results.json, metrics.jsonl and, where saved, its scores."""

    name: str
    folder: Path
    results: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    clip_ids: np.ndarray | None
    labels: Int[np.ndarray, " n"] | None
    logits: Float[np.ndarray, "n k"] | None

    @property
    def method(self) -> str:
        return self.results.get("method", self.name)

    @property
    def title(self) -> str:
        title = TITLES.get(self.method, self.method.upper())
        return title if self.name == self.method else f"{title}, {self.name}"

    @property
    def colour(self) -> str:
        return self.method if self.method in ("teacher", "baseline") else "student"

    @property
    def class_names(self) -> list[str]:
        names = self.results.get("class_names")
        if names is None:
            count = 0 if self.logits is None else self.logits.shape[1]
            names = [f"class {index}" for index in range(count)]
        return [str(name) for name in names]

    def figure(self, key: str) -> float | None:
        """A test figure, None where it is missing or not a number."""
        return number(self.results.get("metrics", {}).get(key))


class Cast(NamedTuple):
    """The run in focus and those it is compared with; figures of an absent teacher may be known."""

    focus: Run
    teacher: Run | None
    baseline: Run | None
    metric: str
    teacher_figure: float | None

    @property
    def student(self) -> bool:
        return self.focus.colour == "student"

    @property
    def networks(self) -> list[Run]:
        """Teacher, baseline and the focus, each once, where they are there."""
        runs = [self.teacher, self.baseline, self.focus]
        return [r for i, r in enumerate(runs) if r is not None and r not in runs[:i]]


def cast_of(focus: Run, runs: Sequence[Run]) -> Cast:
    def find(method):
        same = [r for r in runs if r.method == method and _comparable(r, focus)]
        seeds = [r for r in same if r.results.get("seed") == focus.results.get("seed")]
        return (seeds or same or [None])[0]

    metric = "mAP" if str(focus.results.get("dataset", "")).startswith("pku") else "top1"
    teacher = focus if focus.method == "teacher" else find("teacher")
    baseline = focus if focus.method == "baseline" else find("baseline")
    known = number((focus.results.get("teacher") or {}).get(metric))
    figure = teacher.figure(metric) if teacher else known
    return Cast(focus, teacher, baseline, metric, figure)


def _comparable(run: Run, focus: Run) -> bool:
    keys = ("dataset", "protocol", "class_names")
    return all(run.results.get(key) == focus.results.get(key) for key in keys)


def gap_share(cast: Cast) -> float | None:
    """Share of the gap the focus closes; None where an end of it is not known, or there is none."""
    value, before = cast.focus.figure(cast.metric), None
    if cast.baseline is not None:
        before = cast.baseline.figure(cast.metric)
    if None in (value, before, cast.teacher_figure):
        return None
    share = statistics.gap_closed(cast.teacher_figure, before, value)
    return None if math.isnan(share) else share


def paired(first: Run, second: Run):
    """Logits and labels of two runs over the same clips in the same order, else None."""
    if first.logits is None or second.logits is None:
        return None
    orders = [np.argsort(run.clip_ids, kind="stable") for run in (first, second)]
    ids = [run.clip_ids[order] for run, order in zip((first, second), orders)]
    if not np.array_equal(*ids):
        return None
    pair = [(run.logits[o], run.labels[o]) for run, o in zip((first, second), orders)]
    return pair if np.array_equal(pair[0][1], pair[1][1]) else None


def colour_of(run: Run, shown: Sequence[Run]) -> str:
    """teacher, baseline or student by role; students but the last get colours of their own."""
    if run.colour != "student":
        return run.colour
    students = [other for other in shown if other.colour == "student"]
    place = len(students) - 1 - students.index(run)
    return "student" if place == 0 else f"other{(place - 1) % 8}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as sorted (dotted name, value) pairs."""
    rows = []
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "" if value is None else str(value)))
    return rows


def duration(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 12 min 5 s, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def metric_name(metric: str) -> str:
    return {"top1": "top-1"}.get(metric, metric)


def number(value: Any) -> float | None:
    ok = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if ok else None


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"

"""Who is compared with whom."""

from collections.abc import Sequence
from typing import NamedTuple

from jax_irkd.runs.results import Run, number


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

    metric = focus.metric
    teacher = focus if focus.method == "teacher" else find("teacher")
    baseline = focus if focus.method == "baseline" else find("baseline")
    known = number((focus.results.get("teacher") or {}).get(metric))
    figure = teacher.figure(metric) if teacher else known
    return Cast(focus, teacher, baseline, metric, figure)


def _comparable(run: Run, focus: Run) -> bool:
    keys = ("dataset", "protocol", "class_names")
    return all(run.results.get(key) == focus.results.get(key) for key in keys)


def colour_of(run: Run, shown: Sequence[Run]) -> str:
    """teacher, baseline or student by role; students but the last get colours of their own."""
    if run.colour != "student":
        return run.colour
    students = [other for other in shown if other.colour == "student"]
    place = len(students) - 1 - students.index(run)
    return "student" if place == 0 else f"other{(place - 1) % 8}"

"""Who is compared with whom."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_irkd.runs.identity import settings_of
from jax_irkd.runs.results import Run, number

_DATA = ("dataset", "protocol", "class_names")
_FOUND = ("fingerprint", "computed_in")  # where a run was made; older ones do not tell


class Cast(NamedTuple):
    """The run in focus and those it is compared with; figures of an absent teacher may be known.

    `others` are runs of other seeds, of whatever method.
    """

    focus: Run
    teacher: Run | None
    baseline: Run | None
    metric: str
    teacher_figure: float | None
    others: tuple[Run, ...] = ()

    @property
    def student(self) -> bool:
        return self.focus.colour == "student"

    @property
    def networks(self) -> list[Run]:
        """Teacher, baseline and the focus, each once, where they are there."""
        runs = [self.teacher, self.baseline, self.focus]
        return [r for i, r in enumerate(runs) if r is not None and r not in runs[:i]]

    def seeds(self, run: Run) -> list[Run]:
        """`run` and the same experiment with other seeds."""
        return seeds_of(run, self.others)

    def together(self, *wanted: Run | None) -> list[list[Run]]:
        """Of each of `wanted` its runs with the seeds that all of them have; empty if one is not.

        The focus's own seed always comes first.
        """
        if None in wanted:
            return []
        if len({_seed(run) for run in wanted}) > 1:  # of different seeds: only themselves fit
            return [[run] for run in wanted]
        groups = [{_seed(run): run for run in self.seeds(first)} for first in wanted]
        shared = [seed for seed in groups[0] if all(seed in group for group in groups)]
        return [[group[seed] for seed in shared] for group in groups]

    def mean(self, run: Run | None, key: str) -> float | None:
        """The mean of a test figure of `run` over its seeds."""
        known = [] if run is None else figures(self.seeds(run), key)
        return float(np.mean(known)) if known else None


def cast_of(focus: Run, runs: Sequence[Run], others: Sequence[Run] = ()) -> Cast:
    """The cast of `focus` among `runs`; `others` lie beside them, with other seeds."""

    def find(method):
        same = [r for r in runs if r.method == method and not misfits(r, focus)]
        seeds = [r for r in same if _seed(r) == _seed(focus)]
        return (seeds or same or [None])[0]

    metric = focus.metric
    teacher = focus if focus.method == "teacher" else find("teacher")
    baseline = focus if focus.method == "baseline" else find("baseline")
    known = number((focus.results.get("teacher") or {}).get(metric))
    cast = Cast(focus, teacher, baseline, metric, known, tuple(others))
    return cast._replace(teacher_figure=cast.mean(teacher, metric)) if teacher else cast


def seeds_of(run: Run, others: Sequence[Run]) -> list[Run]:
    """`run` and those of `others` that differ from it in nothing but their seed."""
    found = {_seed(run): run}
    for other in others:
        same = other.method == run.method and _comparable(other, run)
        if same and _settings(other) == _settings(run) and _computed_alike(other, run):
            found.setdefault(_seed(other), other)
    return list(found.values())


def misfits(measure: Run, run: Run) -> list[str]:
    """Why `run` is not to be compared with `measure`, a teacher or a baseline, in words.

    None where the two agree in data, input and tests, and in how a network of the measure's role
    is trained. A teacher of theirs brought from elsewhere is known by its figures. Seed, commit
    and how fast they ran do not count, nor what results do not tell.
    """
    found = [
        f"{key} is {_short(held)}, not {_short(wanted)}"
        for key in (*_DATA, *_FOUND)
        if (held := measure.results.get(key)) != (wanted := run.results.get(key))
        and (key in _DATA or None not in (held, wanted))
    ]
    configs = [of.results.get("config") or {} for of in (measure, run)]
    if found or not all(configs):
        return found
    if measure.method == "teacher" and configs[1].get("teacher") and configs[1].get("distillers"):
        same = _has_figures(measure, run.results.get("teacher"))
        return [] if same else [f"the students learnt from {configs[1]['teacher']}"]
    # What a teacher's run says of students, or a baseline's of teachers, was not put to use.
    role = "teacher" if measure.method == "teacher" else "student"
    role = "" if {measure.method, run.method} == {"teacher", "baseline"} else role
    held, wanted = (settings_of(config, role) for config in configs)
    for kept, config in zip((held, wanted), configs) if role else ():  # wherever the file lies
        kept["weights"] = Path((config.get("weights") or {}).get(role) or "").name
    return [
        f"{name} is {_short(held.get(name))}, not {_short(wanted.get(name))}"
        for name in sorted(set(held) | set(wanted))
        if held.get(name) != wanted.get(name)
    ]


def figures(runs: Sequence[Run], key: str) -> list[float]:
    """A test figure of every run that has it."""
    return [value for run in runs if (value := run.figure(key)) is not None]


def pooled(runs: Sequence[Run], count: Callable[[Run], np.ndarray]) -> np.ndarray | None:
    """Counts added over the runs that have scores; None where none has."""
    known = [count(run) for run in runs if run.logits is not None]
    return sum(known[1:], known[0]) if known else None


def _comparable(run: Run, focus: Run) -> bool:
    return all(run.results.get(key) == focus.results.get(key) for key in _DATA)


def _computed_alike(run: Run, other: Run) -> bool:
    """Not one in bfloat16 on a GPU and one in float32 on a CPU, which dtype=auto makes."""
    types = {of.results.get("computed_in") for of in (run, other)}
    return len(types - {None}) < 2


def _has_figures(teacher: Run, known: Mapping[str, Any] | None) -> bool:
    """Whether these are the figures of `teacher`, as its students write them down."""
    keys = ("top1", "mean_class_accuracy", "mAP")
    return all(number((known or {}).get(key)) == teacher.figure(key) for key in keys)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:59]}…"


def _seed(run: Run) -> Any:
    return run.results.get("seed")


def _settings(run: Run) -> tuple:
    config = run.results.get("config") or {}
    both = [settings_of(config, role) for role in ("teacher", "student")]
    return *both, config.get("distillers")


def colour_of(run: Run, shown: Sequence[Run]) -> str:
    """teacher, baseline or student by role; students but the last get colours of their own."""
    if run.colour != "student":
        return run.colour
    students = [other for other in shown if other.colour == "student"]
    place = len(students) - 1 - students.index(run)
    return "student" if place == 0 else other_colour(place - 1)


def other_colour(place: int) -> str:
    """Eight colours; from the ninth on they come again with dashed lines and hollow marks."""
    return f"other{place % 8}" + " second" * (place // 8 % 2)

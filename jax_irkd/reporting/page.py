"""What a report says: runs in, the parts of a page out. Pure; `reporting.write` reads and writes.

A page has one run in focus (the student it is about) and compares it with the RGB teacher and the
infrared-only baseline where those are there. What is missing becomes a sentence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_irkd.errors import plural
from jax_irkd.metrics import classification
from jax_irkd.reporting import analysis, calibrated, charts, pulls, verdict
from jax_irkd.reporting.comparison import Cast, cast_of, colour_of, figures
from jax_irkd.reporting.paper import paper_rows
from jax_irkd.reporting.wording import duration, flatten, metric_name, percent
from jax_irkd.runs.results import Run, data_of, number, title_of

COLUMNS = ("seeds", "top-1", "top-5", "class acc.", "mAP", "NLL", "ECE", "gap closed", "steps")
_KEYS = {"top-1": "top1", "top-5": "top5", "class acc.": "mean_class_accuracy"}
_KEYS |= {"mAP": "mAP", "NLL": "nll", "ECE": "ece"}
_SMALLER = ("NLL", "ECE")  # is better


def page_of_run(run: Run, runs: Sequence[Run], sections: Sequence, others=()) -> dict[str, Any]:
    """Everything the template shows on the page of one run; `others` are runs of other seeds."""
    cast = cast_of(run, runs, others)
    shown = cast.networks
    return _page(cast, shown, run.title, sections, [cast.focus])


def page_of_all(name: str, runs: Sequence[Run], sections: Sequence, others=()) -> dict[str, Any]:
    """The page of a workdir: every run in the table and the curves, the last student in focus."""
    students = [run for run in runs if run.colour == "student"]
    cast = cast_of((students or list(runs))[-1], runs, others)
    return _page(cast, runs, name or "runs", sections, runs)


def headline_rows(runs: Sequence[Run], others: Sequence[Run] = ()) -> list[dict[str, Any]]:
    """One row per network: title, colour, formatted cells by column; over its seeds in `others`."""
    return [_row(run, cast_of(run, runs, others)) for run in runs]


def _page(cast: Cast, shown: Sequence[Run], title: str, sections: Sequence, made: Sequence[Run]):
    evidence = verdict.evidence_of(cast)
    return {
        "title": title,
        "eyebrow": _eyebrow(cast),
        "verdict": verdict.headline(cast, evidence),
        "explained": verdict.sentences(cast, evidence),
        "track": _track(cast, shown),
        "columns": _columns(cast),
        "rows": _headline(cast, shown),
        "notes": _notes(cast),
        "paper": paper_rows(cast.focus, shown, cast.mean),
        "curves": analysis.curves(cast, shown),
        "title_of": title_of,
        "shown": lambda value: percent(value, 2),
        "roles": [(run.title, run.colour) for run in cast.networks if run.logits is not None],
        "legend": [(run.title, colour_of(run, shown)) for run in shown],
        "confusions": analysis.confusions(cast),
        "changes": analysis.changes(cast),
        "classes": analysis.classes(cast),
        "calibration": analysis.calibration(cast),
        "seeds": len(cast.seeds(cast.focus)),
        "seed": cast.focus.results.get("seed"),
        "sections": _sections(cast, sections, made),
        "made": [_made(run) for run in made],
    }


def _eyebrow(cast: Cast) -> list[str]:
    """Data, protocol, seeds and the number of test clips."""
    results = cast.focus.results
    found = [data_of(results)] if results.get("dataset") else []
    if results.get("protocol"):
        found.append(str(results["protocol"]).replace("_", " "))
    seeds = [run.results.get("seed") for run in cast.seeds(cast.focus)]
    if None not in seeds:
        found.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}")
    clips = results.get("num_clips")
    return [*found, *([plural(clips, "test clip")] if clips else [])]


def _columns(cast: Cast) -> list[str]:
    """Those with something to say: top-5 of five classes is always right."""
    left = set() if len(cast.focus.class_names) > 5 else {"top-5"}
    left |= set() if cast.others else {"seeds"}
    return [column for column in COLUMNS if column not in left]


def _sections(cast: Cast, given: Sequence, made: Sequence[Run]) -> list[dict[str, Any]]:
    """Those of the focus, then the given ones; `alone` where a section speaks for one seed only.

    On the page of one run all do, on the page of all those of the focus.
    """
    own = [*calibrated.section(cast.focus), *pulls.section(cast.focus)]
    several = len(cast.seeds(cast.focus)) > 1
    alone = [several] * len(own) + [several and len(made) == 1] * len(given)
    return [s._asdict() | {"alone": flag} for s, flag in zip([*own, *given], alone)]


def _track(cast: Cast, shown: Sequence[Run]) -> dict[str, Any] | None:
    """Positions in percent on a line from below the worst to above the best figure."""
    marks = [(run.title, cast.mean(run, cast.metric), colour_of(run, shown)) for run in shown]
    if cast.teacher is None and cast.teacher_figure is not None:
        marks.insert(0, ("RGB teacher", cast.teacher_figure, "teacher"))
    marks = [mark for mark in marks if mark[1] is not None]
    if len(marks) < 2:
        return None
    low, high = min(m[1] for m in marks), max(m[1] for m in marks)
    pad = max(0.12 * (high - low), 0.01)
    low, high = max(low - pad, 0.0), min(high + pad, 1.0)

    def place(value):
        return round(100 * (value - low) / (high - low), 2)

    own = cast.mean(cast.focus, cast.metric)
    before = cast.mean(cast.baseline, cast.metric) if cast.student else None
    gain = sorted((place(before), place(own))) if None not in (own, before) else None
    return {
        "marks": [
            {"title": t, "value": percent(v), "colour": c, "at": place(v)} for t, v, c in marks
        ],
        "gain": gain,
        "lost": gain is not None and own < before,
        "ticks": [
            _tick(f"{100 * t:.3g}\N{NO-BREAK SPACE}%", place(t)) for t in charts.ticks(low, high, 4)
        ],
        "metric": metric_name(cast.metric),
    }


def _tick(text: str, at: float) -> dict[str, Any]:
    # Centred under its place, but within the line at both ends.
    return {"text": text, "at": at, "back": 0 if at < 4 else 100 if at > 96 else 50}


def _headline(cast: Cast, shown: Sequence[Run]) -> list[dict[str, Any]]:
    rows = [_row(run, cast_of(run, shown, cast.others)) for run in shown]
    for row, run in zip(rows, shown):
        row["colour"], row["focus"] = colour_of(run, shown), run is cast.focus and len(shown) > 1
    _mark_best([row for row in rows if row["colour"] != "teacher"])
    known = cast.focus.results.get("teacher")
    if cast.teacher is None and known:
        cells = {c: _cell(c, number(known.get(_KEYS[c]))) for c in _KEYS}
        row = {"title": "RGB teacher", "colour": "teacher", "focus": False, "best": ()}
        rows.insert(0, row | {"cells": cells})
    return rows


def _row(run: Run, cast: Cast) -> dict[str, Any]:
    group = cast.seeds(run)
    means = {column: cast.mean(run, key) for column, key in _KEYS.items()}
    cells = {column: _cell(column, *_spread(group, _KEYS[column])) for column in _KEYS}
    cells["gap closed"] = verdict.gap_text(verdict.gap_of(cast))
    cells["seeds"] = str(len(group))
    steps = run.results.get("steps")
    cells["steps"] = "" if steps is None else f"{steps:,}".replace(",", "\N{NO-BREAK SPACE}")
    row = {"title": run.title, "colour": run.colour, "cells": cells, "best": set()}
    return row | {"means": {k: v for k, v in means.items() if v is not None}}


def _spread(runs: Sequence[Run], key: str) -> tuple[float | None, float | None]:
    """Mean and, of several seeds, sample standard deviation."""
    known = figures(runs, key)
    if not known:
        return None, None
    return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None


def _mark_best(rows: Sequence[dict[str, Any]]) -> None:
    """The best figures of each column, all that read the same as the best, if rows differ."""
    for column in _KEYS:
        found = [(row["means"][column], row) for row in rows if column in row["means"]]
        if len(found) < 2:
            continue
        best = (min if column in _SMALLER else max)(value for value, _ in found)
        leading = [row for value, row in found if _cell(column, value) == _cell(column, best)]
        for row in leading if len(leading) < len(found) else ():
            row["best"].add(column)


def _notes(cast: Cast) -> list[str]:
    notes = []
    if cast.baseline is None and cast.student:
        notes.append(
            "No infrared-only run of these settings lies beside this one, so the share of the gap "
            "that is closed cannot be said. Run the same command with method=baseline."
        )
    if cast.teacher_figure is None:
        notes.append("No teacher lies beside this run and none is named in its results.")
    elif cast.teacher is None:
        notes.append(
            "The teacher was brought from elsewhere: its figures are known, its clips not."
        )
    before = cast.mean(cast.baseline, cast.metric)
    if None not in (before, cast.teacher_figure) and cast.teacher_figure <= before:
        notes.append("The teacher is no better than training on infrared only: there is no gap.")
    if cast.focus.labels is not None:
        absent = classification.absent_classes(cast.focus.labels, len(cast.focus.class_names))
        if absent:
            names = ", ".join(cast.focus.class_names[i] for i in absent[:6])
            more = ", …" if len(absent) > 6 else ""
            notes.append(
                f"{plural(len(absent), 'class has', 'classes have')} no test clip and "
                f"{'is' if len(absent) == 1 else 'are'} left out of the mean class accuracy and "
                f"the mAP: {names}{more}."
            )
    broken = cast.focus.results.get("broken_clips")
    if broken:
        said = plural(len(broken), "clip was", "clips were")
        notes.append(f"{said} left out: they could not be decoded.")
    return notes


def _made(run: Run) -> dict[str, Any]:
    """How a run was made: command, facts, versions, config by section."""
    results = run.results
    seconds = results.get("wall_time_s")
    used = results.get("used") or {}
    cpu, memory = number(used.get("cpu_time_s")), number(used.get("peak_memory_bytes"))
    facts = {
        "git commit": results.get("git_commit"),
        "processor": results.get("processor"),
        "devices": _words(results.get("devices")),
        "wall time": None if seconds is None else duration(seconds),
        "processor time": None if cpu is None else duration(cpu),
        "most memory of the process": None if memory is None else f"{memory / 2**30:.2f} GiB",
    }
    facts |= {f"time for {k}": duration(v) for k, v in (results.get("seconds") or {}).items()}
    facts |= {
        "test clips": results.get("num_clips"),
        "batch": _words(results.get("batch")),
        "dataset": results.get("fingerprint"),
    }
    return {
        "title": run.title,
        "colour": run.colour,
        "command": results.get("command"),
        "facts": [(key, value) for key, value in facts.items() if value not in (None, "")],
        "versions": sorted((results.get("versions") or {}).items()),
        "config": flatten(results.get("config") or {}),
    }


def _cell(column: str, value: float | None, spread: float | None = None) -> str:
    if value is None:
        return ""
    if column == "NLL":
        return f"{value:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
    return percent(value) if spread is None else f"{100 * value:.1f} ± {percent(spread)}"


def _words(items: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in (items or {}).items())

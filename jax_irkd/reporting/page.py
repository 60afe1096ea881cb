"""What a report says: runs in, the parts of a page out. Pure; `reporting.write` reads and writes.

A page has one run in focus (the student it is about) and compares it with the RGB teacher and the
infrared-only baseline where those are there. What is missing becomes a sentence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jax_irkd.metrics import classification
from jax_irkd.reporting import analysis, charts, pulls, verdict
from jax_irkd.reporting.comparison import Cast, cast_of, colour_of
from jax_irkd.reporting.paper import paper_rows
from jax_irkd.reporting.wording import duration, flatten, metric_name, percent
from jax_irkd.runs.results import TITLES, Run, data_of, number

COLUMNS = ("top-1", "top-5", "class acc.", "mAP", "NLL", "ECE", "gap closed", "steps")
_KEYS = {"top-1": "top1", "top-5": "top5", "class acc.": "mean_class_accuracy"}
_KEYS |= {"mAP": "mAP", "NLL": "nll", "ECE": "ece"}


def page_of_run(run: Run, runs: Sequence[Run], sections: Sequence) -> dict[str, Any]:
    """Everything the template shows on the page of one run."""
    cast = cast_of(run, runs)
    shown = cast.networks
    return _page(cast, shown, run.title, sections, [cast.focus])


def page_of_all(name: str, runs: Sequence[Run], sections: Sequence) -> dict[str, Any]:
    """The page of a workdir: every run in the table and the curves, the last student in focus."""
    students = [run for run in runs if run.colour == "student"]
    cast = cast_of((students or list(runs))[-1], runs)
    return _page(cast, runs, name or "runs", sections, runs)


def headline_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per network: title, colour, formatted cells by column."""
    return [_row(run, cast_of(run, runs)) for run in runs]


def _page(cast: Cast, shown: Sequence[Run], title: str, sections: Sequence, made: Sequence[Run]):
    results, evidence = cast.focus.results, verdict.evidence_of(cast)
    return {
        "title": title,
        "eyebrow": [
            str(results[key]).replace("_", " ") if key != "dataset" else data_of(results)
            for key in ("dataset", "protocol")
            if results.get(key)
        ]
        + ([f"seed {results['seed']}"] if results.get("seed") is not None else []),
        "verdict": verdict.headline(cast, evidence),
        "explained": verdict.sentences(cast, evidence),
        "track": _track(cast, shown),
        "columns": COLUMNS,
        "rows": _headline(cast, shown),
        "notes": _notes(cast),
        "paper": paper_rows(cast.focus, shown),
        "curves": analysis.curves(cast, shown),
        "titles": TITLES,
        "shown": _metric_cell,
        "roles": [(run.title, run.colour) for run in cast.networks if run.logits is not None],
        "legend": [(run.title, colour_of(run, shown)) for run in shown],
        "confusions": analysis.confusions(cast),
        "changes": analysis.changes(cast),
        "classes": analysis.classes(cast),
        "calibration": analysis.calibration(cast),
        "sections": [s._asdict() for s in [*pulls.section(cast.focus), *sections]],
        "made": [_made(run) for run in made],
    }


def _track(cast: Cast, shown: Sequence[Run]) -> dict[str, Any] | None:
    """Positions in percent on a line from below the worst to above the best figure."""
    marks = [(run.title, run.figure(cast.metric), colour_of(run, shown)) for run in shown]
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

    own, before = cast.focus.figure(cast.metric), None
    if cast.baseline is not None and cast.student:
        before = cast.baseline.figure(cast.metric)
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
    rows = [_row(run, cast_of(run, shown)) for run in shown]
    for row, run in zip(rows, shown):
        row["colour"], row["focus"] = colour_of(run, shown), run is cast.focus and len(shown) > 1
    known = cast.focus.results.get("teacher")
    if cast.teacher is None and known:
        cells = {c: _cell(c, number(known.get(_KEYS[c]))) for c in _KEYS}
        row = {"title": "RGB teacher", "colour": "teacher", "focus": False}
        rows.insert(0, row | {"cells": cells})
    return rows


def _row(run: Run, cast: Cast) -> dict[str, Any]:
    cells = {column: _cell(column, run.figure(key)) for column, key in _KEYS.items()}
    cells["gap closed"] = verdict.gap_text(verdict.gap_of(cast))
    steps = run.results.get("steps")
    cells["steps"] = "" if steps is None else f"{steps:,}".replace(",", " ")
    return {"title": run.title, "colour": run.colour, "cells": cells}


def _notes(cast: Cast) -> list[str]:
    notes = []
    if cast.baseline is None and cast.student:
        notes.append(
            "No infrared-only run lies beside this one, so the share of the gap that is closed "
            "cannot be said. Run the same command with method=baseline."
        )
    if cast.teacher_figure is None:
        notes.append("No teacher lies beside this run and none is named in its results.")
    elif cast.teacher is None:
        notes.append(
            "The teacher was brought from elsewhere: its figures are known, its clips not."
        )
    before = cast.baseline.figure(cast.metric) if cast.baseline else None
    if None not in (before, cast.teacher_figure) and cast.teacher_figure <= before:
        notes.append("The teacher is no better than training on infrared only: there is no gap.")
    if cast.focus.labels is not None:
        absent = classification.absent_classes(cast.focus.labels, len(cast.focus.class_names))
        if absent:
            names = ", ".join(cast.focus.class_names[i] for i in absent[:6])
            more = ", …" if len(absent) > 6 else ""
            notes.append(
                f"{len(absent)} classes have no test clip and are left out of the mean class "
                f"accuracy and the mAP: {names}{more}."
            )
    broken = cast.focus.results.get("broken_clips")
    if broken:
        notes.append(f"{len(broken)} clips could not be decoded and were left out.")
    return notes


def _made(run: Run) -> dict[str, Any]:
    """How a run was made: command, facts, versions, config by section."""
    results = run.results
    seconds = results.get("wall_time_s")
    facts = {
        "git commit": results.get("git_commit"),
        "devices": _words(results.get("devices")),
        "wall time": None if seconds is None else duration(seconds),
        "of that": _words({k: duration(v) for k, v in (results.get("seconds") or {}).items()}),
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


def _metric_cell(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "mAP" else percent(value, 2)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if column in ("mAP", "NLL") else percent(value)


def _words(items: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in (items or {}).items())

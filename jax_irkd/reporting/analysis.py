"""The charts of a page: curves, confusion matrices and their changes, classes, calibration."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from jax_irkd.metrics import classification
from jax_irkd.reporting import charts
from jax_irkd.reporting.comparison import Cast, colour_of
from jax_irkd.reporting.wording import percent
from jax_irkd.runs.results import Run

_CURVES = {
    "loss": "Loss, all terms",
    "ce": "Cross-entropy",
    "dkd": "DKD term, weighted",
    "mgcam": "MGCAM term, weighted",
    "accuracy": "Training accuracy, top-1",
    "top1": "Test accuracy, top-1",
    "mAP": "Test mAP",
    "mean_class_accuracy": "Test mean class accuracy",
    "nll": "Test negative log likelihood",
    "ece": "Test calibration error",
    "top5": "Test accuracy, top-5",
    "learning_rate": "Learning rate",
    "gradient_norm": "Gradient norm",
    "steps_per_s": "Steps per second",
}


def curves(cast: Cast, shown: Sequence[Run]) -> list[dict[str, Any]]:
    """A chart per scalar; the focus decides which, the others are drawn where they have it too."""
    own = _scalars(cast.focus)
    keys = [key for run in shown for key in _scalars(run)]
    order = list(_CURVES)
    wanted = sorted(set(keys), key=lambda k: (order.index(k[1]) if k[1] in order else 90, k))
    several = len(shown) > 3
    found = []
    for kind, key in wanted:
        if not several and (kind, key) not in own:
            continue
        lines = [
            charts.Series(run.title, colour_of(run, shown), *scalars[kind, key], kind == "eval")
            for run in shown
            if (kind, key) in (scalars := _scalars(run))
        ]
        if all(not np.any(np.nan_to_num(line.y)) for line in lines):
            continue  # a count of faults that never happened
        title = _CURVES.get(key, key.replace("_", " ").replace("/", ": "))
        if kind == "train" and key in ("top1", "mAP"):
            title = f"{title} (training)"
        if kind == "eval" and key not in (
            "top1",
            "mAP",
            "mean_class_accuracy",
            "top5",
            "nll",
            "ece",
        ):
            title = f"{title}, on the test clips"
        chart = charts.line_chart(lines, label=f"{title} by step")
        found.append({"title": title, "svg": chart, "first": _is_first(kind, key)})
    return found


def _is_first(kind: str, key: str) -> bool:
    # Loss terms and the accuracies everybody looks at; the rest folds away.
    later = ("learning_rate", "gradient_norm", "rejected", "steps_per_s")
    if kind == "eval":
        return key in ("top1", "mAP", "loss", "accuracy")
    return "/" not in key and key not in later


def _scalars(run: Run) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    found: dict[tuple[str, str], tuple[list, list]] = {}
    for line in run.log:
        for key, value in line.items():
            if key in ("step", "kind", "time") or isinstance(value, (str, bool, list, dict)):
                continue
            steps, values = found.setdefault((line.get("kind", "train"), key), ([], []))
            steps.append(float(line["step"]))
            values.append(math.nan if value is None else float(value))
    return {key: (np.array(x), np.array(y)) for key, (x, y) in found.items()}


def confusions(cast: Cast) -> list[dict[str, Any]]:
    charts_made = []
    for run in cast.networks:
        if run.logits is None:
            continue
        svg = confusion_of(run)
        charts_made.append({"title": run.title, "colour": run.colour, "svg": svg})
    return charts_made


def confusion_of(run: Run) -> Markup:
    """The row-normalised confusion matrix of a run with scores."""
    shares = classification.row_shares(classification.confusion_matrix(run.logits, run.labels))
    label = f"Confusion matrix of {run.title}: rows are true classes, columns predictions"
    return charts.confusion_chart(shares, run.class_names, colour=run.colour, label=label)


def changes(cast: Cast, count: int = 6) -> dict[str, Any] | None:
    """The cells of the confusion matrix that distillation changed most, good and bad."""
    if not cast.student or cast.baseline is None:
        return None
    if cast.focus.logits is None or cast.baseline.logits is None:
        return None
    after, before = (
        np.nan_to_num(
            classification.row_shares(classification.confusion_matrix(run.logits, run.labels))
        )
        for run in (cast.focus, cast.baseline)
    )
    moved = after - before
    names = cast.focus.class_names
    diagonal = np.eye(len(names), dtype=bool)
    gained = np.where(diagonal, moved, -moved)
    found: dict[str, list] = {"better": [], "worse": []}
    for index in np.argsort(-np.abs(moved), axis=None, kind="stable"):
        row, column = np.unravel_index(index, moved.shape)
        side = found["better" if gained[row, column] > 0 else "worse"]
        if abs(moved[row, column]) < 0.005 or len(side) >= count:
            continue
        name = f"{names[row]} recognised"
        if row != column:
            name = f"{names[row]} taken for {names[column]}"
        values = 100 * before[row, column], 100 * after[row, column]
        side.append({"name": name, "before": f"{values[0]:.0f}", "after": f"{values[1]:.0f}"})
    return found if found["better"] or found["worse"] else None


def classes(cast: Cast) -> list[dict[str, Any]]:
    """Accuracy per class of the focus, beside baseline and teacher; largest gain first."""
    if cast.focus.logits is None:
        return []
    accuracy = {
        run.colour: classification.class_accuracies(run.logits, run.labels)
        for run in cast.networks
        if run.logits is not None
    }
    own = accuracy[cast.focus.colour]
    before = accuracy.get("baseline") if cast.student else None
    gain = own - before if before is not None else None
    count = np.bincount(cast.focus.labels, minlength=len(own))
    order = np.argsort(-(own if gain is None else gain), kind="stable")
    rows = []
    for index in order:
        if not count[index]:
            continue
        marks = [
            {"colour": colour, "at": round(100 * values[index], 2)}
            for colour, values in accuracy.items()
            if np.isfinite(values[index])
        ]
        row = {"name": cast.focus.class_names[index], "clips": int(count[index]), "marks": marks}
        row |= {"value": percent(own[index], 0), "span": None, "lost": False}
        if gain is not None and np.isfinite(gain[index]):
            points = round(100 * float(gain[index]))
            row["value"] = f"{points:+d}" if points else "0"
            row["span"] = sorted((100 * own[index], 100 * before[index]))
            row["lost"] = bool(gain[index] < 0)
        rows.append(row)
    return rows


def calibration(cast: Cast) -> list[dict[str, Any]]:
    found = []
    for run in cast.networks:
        if run.logits is None:
            continue
        error = classification.calibration_error(run.logits, run.labels)
        caption = f"{run.title}: ECE {percent(error)}"
        found.append({"title": caption, "colour": run.colour, "svg": reliability_of(run)})
    return found


def reliability_of(run: Run) -> Markup:
    """Accuracy by confidence of a run with scores."""
    table = classification.reliability(run.logits, run.labels, bins=10)
    label = f"Reliability of {run.title}: accuracy by confidence"
    return charts.reliability_chart(table, colour=run.colour, label=label)

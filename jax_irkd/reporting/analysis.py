"""The charts of a page: curves, confusion matrices and their changes, classes, calibration."""

import math
from collections.abc import Sequence, Set
from typing import Any

import numpy as np
from markupsafe import Markup

from jax_irkd.data.groups import performances_of
from jax_irkd.metrics import classification, significance
from jax_irkd.metrics.significance import Interval
from jax_irkd.reporting import charts
from jax_irkd.reporting.comparison import Cast, colour_of, pooled
from jax_irkd.reporting.wording import percent
from jax_irkd.runs.results import Run, paired, title_of

# What a scalar is called and its unit; shares are drawn in percent.
_CURVES = {
    "loss": ("Loss, all terms", ""),
    "ce": ("Cross-entropy", "nats"),
    "dkd": ("DKD term, weighted", ""),
    "mgcam": ("MGCAM term, weighted", ""),
    "accuracy": ("Training accuracy, top-1", "%"),
    "top1": ("Test accuracy, top-1", "%"),
    "mAP": ("Test mAP", "%"),
    "mean_class_accuracy": ("Test mean class accuracy", "%"),
    "nll": ("Test negative log likelihood", "nats"),
    "ece": ("Test calibration error", "%"),
    "top5": ("Test accuracy, top-5", "%"),
    "learning_rate": ("Learning rate", ""),
    "gradient_norm": ("Gradient norm", ""),
    "steps_per_s": ("Steps per second", "1/s"),
}
_TESTED = ("top1", "mAP", "mean_class_accuracy", "top5", "nll", "ece")


def curves(cast: Cast, shown: Sequence[Run]) -> list[dict[str, Any]]:
    """A chart per scalar; the focus decides which, the others are drawn where they have it too."""
    scalars = [(run, _scalars(run)) for run in shown]
    own = _scalars(cast.focus)
    keys = {key for _, found in scalars for key in found}
    if len(cast.focus.class_names) <= 5:
        keys = {key for key in keys if not key[1].endswith("top5")}
    order, several = list(_CURVES), len(shown) > 3
    terms = {name for run in shown for name in _distillers(run)}
    wanted = sorted(keys, key=lambda k: (order.index(k[1]) if k[1] in order else 90, k))
    charted = []
    for kind, key in wanted:
        if not several and (kind, key) not in own:
            continue
        title, unit = _named(kind, key, terms)
        scale = 100 if unit == "%" else 1
        lines = [
            charts.Series(
                run.title, colour_of(run, shown), x, scale * y, kind == "eval" or len(x) < 10
            )
            for run, found in scalars
            if (kind, key) in found
            for x, y in [found[kind, key]]
        ]
        if all(not np.any(np.nan_to_num(line.y)) for line in lines):
            continue  # a count of faults that never happened
        chart = charts.line_chart(lines, label=f"{title} by step", unit=unit)
        charted.append({"title": title, "svg": chart, "first": _is_first(kind, key)})
    return charted


def _distillers(run: Run) -> Sequence[str]:
    return list((run.results.get("config") or {}).get("distillers") or {})


def _named(kind: str, key: str, terms: Set[str]) -> tuple[str, str]:
    """Title and unit of a scalar of the log; `terms` are the distillers, whose losses are terms."""
    bare = key.removeprefix("ema_")
    title, unit = _CURVES.get(bare, (bare.replace("_", " ").replace("/", ": "), ""))
    method, _, part = bare.partition("_")
    if bare not in _CURVES and "/" not in bare and method in terms:
        name = title_of(method)
        title = f"{' '.join([name, *part.split('_')]).strip()} term, weighted"
    if key != bare:
        title = f"{title}, of the running mean"
    if key.startswith("ms/"):
        title, unit = f"Time for {key.removeprefix('ms/')}", "ms a step"
    if key.endswith("_accuracy"):
        unit = "%"
    if kind == "train" and bare in ("top1", "mAP"):
        title = f"{title} (training)"
    if kind == "eval" and bare not in _TESTED:
        title = f"{title}, on the test clips"
    return title, unit


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
    """The matrix of each network, over all its seeds."""
    charts_made = []
    for run in cast.networks:
        if run.logits is None:
            continue
        svg = confusion_of(run, cast.seeds(run))
        charts_made.append({"title": run.title, "colour": run.colour, "svg": svg})
    return charts_made


def confusion_of(run: Run, seeds: Sequence[Run] = ()) -> Markup:
    """The row-normalised confusion matrix of a run with scores, or of several seeds of it."""
    shares = classification.row_shares(pooled(seeds or [run], _matrix))
    label = f"Confusion matrix of {run.title}: rows are true classes, columns predictions"
    return charts.confusion_chart(shares, run.class_names, colour=run.colour, label=label)


def _matrix(run: Run) -> np.ndarray:
    return classification.confusion_matrix(run.logits, run.labels)


def changes(cast: Cast, count: int = 6) -> dict[str, Any] | None:
    """The cells in which student and baseline differ most, for the better and for the worse."""
    groups = cast.together(cast.focus, cast.baseline) if cast.student else []
    if not groups or any(run.logits is None for group in groups for run in group):
        return None
    after, before = (
        np.nan_to_num(classification.row_shares(pooled(group, _matrix))) for group in groups
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
    if not found["better"] and not found["worse"]:
        return None
    counts = np.bincount(cast.focus.labels)
    return found | {"clips": sorted({int(counts[counts > 0].min()), int(counts.max())})}


def classes(cast: Cast) -> list[dict[str, Any]]:
    """Accuracy per class of the focus, beside baseline and teacher; largest gain first.

    Means over the seeds; a gain is that of the seeds that focus and baseline share.
    """
    if cast.focus.logits is None:
        return []
    accuracy = {
        run.colour: _accuracies(cast.seeds(run)) for run in cast.networks if run.logits is not None
    }
    gains = _gains(cast)
    own = accuracy[cast.focus.colour]
    count = np.bincount(cast.focus.labels, minlength=len(own))
    ranked = own if not gains else np.array([gain.value for gain in gains])
    order = np.argsort(-ranked, kind="stable")
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
        row |= {"value": percent(own[index], 0), "ends": "", "span": None, "lost": False}
        if gains and np.isfinite(gains[index].value):
            gain, low, high = (100 * value for value in gains[index])
            row |= {"value": _points(gain), "ends": f"{_points(low)} to {_points(high)}"}
            row["span"] = sorted((100 * own[index], 100 * accuracy["baseline"][index]))
            row["lost"] = round(gain) < 0
        rows.append(row)
    return rows


def _points(value: float) -> str:
    return f"{round(value):+d}" if round(value) else "0"


def _accuracies(runs: Sequence[Run]) -> np.ndarray:
    """Of every class, the mean over the runs that have scores."""
    scored = [run for run in runs if run.logits is not None]
    return np.mean([classification.class_accuracies(r.logits, r.labels) for r in scored], axis=0)


def _gains(cast: Cast) -> list[Interval]:
    """Each class's gain over infrared only with its interval; empty where clips differ."""
    groups = cast.together(cast.focus, cast.baseline) if cast.student else []
    return class_gains(*groups) if groups else []


def class_gains(students: Sequence[Run], baselines: Sequence[Run]) -> list[Interval]:
    """Each class's gain of students over baselines of the same seeds, with its 95 % interval.

    Of one seed after Agresti and Min; of several the wider of that, for the clips won and lost in
    the mean of the seeds, and of a bootstrap that draws performances and seeds. Of the pairs tested
    on the same clips; empty where there is none, or their clips differ.
    """
    both = [(run, p) for run, other in zip(students, baselines) if (p := paired(run, other))]
    pairs = [pair for _, pair in both]
    if not pairs or any(not np.array_equal(pair[0][1], pairs[0][0][1]) for pair in pairs):
        return []
    labels = pairs[0][0][1]
    right, before = (
        np.array([pair[side][0].argmax(1) == labels for pair in pairs]) for side in (0, 1)
    )
    shown, gains = performances_of(np.sort(both[0][0].clip_ids)), []
    for index in range(len(students[0].class_names)):
        own = labels == index
        gains.append(_gain(right[:, own], before[:, own], shown[own]))
    return gains


def _gain(right: np.ndarray, before: np.ndarray, shown: np.ndarray) -> Interval:
    seeds, clips = right.shape
    if not clips:
        return Interval(np.nan, np.nan, np.nan)
    won, lost = (np.sum(a & ~b) / seeds for a, b in ((right, before), (before, right)))
    found = significance.matched_interval(won, lost, clips)
    if seeds == 1:
        return found
    drawn = significance.paired_bootstrap(right, before, performances=shown, replicates=500)
    return Interval(found.value, min(found.low, drawn.low), max(found.high, drawn.high))


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
    table = classification.reliability(run.logits, run.labels)  # the bins of the error
    label = f"Reliability of {run.title}: accuracy by confidence"
    return charts.reliability_chart(table, colour=run.colour, label=label)

"""Runs side by side: figures, curves, and what their configurations differ in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from jax_irkd.errors import UserError
from jax_irkd.inspection.sparkline import sparkline
from jax_irkd.reporting.charts import moving_average
from jax_irkd.reporting.wording import duration, flatten
from jax_irkd.runs.results import Run, is_run, number, read_run

_HIDDEN = ("step", "kind", "time", "accuracy", "gradient_norm", "rejected", "learning_rate", "loss")
_COLOURS = ("#3366aa", "#cc5500", "#228855", "#aa3377", "#777777", "#b8860b", "#5544bb", "#00889a")


def read(folders: Sequence[str | Path]) -> list[Run]:
    """Runs, finished or not, named so that they differ; a folder of runs stands for all of them.

    Raises UserError for a folder that holds neither a run nor runs.
    """
    found = []
    for folder in map(Path, folders):
        inside = sorted(path for path in folder.glob("*/") if is_run(path))
        if not is_run(folder) and not inside:
            raise UserError(
                f"{folder} holds no run (no results.json, no metrics.jsonl) and no folders of runs"
            )
        found += [folder] if is_run(folder) else inside
    parts = [path.absolute().parts for path in found]
    shared = 0
    while len(found) > 1 and len({part[shared] for part in parts}) == 1:
        shared += 1
    names = ["/".join(part[shared:]) if len(found) > 1 else part[-1] for part in parts]
    return [read_run(path, name) for name, path in zip(names, found)]


def table(runs: Sequence[Run]) -> Table:
    """A row a run: figures of its test split, or the latest of a run that has not ended."""
    made = Table(box=box.SIMPLE)
    for name in ("run", "dataset", "protocol"):
        made.add_column(name, overflow="fold")
    for name in ("seed", "steps", "top-1", "class acc.", "mAP", "nll", "ece", "time"):
        made.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        results, figures = run.results, latest(run)
        shares = [_share(figures.get(k)) for k in ("top1", "mean_class_accuracy", "mAP")]
        plain = [_plain(figures.get(k)) for k in ("nll", "ece")]
        steps = str(results.get("steps", "")) or f"{last_step(run)}, not ended"
        wall = number(results.get("wall_time_s"))
        made.add_row(
            run.name,
            str(results.get("dataset", "–")),
            str(results.get("protocol", "–")),
            str(results.get("seed", "–")),
            steps,
            *shares,
            *plain,
            duration(wall) if wall is not None else "–",
        )
    return made


def latest(run: Run) -> Mapping[str, Any]:
    """Figures of results.json, else of the last evaluation in the log."""
    if "metrics" in run.results:
        return run.results["metrics"]
    evaluations = [line for line in run.log if line.get("kind") == "eval"]
    return evaluations[-1] if evaluations else {}


def last_step(run: Run) -> int:
    return max((line["step"] for line in run.log), default=0)


def _share(value: Any) -> str:
    known = number(value)
    return "–" if known is None else f"{100 * known:.1f} %"


def _plain(value: Any) -> str:
    known = number(value)
    return "–" if known is None else f"{known:.3f}"


def curve(run: Run, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one scalar of the log; gaps are nan."""
    lines = [line for line in run.log if line.get("kind") == kind and name in line]
    values = [np.nan if line[name] is None else line[name] for line in lines]
    return np.array([line["step"] for line in lines], float), np.array(values, float)


def curves(runs: Sequence[Run]) -> Table:
    """Loss and test accuracy of every run as sparklines, with their first and last values."""
    made = Table(box=box.SIMPLE)
    made.add_column("run", overflow="fold")
    for name in ("loss", "top-1 on the test split"):
        made.add_column(name, no_wrap=True)
    for run in runs:
        cells = [_spark(*curve(run, "train", "loss"), 32), _spark(*curve(run, "eval", "top1"), 16)]
        made.add_row(run.name, *cells)
    return made


def _spark(steps: np.ndarray, values: np.ndarray, width: int) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "–"
    return f"{known[0]:.3g} {sparkline(values, width)} {known[-1]:.3g}"


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all runs, with their values; – where there is none."""
    flat = [dict(flatten(run.results.get("config") or {})) for run in runs]
    names = sorted({name for settings in flat for name in settings})
    rows = [(name, [settings.get(name, "–") for settings in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def terms(runs: Sequence[Run]) -> list[str]:
    """The loss terms any run has logged, cross-entropy first."""
    names = {
        name
        for run in runs
        for line in run.log
        if line.get("kind") == "train"
        for name in line
        if name not in _HIDDEN and "/" not in name
    }
    return sorted(names, key=lambda name: (name != "ce", name))


def draw(runs: Sequence[Run], path: str | Path) -> None:
    """A PNG: test accuracy, loss and every term of it over the steps, a colour a run."""
    panels = [("eval", "top1", "top-1 on the test split"), ("train", "loss", "loss")]
    panels += [("train", name, name) for name in terms(runs)]
    panels = [p for p in panels if any(len(curve(run, *p[:2])[0]) for run in runs)]
    if not panels:
        raise UserError("none of the runs has logged anything yet; there is nothing to draw")
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.1 * rows + 0.4), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for position, (kind, name, title) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, position + 1)
        for run, colour in zip(runs, _COLOURS * (1 + len(runs) // len(_COLOURS))):
            steps, values = curve(run, kind, name)
            label = run.name if position == 0 else None
            style = {"marker": "o", "markersize": 3.5} if kind == "eval" else {}
            if kind == "train":
                axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
                values = moving_average(values)
            axes.plot(steps, values, color=colour, label=label, linewidth=1.6, **style)
        axes.set_title(title, fontsize=10, loc="left", parse_math=False)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(loc="outside upper left", ncols=4, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.savefig(path)

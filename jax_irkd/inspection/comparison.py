"""Runs side by side: figures, curves, and what their configurations differ in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

from jax_irkd.errors import UserError
from jax_irkd.host.files import expanded, write_whole
from jax_irkd.inspection.sparkline import sparkline
from jax_irkd.reporting import charts, pictures
from jax_irkd.reporting.comparison import other_colour
from jax_irkd.reporting.wording import duration, flatten
from jax_irkd.runs.results import Run, is_run, number, read_run

_HIDDEN = ("step", "kind", "time", "accuracy", "gradient_norm", "rejected", "learning_rate", "loss")


def read(folders: Sequence[str | Path]) -> list[Run]:
    """Runs, finished or not, named so that they differ; a folder of runs stands for all of them.

    Raises UserError for a folder that holds neither a run nor runs.
    """
    found = []
    for folder in map(expanded, folders):
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


class Named(NamedTuple):
    """A column: its name and its cells."""

    name: str
    cells: list[str]

    @property
    def width(self) -> int:
        return max(map(cell_len, [self.name, *self.cells]))


_FACTS = ("dataset", "protocol", "seed")


def shared_facts(runs: Sequence[Run]) -> list[str]:
    """What all runs have in common, in a line, if there is anything."""
    found = {key: _fact(runs[0], key) for key in _FACTS if _is_shared(runs, key)}
    return [", ".join(f"{key} {value}" for key, value in found.items())] if found else []


def _fact(run: Run, key: str) -> str:
    return str(run.results.get(key, "–"))


def _is_shared(runs: Sequence[Run], key: str) -> bool:
    return len({_fact(run, key) for run in runs}) == 1


def tables(runs: Sequence[Run], width: int) -> list[Table]:
    """A row a run: figures of its test split, or the latest of a run that has not ended."""
    columns = [
        Named(key, [_fact(run, key) for run in runs]) for key in _FACTS if not _is_shared(runs, key)
    ]
    columns.append(Named("steps", [_steps(run) for run in runs]))
    for name, key in _FIGURES.items():
        values = [latest(run).get(key) for run in runs]
        columns.append(Named(name, [(_plain if key == "nll" else _share)(v) for v in values]))
    walls = [number(run.results.get("wall_time_s")) for run in runs]
    columns.append(Named("time", ["–" if wall is None else duration(wall) for wall in walls]))
    return side_by_side(Named("run", [run.name for run in runs]), columns, width, "right")


_FIGURES = {"top-1": "top1", "class acc.": "mean_class_accuracy", "mAP": "mAP"}
_FIGURES |= {"nll": "nll", "ece": "ece"}


def _steps(run: Run) -> str:
    return str(run.results.get("steps", "")) or f"{last_step(run)}, not ended"


_SHAPE = {"box": box.SIMPLE, "pad_edge": False, "padding": (0, 1, 0, 0)}


def side_by_side(
    names: Named, columns: Sequence[Named], width: int, justify: Literal["left", "right"]
) -> list[Table]:
    """Tables of as many columns as `width` allows, each with the names of its rows in front.

    Text (`left`) is folded, to 12 letters if need be, so that more columns stand beside each other.
    """
    named = min(names.width, max(width // 2, 12))
    room = width - named - 2
    most = max(room // len(columns), 14) - 2 if justify == "left" else room - 2
    groups, left = [], 0
    for column in columns:
        need = min(column.width, most) + 2
        if not groups or need > left:
            groups.append([])
            left = room
        groups[-1].append(column)
        left -= need
    made = []
    for group in groups:
        table = Table(**_SHAPE)
        table.add_column(names.name, overflow="fold", width=named)
        for column in group:
            fitted = min(column.width, most)
            table.add_column(column.name, overflow="fold", justify=justify, width=fitted)
        for cells in zip(names.cells, *(column.cells for column in group)):
            table.add_row(*map(escape, cells))
        made.append(table)
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


def curves(runs: Sequence[Run], width: int) -> Table:
    """Loss and test accuracy of every run as sparklines, with their first and last values."""
    made = Table(**_SHAPE)
    made.add_column("run", overflow="fold")
    for name in ("loss", "top-1 on the test split, %"):
        made.add_column(name, no_wrap=True)
    longest = (32, 16) if width >= 120 else (14, 8)
    for run in runs:
        loss, top1 = curve(run, "train", "loss")[1], 100 * curve(run, "eval", "top1")[1]
        cells = [_spark(values, most) for values, most in zip((loss, top1), longest)]
        made.add_row(escape(run.name), *cells)
    return made


def _spark(values: np.ndarray, width: int) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "–"
    return f"{known[0]:.3g} {sparkline(values, width)} {known[-1]:.3g}"


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all runs, with their values; – where there is none."""
    flat = [dict(flatten(run.results.get("config") or {})) for run in runs]
    names = sorted({name for settings in flat for name in settings})
    # A section that is empty in one run has fields in another: they are shown.
    names = [n for n in names if not any(other.startswith(f"{n}.") for other in names)]
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
    shades = {run.name: other_colour(place) for place, run in enumerate(runs)}
    drawn = []
    for kind, name, title in panels:
        lines = [
            charts.Series(run.name, shades[run.name], *curve(run, kind, name), kind == "eval")
            for run in runs
        ]
        lines = [line for line in lines if len(line.x)]
        if name == "top1":
            lines = [line._replace(y=100 * line.y) for line in lines]
        unit = "%" if name == "top1" else ""
        drawn.append((title, charts.line_chart(lines, label=f"{title} by step", unit=unit)))
    key = charts.key_chart([(run.name, shades[run.name]) for run in runs])
    sheet = charts.sheet([("runs", key), *drawn], columns=2, label="runs by step")
    write_whole(path, pictures.png(sheet, zoom=1.6))

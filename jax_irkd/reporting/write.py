"""What a person looks at: one self-contained report.html per run and one for all runs of a workdir.

The pages hold everything they show (SVG and pictures inline, no script, no font, no link to the
network). What a run lacks is said in a sentence and never stops the report.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table

from jax_irkd.errors import UserError, once, plural
from jax_irkd.host.files import read_json, write_whole
from jax_irkd.reporting import analysis, charts, page, pictures
from jax_irkd.reporting.comparison import seeds_of
from jax_irkd.reporting.sections import Section
from jax_irkd.runs.results import PAGE, Run, data_of, read_run, read_runs
from jax_irkd.training.events import write_pictures

_PRINTED = ("top-1", "class acc.", "mAP", "gap closed")


_KEPT = ("title", "html", "lead")  # of a section; its pictures go to TensorBoard


def write_report(
    workdir: str | Path,
    runs: Sequence[str] | None = None,
    *,
    sections: Mapping[str, Sequence[Section]] | None = None,
) -> Path:
    """Write the page of every named run, and the page of all; the path of the latter.

    `workdir` holds one folder per run (`teacher`, `baseline`, `ours`, ...); a folder counts as
    soon as it holds results.json. `runs` names the folders whose `report.html` and
    `confusion_matrix.png` are written (None: all). `sections` adds to the page of a run, by folder
    name, and to the page of all under the name ""; they are kept in `report_sections.json`, so
    that a later call need not bring them again. In a study's `seedN` the pages speak for the runs
    of all its seeds. Raises FileNotFoundError when there is no
    finished run, or not the one that is named.
    """
    workdir, sections = Path(workdir), sections or {}
    found = read_runs(workdir)
    names = [run.name for run in found]
    missing = [name for name in runs or () if name not in names]
    if missing or not found:
        wanted = f"run {missing[0]!r}" if missing else "finished run"
        raise FileNotFoundError(
            f"no {wanted} in {workdir.absolute()} (a run is a folder with results.json; there are "
            f"{names}); train one with python -m jax_irkd.main"
        )
    path, others = workdir / PAGE, read_other_seeds(workdir)
    kept = _keep_sections(workdir, sections.get(""))
    _write(path, page.page_of_all(workdir.name, found, kept, others))
    for run in found:
        if runs is None or run.name in runs:
            if run.logits is not None:
                write_whole(run.folder / "confusion_matrix.png", pictures.png(_confusion(run)))
            kept = _keep_sections(run.folder, sections.get(run.name))
            _write(run.folder / PAGE, page.page_of_run(run, found, kept, others))
    return path


_SEED = re.compile(r"seed\d+")


def read_other_seeds(workdir: Path) -> list[Run]:
    """The finished runs beside `workdir`, where it is the `seedN` of a study."""
    workdir = workdir.absolute()
    if not _SEED.fullmatch(workdir.name):
        return []
    beside = (path for path in sorted(workdir.parent.glob("seed*")) if _SEED.fullmatch(path.name))
    return [run for path in beside if path != workdir for run in read_runs(path)]


def has_section(folder: str | Path, title: str) -> bool:
    """Whether the page of the run in `folder` has a section of this title."""
    return any(kept.title == title for kept in _keep_sections(Path(folder), None))


def show_pictures(folder: str | Path, sections: Sequence[Section]) -> None:
    """Give TensorBoard the pictures of a finished run: how it errs, and those of `sections`."""
    run, found = read_run(folder), {}
    if "tensorboard" not in (run.results.get("config") or {}).get("loggers", ("tensorboard",)):
        return
    if run.logits is not None:
        found["confusion"] = pictures.pixels(_confusion(run))
        title = f"{_titled(run)}: percent right by percent sure"
        chart = charts.sheet([(title, analysis.reliability_of(run))], label=title)
        found["reliability"] = pictures.pixels(chart)
    found |= {name: picture for section in sections for name, picture in section.pictures}
    tags = {f"report/{re.sub(r'[^-.0-9A-Za-z]+', '_', name)}": found[name] for name in found}
    write_pictures(run.folder, tags, run.results.get("steps", 0))


def add_section(folder: str | Path, section: Section) -> None:
    """Put a section on the page of a finished run, in place of an earlier one of the same title."""
    folder = Path(folder)
    others = [kept for kept in _keep_sections(folder, None) if kept.title != section.title]
    write_report(folder.parent, [folder.name], sections={folder.name: [*others, section]})


def _titled(run: Run) -> str:
    return f"{run.title}, {data_of(run.results)}".rstrip(", ")


def _confusion(run: Run) -> Markup:
    """The confusion matrix, as in the paper's Fig. 4, under its title."""
    title = f"{_titled(run)}: % of each row"
    return charts.sheet([(title, analysis.confusion_of(run))], label=title)


def print_table(workdir: str | Path, console: Console | None = None) -> None:
    """Print the headline table of a workdir and the path of its report.

    In a study's `seedN` it speaks for all seeds, as the page does.
    """
    runs, others = read_runs(workdir), read_other_seeds(Path(workdir))
    table = Table(box=box.SIMPLE)
    table.add_column("network", no_wrap=True)
    columns = ("seeds", "top-1", "mAP", "gap closed") if others else _PRINTED
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in page.headline_rows(runs, others):
        table.add_row(row["title"], *(row["cells"].get(name) or "–" for name in columns))
    console = console or Console()
    if title := _tested_on([other for run in runs for other in seeds_of(run, others)]):
        console.print(title, highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    path = Path(workdir).absolute() / PAGE
    if path.exists():
        console.print(f"report: {path}", soft_wrap=True, highlight=False)


def _tested_on(runs: Sequence[Run]) -> str | None:
    """Data, number of test clips and seeds of what a table holds."""
    if not runs:
        return None
    clips = {run.results.get("num_clips") for run in runs} - {None}
    seeds = sorted({run.results.get("seed") for run in runs} - {None})
    parts = [data_of(runs[0].results), *(plural(c, "test clip") for c in sorted(clips))]
    if seeds:
        parts.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")
    return ", ".join(filter(None, parts)) or None


def _keep_sections(folder: Path, given: Sequence[Section] | None) -> list[Section]:
    path = folder / "report_sections.json"
    if given is not None:
        kept = [{name: getattr(section, name) for name in _KEPT} for section in given]
        write_whole(path, json.dumps(kept))
    if not path.exists():
        return []
    try:
        return [
            Section(**{name: str(kept[name]) for name in _KEPT} | {"html": Markup(kept["html"])})
            for kept in read_json(path, "the page lacks its sections until the run is made anew")
        ]
    except UserError as error:
        once(str(error))
    except (KeyError, TypeError):
        once(f"{path} holds no sections; the page lacks them until the run is made anew")
    return []


@functools.cache
def _template() -> jinja2.Template:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("jax_irkd.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("report.html.j2")


def _write(path: Path, parts: Mapping) -> None:
    write_whole(path, _template().render(parts))

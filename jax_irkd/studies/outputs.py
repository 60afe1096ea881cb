"""What a study leaves behind: study.md, study.json, answers.csv, the tables in the reports."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_irkd.errors import UserError, once
from jax_irkd.host.files import write_whole
from jax_irkd.reporting import charts, pictures, write
from jax_irkd.reporting.comparison import misfits
from jax_irkd.runs import answers, results
from jax_irkd.runs.results import Run, data_of, is_finished
from jax_irkd.studies import analysis, tables
from jax_irkd.studies import attempts as record
from jax_irkd.studies.attempts import DONE, FAILED, WAITING, Key, Status


def write_outputs(workdir: Path, plan: Mapping[str, Any], status: Mapping[Key, Status]) -> dict:
    """Write study.md, study.json, answers.csv and the reports' sections; what study.json holds.

    `plan` holds `command`, `methods` and `seeds`; `status` the state of every run of the study.
    """
    attempts = record.read_attempts(workdir)
    runs, broken = read_runs(workdir, status)
    earlier, left_out = of_before(workdir, plan["seeds"], status, runs)
    runs |= earlier
    summary = analysis.summarise(runs, plan["methods"], attempts)
    missing = {key: value for key, value in status.items() if value.state != DONE} | broken
    summary |= {
        "command": plan["command"],
        "seeds": plan["seeds"],
        "unfinished": [
            {"run": f"seed{seed}/{method}", "state": value.state, "reason": value.reason}
            for (seed, method), value in sorted(missing.items())
        ],
        "left_out": left_out,
        "not_asked_for": not_asked_for(workdir, {*status, *runs}, left_out),
        "attempts": attempts,
    }
    write_whole(workdir / "study.json", json.dumps(summary, indent=1))
    write_whole(workdir / "study.md", tables.markdown(summary))
    if table := answers.write(runs):
        write_whole(workdir / answers.ANSWERS, table)
    drawn = tables.chart(summary)
    if drawn is not None:
        title = data_of(summary)
        picture = charts.sheet([(title, drawn)], label=title)
        write_whole(workdir / tables.PICTURE, pictures.png(picture))
    made = tables.sections(summary)
    for folder in sorted({run.folder.parent for run in runs.values()}):
        try:
            write.write_report(folder, [], sections={"": made})
        except Exception as error:  # a page reads all runs beside it, broken ones too
            logging.warning("%s: the report is not written: %s", folder, error)
    return summary


def write_pages(workdir: Path, seeds: Sequence[int]) -> None:
    """The pages of all runs anew, once there are several seeds: each speaks for them all."""
    folders = [workdir / f"seed{seed}" for seed in seeds]
    folders = [folder for folder in folders if any(folder.glob(f"*/{results.RESULTS}"))]
    for folder in folders if len(folders) > 1 else ():
        try:
            write.write_report(folder)
        except Exception as error:  # it reads all runs of the study, broken ones too
            logging.warning("%s: the pages are not written: %s", folder, error)


def read_runs(
    workdir: Path, status: Mapping[Key, Status]
) -> tuple[dict[Key, Run], dict[Key, Status]]:
    """The finished runs, and those whose results cannot be read, with the reason."""
    found, broken = {}, {}
    for seed, method in (key for key, value in status.items() if value.state == DONE):
        folder = workdir / f"seed{seed}" / method
        try:
            found[seed, method] = results.read_run(folder)
        except UserError as error:
            broken[seed, method] = Status(FAILED, f"results cannot be read: {error}")
    return found, broken


def of_before(
    workdir: Path, seeds: Sequence[int], planned: Mapping[Key, Status], runs: Mapping[Key, Run]
) -> tuple[dict[Key, Run], list[dict[str, str]]]:
    """Teachers and baselines of earlier studies to compare `runs` with; those left out, and why.

    They may be of other settings than the study at hand: what no run of it may be compared with
    stays out.
    """
    found, left_out = {}, []
    for seed, method in itertools.product(seeds, ("teacher", "baseline")):
        folder = workdir / f"seed{seed}" / method
        if (seed, method) in planned or not is_finished(folder):
            continue
        try:
            measure = results.read_run(folder)
            reasons = [why for run in runs.values() for why in misfits(measure, run)]
        except UserError as error:
            reasons = [f"its results cannot be read: {error}"]
        if not reasons:
            found[seed, method] = measure
            continue
        name, reason = f"seed{seed}/{method}", reasons[0]
        left_out.append({"run": name, "reason": reason})
        once(
            f"{name}, of an earlier study, is left out: {reason}; to compare with one of these "
            f"settings use another --workdir, with {method} among --methods"
        )
    return found, left_out


def not_asked_for(
    workdir: Path, known: set[Key], left_out: Sequence[Mapping[str, str]]
) -> list[str]:
    """Finished runs that lie here too, of other seeds or methods, and are in no table."""
    names = {f"seed{seed}/{method}" for seed, method in known} | {one["run"] for one in left_out}
    here = workdir.glob(f"seed*/*/{results.RESULTS}")
    return sorted({path.parent.relative_to(workdir).as_posix() for path in here} - names)


def read_status(workdir: Path, plan: Mapping[str, Any]) -> dict[Key, Status]:
    """The state of every run of a plan, from what lies in the workdir."""
    last = {name: tries[-1] for name, tries in record.read_attempts(workdir).items()}
    status = {}
    for seed, method in plan["runs"]:
        attempt = last.get(f"seed{seed}/{method}", {"state": WAITING, "reason": ""})
        done = record.has_all(workdir / f"seed{seed}" / method, plan.get("detection"))
        state = attempt["state"] if attempt["state"] != DONE else WAITING
        status[seed, method] = Status(DONE) if done else Status(state, attempt["reason"])
    return status

"""Many runs, one table: every method with every seed, compared with the infrared-only baseline.

python -m jax_irkd.study --config=configs/demo.py --workdir=runs/study --seeds=3
    --methods=baseline,st,at,sp,cc,rkd,ccskd,dkd,mgcam,ours [--jobs=1] [--report_only]

Run the same command again to continue. Writes study.md and study.json into the workdir, and the
tables into the report.html of every seed.
"""

import json
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from jax_irkd import command_line
from jax_irkd.errors import UserError
from jax_irkd.host.files import write_whole
from jax_irkd.host.interrupts import INTERRUPTED
from jax_irkd.reporting import write
from jax_irkd.runs import results
from jax_irkd.runs.results import Run, is_finished
from jax_irkd.studies import analysis, board, planning, processes, tables
from jax_irkd.studies.planning import PlannedRun
from jax_irkd.studies.processes import DONE, FAILED, STOPPED, WAITING, Key, Status


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    add = {"flag_values": values}
    flags.DEFINE_string("methods", ",".join(planning.DEFAULT_METHODS), "which methods", **add)
    flags.DEFINE_string("seeds", "3", "how many, or a list as 0,5,7", **add)
    flags.DEFINE_string("workdir", "runs/study", "where the runs lie, below seedN/METHOD", **add)
    flags.DEFINE_integer("jobs", 1, "runs side by side", lower_bound=1, **add)
    flags.DEFINE_bool("report_only", False, "write the tables of what is finished", **add)


def run(
    tasks: Sequence[PlannedRun], workdir: Path, jobs: int, console: Console
) -> dict[Key, Status]:
    """Carry out all tasks under a live table; the final state of each."""
    with board.Board(tasks, console) as watch:
        return processes.run_tasks(tasks, workdir, jobs, watch)


def write_outputs(workdir: Path, plan: Mapping[str, Any], status: Mapping[Key, Status]) -> dict:
    """Write study.md, study.json and the sections of the reports; the content of study.json.

    `plan` holds `command`, `methods` and `seeds`; `status` the state of every run of the study.
    """
    attempts = processes.read_attempts(workdir)
    status = dict(status)
    for key in ((seed, name) for seed in plan["seeds"] for name in ("teacher", "baseline")):
        if is_finished(workdir / f"seed{key[0]}" / key[1]):
            status.setdefault(key, Status(DONE))  # of an earlier study: what to compare with
    runs, broken = read_runs(workdir, status)
    summary = analysis.summarise(runs, plan["methods"], attempts)
    missing = {key: value for key, value in status.items() if value.state != DONE} | broken
    summary |= {
        "command": plan["command"],
        "seeds": plan["seeds"],
        "unfinished": [
            {"run": f"seed{seed}/{method}", "state": value.state, "reason": value.reason}
            for (seed, method), value in sorted(missing.items())
        ],
        "attempts": attempts,
    }
    write_whole(workdir / "study.json", json.dumps(summary, indent=1))
    write_whole(workdir / "study.md", tables.markdown(summary))
    made = tables.sections(summary)
    for folder in sorted({run.folder.parent for run in runs.values()}):
        try:
            write.write_report(folder, [], sections={"": made})
        except Exception as error:  # a page reads all runs beside it, broken ones too
            logging.warning("%s: the report is not written: %s", folder, error)
    return summary


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


def read_status(workdir: Path, plan: Mapping[str, Any]) -> dict[Key, Status]:
    """The state of every run of a plan, from what lies in the workdir."""
    last = {name: tries[-1] for name, tries in processes.read_attempts(workdir).items()}
    status = {}
    for seed, method in plan["runs"]:
        attempt = last.get(f"seed{seed}/{method}", {"state": WAITING, "reason": ""})
        done = is_finished(workdir / f"seed{seed}" / method)
        state = attempt["state"] if attempt["state"] != DONE else WAITING
        status[seed, method] = Status(DONE) if done else Status(state, attempt["reason"])
    return status


def _study(arguments: command_line.Arguments, argv: Sequence[str], console: Console) -> int:
    given, workdir = arguments.flags, Path(arguments.flags.workdir)
    plan_file = workdir / "plan.json"
    if given.report_only:
        if not plan_file.exists():
            raise UserError(
                f"{workdir} holds no study (no plan.json); run one, without report_only"
            )
        plan = json.loads(plan_file.read_text("utf-8"))
        status = read_status(workdir, plan)
    else:
        command_line.need_config(arguments)
        methods, seeds = planning.read_methods(given.methods), planning.read_seeds(given.seeds)
        tasks = planning.make_tasks(planning.read_settings(argv[1:]), methods, seeds, workdir)
        plan = {
            "command": "python -m jax_irkd.study " + shlex.join(argv[1:]),
            "methods": methods,
            "seeds": seeds,
            "runs": [task.key for task in tasks],
        }
        status = _carry_out(tasks, plan, workdir, given.jobs, console)
    summary = write_outputs(workdir, plan, status)
    return _conclude(workdir, summary, console)


def _carry_out(tasks, plan, workdir: Path, jobs: int, console: Console) -> dict[Key, Status]:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_whole(workdir / "plan.json", json.dumps(plan, indent=1))
    except OSError as error:
        raise UserError(
            f"cannot write to {workdir}: {error.strerror}; use another --workdir"
        ) from error
    return run(tasks, workdir, jobs, console)


def _conclude(workdir: Path, summary: Mapping[str, Any], console: Console) -> int:
    """Say what came out; the exit code: 1 when a run failed, 75 when one was stopped."""
    states = {entry["state"] for entry in summary["unfinished"]}
    for entry in summary["unfinished"]:
        log = workdir / f"{entry['run']}.log"
        line = ": ".join(filter(None, (f"{entry['run']} {entry['state']}", entry["reason"])))
        shown = f" ({log})" if entry["state"] == FAILED and log.exists() else ""
        console.print(line + shown, highlight=False, markup=False, soft_wrap=True)
    console.print(f"tables: {workdir / 'study.md'}", highlight=False, soft_wrap=True)
    if FAILED in states:
        return 1
    if STOPPED in states or WAITING in states:
        console.print("run the same command again to continue", highlight=False)
        return INTERRUPTED
    return 0


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 done, 1 a run failed, 2 the user's mistake, 75 stopped, to be continued."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    console = Console(width=None if sys.stdout.isatty() else 150)
    try:
        # Whether a distiller's fields are known depends on the method: `planning` looks.
        general = [arg for arg in argv if not arg.lstrip("-").startswith("config.distillers.")]
        return _study(command_line.parse(general, define), argv, console)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted at once; checkpoints are what remains", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))

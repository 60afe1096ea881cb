"""Many runs, one table: every method with every seed, compared with the infrared-only baseline.

python -m jax_irkd.study --config=configs/demo.py --workdir=runs/study --seeds=3
    --methods=baseline,st,at,sp,cc,rkd,ccskd,dkd,mgcam,ours [--jobs=1] [--dry_run] [--report_only]
    [--launcher=local|slurm|submitit-local|dask --needs=partition=gpu,gpus_per_node=1]

Run the same command again to continue. Writes study.md, study.json, study.png and answers.csv into
the workdir, the tables into the report.html of every seed, and the page of every run for all its
seeds.
Exit code: 1 when a run failed, 75 when one was stopped.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jax_irkd.errors import UserError
from jax_irkd.host import commands

METHODS = "baseline,st,at,sp,cc,rkd,ccskd,dkd,mgcam,ours"


def define(values) -> None:
    """The flags beside --config."""
    from absl import flags

    add = {"flag_values": values}
    flags.DEFINE_string("methods", METHODS, "which methods", **add)
    flags.DEFINE_string("seeds", "3", "how many, or a list as 0,5,7", **add)
    flags.DEFINE_string("workdir", "runs/study", "where the runs lie, below seedN/METHOD", **add)
    side = "runs side by side; 0: one here, all on a cluster"
    flags.DEFINE_integer("jobs", 0, side, lower_bound=0, **add)
    flags.DEFINE_string("launcher", "local", "local, slurm, submitit-local or dask", **add)
    needs = "of each run: NAME=VALUE,… as submitit or Dask's resources call them"
    flags.DEFINE_string("needs", "", needs, **add)
    flags.DEFINE_string("scheduler", "", "Dask's: its address or its file", **add)
    flags.DEFINE_bool("dry_run", False, "print every command and what it needs", **add)
    flags.DEFINE_bool("report_only", False, "write the tables of what is finished", **add)


def study(argv: list[str]) -> int:
    """Carry out the runs that are missing and write the tables; the exit code."""
    with commands.importing():
        from jax_irkd import command_line
        from jax_irkd.studies import planning

        settings = planning.read_settings(argv) if command_line.take_config(argv)[0] else None
        # Whether a distiller's fields are known depends on the method: `planning` looks.
        general = [arg for arg in argv if not arg.lstrip("-").startswith("config.distillers.")]
        asked = command_line.parse(general, define, __doc__)

        import shlex

        from jax_irkd.host.files import expanded, read_json
        from jax_irkd.host.terminal import make_console
        from jax_irkd.studies import clusters, outputs, rehearsal

    given, console = asked.flags, make_console(150)
    workdir = expanded(given.workdir)
    plan_file = workdir / "plan.json"
    if given.report_only:
        if not plan_file.exists():
            raise UserError(
                f"{workdir} holds no study (no plan.json); run one, without report_only"
            )
        plan = read_json(plan_file, "run the study again, without report_only")
        if not isinstance(plan, dict) or not {"command", "methods", "seeds", "runs"} <= set(plan):
            raise UserError(f"{plan_file} holds no plan; run the study again, without report_only")
        status = outputs.read_status(workdir, plan)
    else:
        command_line.need_config(asked)
        methods, seeds = planning.read_methods(given.methods), planning.read_seeds(given.seeds)
        elsewhere = given.launcher != "local"
        tasks = planning.make_tasks(settings, methods, seeds, workdir, elsewhere)
        needs = planning.read_needs(given.needs)
        launcher = clusters.make_launcher(given.launcher, given.jobs, needs, given.scheduler)
        if given.dry_run:
            where = " ".join(filter(None, (f"launcher {given.launcher}", given.needs)))
            for line in rehearsal.lines(tasks, workdir, where):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            return 0
        plan = {
            "command": "python -m jax_irkd.study " + shlex.join(argv),
            "methods": methods,
            "seeds": seeds,
            "runs": [task.key for task in tasks],
            "detection": tasks[0].detection,
        }
        status = run(tasks, workdir, launcher, console, lambda: _write(plan_file, plan))
    summary = outputs.write_outputs(workdir, plan, status)
    outputs.write_pages(workdir, plan["seeds"])
    again = f"to continue: {plan['command']}" if given.report_only else commands.AGAIN
    return conclude(workdir, summary, console, again)


def run(tasks: Sequence, workdir, launcher, console, begun=lambda: None) -> dict:
    """Carry out all tasks under a live table; the final state of each. `begun` as `run_tasks`."""
    from jax_irkd.studies import board, processes

    with board.StatusTable(tasks, console) as watch:
        return processes.run_tasks(tasks, workdir, launcher, watch, begun=begun)


def _write(path, plan: Mapping[str, Any]) -> None:
    """What is at work in the workdir, which a study that is refused there must not replace."""
    import json

    from jax_irkd.host.files import write_whole

    try:
        write_whole(path, json.dumps(plan, indent=1))
    except OSError as error:
        raise UserError(
            f"cannot write to {path.parent}: {error.strerror}; use another --workdir"
        ) from error


def conclude(workdir, summary: Mapping[str, Any], console, again: str = commands.AGAIN) -> int:
    """Say what came out, and `again` where runs are left; 1 when one failed, 75 when stopped."""
    from jax_irkd.studies import tables
    from jax_irkd.studies.attempts import FAILED, STOPPED, WAITING

    if summary["methods"]:
        console.print(tables.printed(summary))
    states = {entry["state"] for entry in summary["unfinished"]}
    for entry in summary["unfinished"]:
        log = workdir / f"{entry['run']}.log"
        line = ": ".join(filter(None, (f"{entry['run']} {entry['state']}", entry["reason"])))
        shown = f" ({log})" if entry["state"] == FAILED and log.exists() else ""
        console.print(line + shown, highlight=False, markup=False, soft_wrap=True)
    console.print(f"tables: {workdir / 'study.md'}", highlight=False, soft_wrap=True)
    if others := summary["not_asked_for"]:
        named = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if others[4:] else "")
        line = f"here too, and in no table: {named}; --seeds and --methods take them in"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if FAILED in states:
        return 1
    if STOPPED in states or WAITING in states:
        console.print(again, highlight=False, markup=False, soft_wrap=True)
        return commands.INTERRUPTED
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(study, argv, resumes=True)


if __name__ == "__main__":
    sys.exit(main())

"""Do a run's own programs compile for the devices here, and do they fit their memory?"""

import functools
import json
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

from ml_collections import ConfigDict

from jax_irkd.data.spec import SEES
from jax_irkd.errors import UserError
from jax_irkd.host import devices, failures
from jax_irkd.training import programs, setup
from jax_irkd.training.parallel import devices_of

CLASSES = 60  # their number changes next to nothing
REPORT = "please report it with these lines; JAX_PLATFORMS=cpu trains without the device"


class Finding(NamedTuple):
    """What came of one program, and what to do about it."""

    good: bool
    topic: str
    text: str
    remedy: str = ""


def compile_programs(config: ConfigDict) -> Iterator[Finding]:
    """Every program of a run with `config`, compiled for its devices and not run."""
    try:
        here = devices_of(config)
    except UserError as error:
        yield Finding(False, "programs", str(error))
        return
    fewer = {role: setup.too_little_memory(config, role, len(here)) for role in SEES}
    made = {}  # each with what to do where it does not fit
    for role in SEES:
        made[f"update of the {role}"] = _update, role, fewer[role]
        made[f"evaluation of the {role}"] = _evaluation, role, failures.OF_AN_EVALUATION
    if config.distillers:  # the first step of all, and one in twenty
        measuring = functools.partial(_update, measure=True)
        made["update of the student, measuring"] = measuring, "student", fewer["student"]
    for name, (make, role, less) in made.items():
        try:
            begin = time.monotonic()
            needed = programs.memory_of(make(config, role), here)
        except Exception as error:  # XLA's errors are of many kinds.
            said = f"{type(error).__name__}: {failures.first_line(error)}"
            yield Finding(False, name, said, failures.remedy(str(error), less) or REPORT)
            continue
        limit = (here[0].memory_stats() or {}).get("bytes_limit", 0)
        text = f"compiled in {time.monotonic() - begin:.0f} s, needs {needed / 1e9:.2f} GB"
        if limit and needed > limit:
            text = f"{text} of the {limit / 1e9:.2f} GB there are"
            yield Finding(False, name, text, less)
        else:
            yield Finding(True, name, text)


def _update(config: ConfigDict, role: str, measure: bool = False) -> programs.StepProgram:
    setup.check_shares(config, role)
    return programs.update_program(config, role, CLASSES, measure=measure)


def _evaluation(config: ConfigDict, role: str) -> programs.StepProgram:
    return programs.evaluation_program(config, role, CLASSES, len(devices_of(config)))


def tell(config: ConfigDict) -> None:
    """Print a line of JSON for each program.

    A run compiles its own again: its numbers of classes and of steps an epoch are part of them.
    """
    devices.start(distributed="off")
    for finding in compile_programs(config):
        print(json.dumps(finding), flush=True)


def in_a_process(command: list[str]) -> list[Finding]:
    """What `command` tells, and what it said when XLA ended it."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [row for row in done.stdout.splitlines() if row.startswith("[")]
    found = [Finding(*json.loads(row)) for row in rows]
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        telling = [line for line in lines if "Check failed" in line or "Error" in line]
        said = (telling or lines or ["it said nothing"])[-1][-200:]
        text = f"the compiler ended with code {done.returncode}: {said}"
        found.append(Finding(False, "programs", text, failures.remedy(done.stderr) or REPORT))
    return found

"""What a study would do: every command in its order, what it waits for, what it needs."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jax_irkd.errors import UserError, plural
from jax_irkd.reporting.wording import duration
from jax_irkd.runs.results import finished, number
from jax_irkd.studies.attempts import Attempt, is_done, log_path, read_attempts
from jax_irkd.studies.planning import PlannedRun


def lines(tasks: Sequence[PlannedRun], workdir: Path, where: str) -> Iterator[str]:
    """The text of `--dry_run`; `where` says who carries the runs out.

    Memory and time are those of runs of the same method that have ended in `workdir`, of any seed;
    of others they are not known.
    """
    tries = read_attempts(workdir)
    left = [task for task in tasks if not is_done(task)]
    yield f"{plural(len(left), 'run')} to do, {len(tasks) - len(left)} done; {where}"
    total, unknown = 0.0, 0
    for task in left:
        seconds, memory = _known(task, tasks, tries)
        total, unknown = total + (seconds or 0.0), unknown + (seconds is None)
        yield ""
        waits = f"after seed{task.needs[0]}/{task.needs[1]}" if task.needs else "at once"
        yield f"{task.name}: {waits}; {_words(seconds, memory)}; log {log_path(task)}"
        yield shlex.join(task.command)
    yield ""
    guess = f", of {plural(unknown, 'run')} not known" if unknown else ""
    yield f"one after the other: {duration(total)}{guess}" if total else "time not known"


def _words(seconds: float | None, memory: float | None) -> str:
    time = "time not known" if seconds is None else f"about {duration(seconds)}"
    room = "memory not known" if memory is None else f"{memory / 2**30:.1f} GiB of memory"
    return f"{time}, {room}"


def _known(
    task: PlannedRun, tasks: Sequence[PlannedRun], tries: Mapping[str, Sequence[Attempt]]
) -> tuple[float | None, float | None]:
    """Mean time and largest memory of finished runs of the same method."""
    seconds, peaks = [], []
    for other in tasks:
        if other.method != task.method or not is_done(other):
            continue
        own = tries.get(other.name, ())
        peaks += [attempt["peak_memory_bytes"] for attempt in own]
        spent = sum(attempt["wall_time_s"] for attempt in own) or _recorded(other)
        seconds += [spent] if spent else []
    return (float(np.mean(seconds)) if seconds else None, max(peaks, default=0) or None)


def _recorded(task: PlannedRun) -> float | None:
    try:
        return number((finished(task.folder) or {}).get("wall_time_s"))
    except UserError:
        return None

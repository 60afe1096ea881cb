"""Launchers for many machines: SLURM by submitit, and Dask.

Both need one file system on all machines and the same Python at the same place.
"""

import contextlib
import importlib.util
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax_irkd.errors import UserError, nearest, one_line
from jax_irkd.host.files import expanded, read_json, write_whole
from jax_irkd.host.interrupts import deaf_children
from jax_irkd.studies import attempts
from jax_irkd.studies.attempts import DONE, QUEUED, RUNNING, STOPPED, Attempt, Key, is_done
from jax_irkd.studies.planning import PlannedRun
from jax_irkd.studies.processes import Launcher, Local
from jax_irkd.studies.remote import Errand

LAUNCHERS = ("local", "slurm", "submitit-local", "dask")
STOP = "study.stop"  # in the workdir: runs on other machines look for it
JOBS = "jobs.json"
MANY = 10_000  # times that a run may go back into the queue
NEWS_S = 1.0  # seconds that Dask's word of an end may take to us


def make_launcher(name: str, jobs: int, needs: Mapping[str, Any], address: str = "") -> Launcher:
    """The launcher called `name`; `jobs` side by side, 0 for one here and all on a cluster.

    `needs` is what a run asks of a cluster, by the names of submitit's parameters or of Dask's
    resources; `address` is that of Dask's scheduler. Raises UserError for an unknown name, needs
    that mean nothing there, and where the library or the cluster is missing.
    """
    if name not in LAUNCHERS:
        raise UserError(f"unknown launcher {name!r}{nearest(name, LAUNCHERS)}")
    if name == "local":
        if needs or address:
            raise UserError("--needs and --scheduler are a cluster's; choose a --launcher too")
        return Local(jobs or 1)
    library = "dask" if name == "dask" else "submitit"
    if importlib.util.find_spec("distributed" if name == "dask" else library) is None:
        extra = "dask" if name == "dask" else "slurm"
        raise UserError(f"--launcher={name} needs {library}: pip install 'jax-irkd[{extra}]'")
    if name == "dask":
        return Dask(address, jobs, needs)
    if address:
        raise UserError("--scheduler is Dask's; SLURM needs none")
    return Submitit("slurm" if name == "slurm" else "local", jobs, needs)


class _Job(NamedTuple):
    """A run that was handed over: what the cluster knows it by, and since when."""

    task: PlannedRun
    handle: Any
    since: float


class _Cluster:
    """What the launchers have in common: the file that tells runs to stop."""

    poll_s = 2.0

    def begin(self, tasks: Sequence[PlannedRun], workdir: Path, lock: int) -> dict[Key, _Job]:
        self._stop = workdir / STOP
        self._stop.unlink(missing_ok=True)
        return {}

    def stop(self, handles: Iterable[_Job]) -> str:
        self._stop.touch()
        return ""

    def kill(self, handles: Iterable[_Job]) -> None:
        if list(handles):
            self._stop.touch()


class Submitit(_Cluster):
    """Jobs of submitit in arrays: of SLURM, or processes of this host to try it out.

    SLURM's go on when the study ends: a later start finds them again by WORKDIR/submitit/jobs.json.
    """

    def __init__(self, cluster: str, jobs: int, needs: Mapping[str, Any]):
        self._cluster, self._needs = cluster, _parameters(cluster, jobs, needs)
        self._slots = 0 if cluster == "slurm" else jobs or 1

    def begin(self, tasks: Sequence[PlannedRun], workdir: Path, lock: int) -> dict[Key, _Job]:
        super().begin(tasks, workdir, lock)
        import submitit

        self._folder = workdir / "submitit"
        self._folder.mkdir(parents=True, exist_ok=True)
        options = {f"{self._cluster}_max_num_timeout": MANY}
        try:
            made = submitit.AutoExecutor(self._folder, cluster=self._cluster, **options)
            made.update_parameters(**self._needs)
        except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"--launcher={self._cluster}: {one_line(error)}") from error
        self._executor = made
        return self._found_again(tasks) if self._cluster == "slurm" else {}

    def _found_again(self, tasks: Sequence[PlannedRun]) -> dict[Key, _Job]:
        """Jobs of an earlier start that are still queued or at work."""
        from submitit import SlurmJob

        known, now, found = self._known(), time.monotonic(), {}
        for task in tasks:
            if task.name in known:
                job = SlurmJob(self._folder, known[task.name])
                if not job.done(force_check=True):
                    found[task.key] = _Job(task, job, now)
        return found

    def _known(self) -> dict[str, str]:
        path = self._folder / JOBS
        return read_json(path, "delete it") if path.exists() else {}

    def start(self, ready: Sequence[PlannedRun], running: Mapping[Key, _Job]) -> dict[Key, _Job]:
        chosen = ready[: max(self._slots - len(running), 0)] if self._slots else list(ready)
        if not chosen:
            return {}
        errands = [Errand(task, self._stop, requeues=True) for task in chosen]
        with deaf_children():  # of submitit's local jobs: Ctrl-C is for the study
            jobs = self._executor.submit_array(errands)
        ids = {task.name: job.job_id for task, job in zip(chosen, jobs)}
        write_whole(self._folder / JOBS, json.dumps(self._known() | ids, indent=1))
        now = time.monotonic()
        return {task.key: _Job(task, job, now) for task, job in zip(chosen, jobs)}

    def state(self, handle: _Job) -> str:
        waits = ("PENDING", "REQUEUED", "SUSPENDED", "UNKNOWN")
        return QUEUED if handle.handle.state in waits else RUNNING

    def ended(self, handle: _Job, asked: bool) -> list[Attempt] | None:
        task, job, since = handle
        if not job.done():
            return None
        if job.paths.result_pickle.exists() and job.exception() is None:
            return job.result()
        reason = f"job {job.job_id} ended without an answer ({job.state.lower()})"
        return [attempts.lost(task, reason, time.monotonic() - since)]

    def stop(self, handles: Iterable[_Job]) -> str:
        if self._cluster != "slurm":
            return super().stop(handles)
        return f"goes on; the study's start finds it again, touch {self._stop} saves and ends it"

    def kill(self, handles: Iterable[_Job]) -> None:
        if self._cluster != "slurm":
            super().kill(handles)


def _parameters(cluster: str, jobs: int, needs: Mapping[str, Any]) -> dict[str, Any]:
    """`needs` as submitit calls them: SLURM's own options get the prefix that it asks for."""
    shared = {"timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "name"}
    found: dict[str, Any] = {"timeout_min": 240, "name": "jax_irkd"}
    for name, value in needs.items():
        found[name if name in shared else f"slurm_{name.removeprefix('slurm_')}"] = value
    if cluster == "slurm" and jobs:
        found["slurm_array_parallelism"] = jobs
    return found


class Dask(_Cluster):
    """Tasks of a Dask cluster; `needs` are the resources that its workers declare, as GPU=1."""

    def __init__(self, address: str, jobs: int, needs: Mapping[str, Any]):
        self._address = address or os.environ.get("DASK_SCHEDULER_ADDRESS", "")
        self._jobs, self._resources = jobs, dict(needs)
        if not self._address:
            raise UserError(
                "--launcher=dask needs the scheduler's address: --scheduler=tcp://HOST:8786, the "
                "path of its --scheduler-file, or DASK_SCHEDULER_ADDRESS"
            )

    def begin(self, tasks: Sequence[PlannedRun], workdir: Path, lock: int) -> dict[Key, _Job]:
        super().begin(tasks, workdir, lock)
        from distributed import Client

        file = expanded(self._address)
        where = {"scheduler_file": str(file)} if file.is_file() else {"address": self._address}
        try:
            self._client = Client(**where, timeout=20, set_as_default=False)
        except (OSError, ValueError) as error:
            said = one_line(error)
            raise UserError(f"no Dask scheduler answers at {self._address}: {said}") from error
        return {}

    def start(self, ready: Sequence[PlannedRun], running: Mapping[Key, _Job]) -> dict[Key, _Job]:
        room = self._jobs - len(running) if self._jobs else len(ready)
        now, started = time.monotonic(), {}
        for task in ready[: max(room, 0)]:
            errand = Errand(task, self._stop, requeues=False)
            asked = {"resources": self._resources} if self._resources else {}
            future = self._client.submit(errand, pure=False, retries=0, **asked)
            started[task.key] = _Job(task, future, now)
        return started

    def state(self, handle: _Job) -> str:
        return RUNNING if attempts.log_path(handle.task).exists() else QUEUED

    def ended(self, handle: _Job, asked: bool) -> list[Attempt] | None:
        task, future, since = handle
        if not future.done():
            return self._given_up(handle) if asked or is_done(task) else None
        if future.status == "finished":
            return future.result()
        with contextlib.suppress(Exception):
            reason = one_line(future.exception())
            return [attempts.lost(task, f"{future.status} ({reason})", time.monotonic() - since)]
        return [attempts.lost(task, f"Dask says {future.status}", time.monotonic() - since)]

    def _given_up(self, handle: _Job) -> list[Attempt] | None:
        """Of a run that no worker holds: it waits for one, or its worker went; else None.

        One that has just ended is held by none either, and tells what it took.
        """
        task, future, since = handle
        if any(future.key in keys for keys in self._client.processing().values()):
            return None
        with contextlib.suppress(TimeoutError):
            future.exception(timeout=NEWS_S)
            return self.ended(handle, asked=False)
        future.cancel()
        left = attempts.lost(task, "no worker holds it", time.monotonic() - since)
        return [left | ({"state": DONE, "reason": ""} if is_done(task) else {"state": STOPPED})]

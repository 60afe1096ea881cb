"""The launchers for many machines: submitit's own local jobs and a real Dask of this host."""

import contextlib
import re
import shlex
import signal
import threading
import types

import pytest

from jax_irkd import study
from jax_irkd.errors import UserError
from jax_irkd.host.files import read_json
from jax_irkd.studies import attempts, clusters, planning, processes
from jax_irkd.studies.attempts import DONE, FAILED, STOPPED, Status
from tests.helpers.short_runs import kill_when, tasks_in, touch


@contextlib.contextmanager
def _dask():
    distributed = pytest.importorskip("distributed")
    options = {"processes": False, "dashboard_address": None, "n_workers": 1}
    with distributed.LocalCluster(**options, threads_per_worker=4, silence_logs=50) as cluster:
        yield cluster.scheduler_address


@contextlib.contextmanager
def _launcher(name, jobs=0):
    if name == "dask":
        with _dask() as address:
            launcher = clusters.make_launcher(name, jobs, {}, address)
            yield launcher
            launcher._client.close()
    else:
        pytest.importorskip("submitit")
        yield clusters.make_launcher(name, jobs, {})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("name", ["submitit-local", "dask"])
def test_a_killed_run_costs_only_itself_and_a_stopped_one_goes_on(tmp_path, name):
    tasks = tasks_in(tmp_path, ("teacher", "baseline", "ours"))
    below = tmp_path / "seed0"
    touch(below / "baseline" / "slow")
    touch(below / "teacher" / "slow")

    def strike():
        kill_when(below / "baseline" / "metrics.jsonl")
        (below / "teacher" / "slow").unlink() if name == "dask" else kill_when(
            below / "teacher" / "metrics.jsonl", signal.SIGTERM
        )
        (below / "teacher" / "slow").unlink(missing_ok=True)

    striker = threading.Thread(target=strike)
    striker.start()
    with _launcher(name, jobs=3) as launcher:
        seen = []
        watch = lambda now: seen.append(dict(now))  # noqa: E731
        status = processes.run_tasks(tasks, tmp_path, launcher, watch, poll=0.05)
    striker.join()
    assert status[0, "teacher"] == status[0, "ours"] == Status(DONE)
    assert status[0, "baseline"].state == FAILED
    assert status[0, "baseline"].reason.startswith("killed by SIGKILL (out of memory?)")
    assert all(
        now[0, "ours"].state == "waiting" or now[0, "teacher"] == Status(DONE) for now in seen
    )
    tries = attempts.read_attempts(tmp_path)
    assert tries["seed0/ours"][-1]["peak_memory_bytes"] > 2**20
    assert (below / "ours.log").exists()  # where the local runner has it
    if name != "dask":  # exit code 75, and back into the queue without us
        assert [t["exit_code"] for t in tries["seed0/teacher"]] == [75, 0]
        assert [t["state"] for t in tries["seed0/teacher"]] == [STOPPED, DONE]
        assert set(read_json(tmp_path / "submitit" / "jobs.json")) == {t.name for t in tasks}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library
def test_a_signal_stops_the_runs_of_a_cluster(tmp_path):
    tasks = tasks_in(tmp_path, ("baseline",))
    touch(tasks[0].folder / "slow")
    asked = []

    def interrupt(status):
        if (tasks[0].folder / "metrics.jsonl").exists() and not asked:
            asked.append(signal.raise_signal(signal.SIGINT))

    with _launcher("dask") as launcher:
        status = processes.run_tasks(tasks, tmp_path, launcher, interrupt, poll=0.05)
        assert status[0, "baseline"].state == STOPPED
        assert (tasks[0].folder / "saved").read_text() == "1"
        (tasks[0].folder / "slow").unlink()
        status = processes.run_tasks(tasks, tmp_path, launcher, lambda now: None, poll=0.05)
    assert status[0, "baseline"].state == DONE and not (tmp_path / clusters.STOP).exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library
def test_a_run_that_waits_for_a_worker_does_not_hold_up_the_end(tmp_path):
    tasks = tasks_in(tmp_path, ("teacher", "baseline"))
    with _dask() as address:
        launcher = clusters.make_launcher("dask", 0, {"GPU": 1}, address)  # which none has

        def interrupt(status):
            if status[0, "teacher"].state == "queued":
                touch(tasks[1].folder / "results.json")  # somebody else's work
                signal.raise_signal(signal.SIGINT)

        status = processes.run_tasks(tasks, tmp_path, launcher, interrupt, poll=0.1)
        launcher._client.close()
    assert status[0, "teacher"] == Status(STOPPED, "no worker holds it: it said nothing")
    assert status[0, "baseline"] == Status(DONE)


def test_a_run_that_has_just_ended_tells_what_it_took(tmp_path):
    """Its results are there and no worker holds it any more, but Dask's word is on its way."""
    pytest.importorskip("distributed")

    class Late:
        key, status = "errand", "pending"

        def done(self):
            return self.status != "pending"

        def exception(self, timeout):
            self.status = "finished"

        def result(self):
            return [{"state": DONE, "peak_memory_bytes": 2**30}]

    [task] = tasks_in(tmp_path, ("baseline",))
    touch(task.folder / "results.json")
    launcher = clusters.make_launcher("dask", 0, {}, "tcp://nowhere:8786")
    launcher._client = types.SimpleNamespace(processing=dict)
    [attempt] = launcher.ended(clusters._Job(task, Late(), 0.0), asked=False)
    assert attempt == {"state": DONE, "peak_memory_bytes": 2**30}


def test_what_slurm_is_asked_for(tmp_path):
    slurm = pytest.importorskip("submitit.slurm.slurm")
    needs = planning.read_needs("partition=gpu,gpus_per_node=1,mem_gb=64,timeout_min=30,qos=long")
    asked = clusters._parameters("slurm", 6, needs)
    assert asked["slurm_partition"] == "gpu" and asked["slurm_array_parallelism"] == 6
    own = {k.removeprefix("slurm_"): v for k, v in asked.items() if k.startswith("slurm_")}
    text = slurm._make_sbatch_string(
        "true", tmp_path, time=asked["timeout_min"], map_count=9, **own
    )
    for line in ("--array=0-8%6", "--partition=gpu", "--qos=long", "--time=30", "--signal=USR2@90"):
        assert f"#SBATCH {line}" in text, text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("slrum", 0, {}), "unknown launcher 'slrum'; did you mean 'slurm'"),
        (("local", 0, {"mem_gb": 3}), "--needs and --scheduler are a cluster's"),
        (("dask", 0, {}), "needs the scheduler's address"),
        (("submitit-local", 0, {}, "tcp://x:1"), "--scheduler is Dask's"),
    ],
)
def test_launchers_that_cannot_be(monkeypatch, arguments, message):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UserError, match=re.escape(message)):
        clusters.make_launcher(*arguments)
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jax-irkd\[slurm\]'"):
        clusters.make_launcher("slurm", 0, {})


def test_without_slurm_it_is_said(tmp_path):
    submitit = pytest.importorskip("submitit")
    if submitit.SlurmExecutor.affinity() > 0:
        pytest.skip("this is a SLURM cluster")
    launcher = clusters.make_launcher("slurm", 0, {})
    with pytest.raises(UserError, match=r"--launcher=slurm: .*srun"):
        processes.run_tasks(tasks_in(tmp_path), tmp_path, launcher, lambda now: None)
    launcher = clusters.make_launcher("submitit-local", 0, {"colour": "red"})
    with pytest.raises(UserError, match="colour"):
        processes.run_tasks(tasks_in(tmp_path), tmp_path, launcher, lambda now: None)


def test_a_dry_run_prints_what_would_be_done_and_does_nothing(tmp_path, capsys):
    asked = f"--config=configs/demo.py --methods=baseline,at --seeds=2 --workdir={tmp_path}"
    (tmp_path / "seed0" / "baseline").mkdir(parents=True)
    (tmp_path / "seed0" / "baseline" / "results.json").write_text("{}")
    attempt = {"run": "seed0/baseline", "wall_time_s": 754.0, "peak_memory_bytes": 3 * 2**30}
    attempts.record(tmp_path, attempt)
    before = sorted(tmp_path.rglob("*"))
    assert study.main([*asked.split(), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "5 runs to do, 1 done; launcher local" in said
    assert "seed1/baseline: at once; about 12 min 34 s, 3.0 GiB of memory" in said
    assert "seed1/at: after seed1/teacher; time not known, memory not known" in said
    assert "one after the other: 12 min 34 s, of 4 runs not known" in said
    commands = [shlex.split(line) for line in said.splitlines() if " -m jax_irkd.main " in line]
    assert len(commands) == 5 and all(f"--workdir={tmp_path}/seed" in " ".join(c) for c in commands)


@pytest.mark.parametrize("text", ["gpus", "gpus=", "=1"])
def test_needs_that_cannot_be_read(text):
    with pytest.raises(UserError, match="write NAME=VALUE"):
        planning.read_needs(text)
    assert planning.read_needs("a=1, b=2.5,c=x") == {"a": 1, "b": 2.5, "c": "x"}

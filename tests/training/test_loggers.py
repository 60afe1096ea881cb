"""Who else is told of a run's scalars: the real libraries, offline, and a class of one's own."""

import contextlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import time

import pytest

from jax_irkd import algorithm
from jax_irkd.errors import UserError
from jax_irkd.training.logs import RunLog, read_log
from tests.helpers import fakes

FACTS = {"name": "ours", "config": {"seed": 3, "input": {"resolution": 96}}}


class Kept:
    """A user's own logger."""

    said: list = []  # noqa: RUF012

    def __init__(self, folder, facts):
        self.folder = folder
        Kept.said.append(facts["name"])

    def write(self, step, kind, scalars, when):
        Kept.said.append((step, kind, dict(scalars)))
        if scalars.get("loss") == 7.0:
            raise ConnectionError("the network is down")

    def close(self):
        Kept.said.append("closed")


OWN = f"{__name__}.Kept"


@contextlib.contextmanager
def _log(folder, names, first=0):
    log = RunLog(folder, first, loggers=names, facts=FACTS)
    yield log
    log.close()


def test_a_class_of_ones_own_is_told_and_cannot_stop_a_run(tmp_path, caplog):
    Kept.said.clear()
    with _log(tmp_path, (OWN,)) as log, caplog.at_level(logging.ERROR):
        log.write(10, "train", {"loss": 2.0, "spread": float("nan")})
        log.write(20, "train", {"loss": 7.0})
        log.write(30, "eval", {"top1": 0.5})
    assert Kept.said == ["ours", (10, "train", {"loss": 2.0}), (20, "train", {"loss": 7.0})]
    assert caplog.text.count("the network is down") == 1 and "gets nothing more" in caplog.text
    assert [line["step"] for line in read_log(tmp_path)] == [10, 20, 30]  # the record is whole
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tensorbord", "unknown logger 'tensorbord'; did you mean 'tensorboard'"),
        ("nobody.has.This", "logger 'nobody.has.This' cannot be imported: No module"),
        (f"{__name__}.Nothing", "cannot be imported"),
        ("wandb", r"pip install 'jax-irkd\[wandb\]'"),
    ],
)
def test_loggers_that_cannot_be_are_refused_before_anything_begins(
    tmp_path, monkeypatch, name, said
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "wandb" else find(n))
    config = fakes.config()
    config.loggers = (name,)
    with pytest.raises(UserError, match=said):
        algorithm.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def _write_twice(folder, name):
    """A run that is stopped after step 10 and taken up again."""
    for first, step in ((0, 10), (10, 20)):
        with _log(folder, (name,), first) as log:
            log.write(step, "train", {"loss": 1.0 / step, "dkd/pull": 0.5})
            log.write(step, "eval", {"top1": step / 100})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library
def test_mlflow_holds_one_run_with_every_step(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'store'}")
    _write_twice(tmp_path / "runs" / "ours", "mlflow")
    client = mlflow.MlflowClient()
    [experiment] = [e for e in client.search_experiments() if e.name == "jax_irkd"]
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.1), (20, 0.05)]
    assert run.data.params["input.resolution"] == "96" and run.info.run_name == "runs/ours"
    assert run.data.metrics["eval/top1"] == 0.2 and run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library
def test_wandb_keeps_one_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("DIR", str(tmp_path))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    folder = tmp_path / "runs" / "ours"
    folder.mkdir(parents=True)
    _write_twice(folder, "wandb")
    name = (folder / "wandb_id").read_text().strip()
    kept = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(kept) == 2 and all(path.name.endswith(name) for path in kept)
    words, content = (b"train/loss", b"eval/top1", b"dkd/pull", b"0.05", b"jax_irkd"), b""
    ends = time.monotonic() + 30  # a process of the library's writes them
    while not all(word in content for word in words) and time.monotonic() < ends:
        content = b"".join(next(path.glob("*.wandb")).read_bytes() for path in kept)
    assert all(word in content for word in words)


@pytest.mark.slow
def test_events_are_written_without_torch(tmp_path):
    """Where PyTorch is installed tensorboardX would import it, for the name of a type."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')\n")
    code = (
        "import sys, pathlib; from jax_irkd.training.logs import RunLog; "
        "log = RunLog(pathlib.Path(sys.argv[1]), 0); log.write(1, 'train', {'loss': 1.0}); "
        "log.close(); assert 'torch' not in sys.modules; import torch"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", ""), "."]))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert "torch is imported" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["loss"] == 1.0
    assert list((tmp_path / "run" / "tensorboard").iterdir())

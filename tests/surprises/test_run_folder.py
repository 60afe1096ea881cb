"""A run's folder: one command at a time, whole files, damage that is said and stops no other."""

import io
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from rich.console import Console

from jax_irkd import algorithm, errors
from jax_irkd.errors import UserError
from jax_irkd.host import devices, files, locks
from jax_irkd.reporting import write
from jax_irkd.runs import lifecycle, results
from jax_irkd.runs.network import describe_network, load_network
from jax_irkd.studies import attempts
from jax_irkd.training import setup
from jax_irkd.training.checkpoints import Checkpoints
from jax_irkd.training.logs import read_log
from tests.helpers import ROOT, fakes, generated_runs
from tests.surprises.test_identity import quick, save, scores

__all__ = ["quick"]  # a fixture: runs that end at once

GARBAGE = {
    "empty": b"",
    "cut": b'{"steps": 3, "metr',
    "list": b"[1, 2, 3]",
    "null": b"null",
    "number": b"7",
    "text": b'"results"',
    "other object": b'{"metrics": [], "step": []}',
    "deep": b"[" * 50_000,
    "binary": bytes(range(256)) * 3,
    "zeros": bytes(4096),
}
FILES = ("results.json", "scores.npz", "metrics.jsonl", "report_sections.json")


@pytest.fixture(autouse=True)
def not_said_yet():
    errors.once.cache_clear()


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    return generated_runs.generate_runs(folder, clips=20, steps=12)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", GARBAGE)
def test_a_damaged_file_stops_no_other_run(three, tmp_path, capsys, name, kind):
    shutil.copytree(three, tmp_path / "work")
    (tmp_path / "work" / "baseline" / name).write_bytes(GARBAGE[kind])
    left = [run.name for run in results.read_runs(tmp_path / "work")]
    assert left[0] == "teacher" and left[-1] == "ours"
    table = io.StringIO()
    write.print_table(tmp_path / "work", Console(file=table, width=100))
    assert "Ours" in table.getvalue()
    said = capsys.readouterr().err
    if len(left) < 3:
        assert f"baseline/{name}" in said and "left out" in said and said.count("\n") == 1
    else:
        assert not said


NO_FILES = {
    "folder": lambda path: path.mkdir(),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_stops_no_other_run(three, tmp_path, capsys, name, kind):
    shutil.copytree(three, tmp_path / "work")
    path = tmp_path / "work" / "baseline" / name
    path.unlink(missing_ok=True)
    NO_FILES[kind](path)
    write.print_table(tmp_path / "work", Console(file=io.StringIO(), width=100))
    for run in results.read_runs(tmp_path / "work"):
        read_log(tmp_path / "work" / run.name)
    write.has_section(tmp_path / "work" / "baseline", "Study")
    said = capsys.readouterr().err
    assert kind != "folder" or f"baseline/{name}" in said


def test_a_place_that_cannot_be_written_is_named_itself(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(IsADirectoryError) as error:
        files.write_whole(tmp_path / "report.html", "new")
    assert error.value.filename == str(tmp_path / "report.html")
    with pytest.raises(FileNotFoundError) as error:
        files.write_whole(tmp_path / "nowhere" / "a.json", "new")
    assert error.value.filename.endswith("nowhere/a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("name", ["results.json", "scores.npz"])
def test_a_damaged_run_says_what_to_do(three, tmp_path, name, kind):
    shutil.copytree(three / "ours", tmp_path / "ours")
    (tmp_path / "ours" / name).write_bytes(GARBAGE[kind])
    try:
        results.read_run(tmp_path / "ours")
    except UserError as error:
        assert name in str(error) and "delete results.json there" in str(error)
    else:
        assert (name, kind) == ("results.json", "never")


@pytest.mark.parametrize("kind", GARBAGE)
def test_sections_that_are_damaged_are_left_out(three, tmp_path, capsys, kind):
    shutil.copytree(three / "ours", tmp_path / "ours")
    (tmp_path / "ours" / "report_sections.json").write_bytes(GARBAGE[kind])
    assert not write.has_section(tmp_path / "ours", "Study")
    assert "report_sections.json" in capsys.readouterr().err


def test_scores_that_are_others(tmp_path):
    for arrays in (
        {"clip_id": ["a"], "label": [0], "logits": [1.0]},
        {"clip_id": ["a", "a"], "label": [0, 1], "logits": np.eye(2)},
        {"clip_id": ["a"], "label": [0, 1], "logits": np.eye(2)},
        {"clip_id": ["a", "b"], "label": ["x", "y"], "logits": np.eye(2)},
        {"clip_id": ["a", "b"], "label": [0, 1], "logits": np.array([["x", "y"]] * 2)},
        {"label": [0, 1], "logits": np.eye(2)},
    ):
        np.savez(tmp_path / "scores.npz", **arrays)
        with pytest.raises(UserError, match=r"scores\.npz"):
            results.read_scores(tmp_path)
    with zipfile.ZipFile(tmp_path / "scores.npz", "w") as file:
        file.writestr("clip_id.npy", b"no array")
    with pytest.raises(UserError, match=r"scores\.npz"):
        results.read_scores(tmp_path)


@pytest.mark.parametrize("kind", GARBAGE)
def test_logs_skip_what_is_no_line(tmp_path, kind):
    good = b'{"step": 1, "kind": "train", "time": 2, "loss": 3}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + GARBAGE[kind] + b"\n" + good)
    assert [line["loss"] for line in read_log(tmp_path)] == [3, 3]
    (tmp_path / "attempts.jsonl").write_bytes(GARBAGE[kind] + b"\n")
    assert attempts.read_attempts(tmp_path) == {}


@pytest.mark.parametrize("kind", GARBAGE)
@pytest.mark.parametrize("method", ["teacher", "dkd"])
def test_a_run_killed_at_its_first_file_starts_again(tmp_path, quick, kind, method):
    (tmp_path / method).mkdir()
    (tmp_path / method / "config.json").write_bytes(GARBAGE[kind])
    algorithm.run(fakes.config("dkd"), tmp_path)
    assert quick == ["teacher", "dkd"]


def test_a_lost_configuration_is_not_any_configuration(tmp_path, quick):
    algorithm.run(fakes.config("baseline"), tmp_path)
    (tmp_path / "baseline" / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is lost.*method=baseline.*--restart"):
        algorithm.run(fakes.config("baseline", learning_rate=0.1), tmp_path)
    algorithm.run(fakes.config("baseline"), tmp_path)  # the same question has the same answer
    (tmp_path / "baseline" / "config.json").unlink()
    (tmp_path / "baseline" / "results.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is lost"):
        algorithm.run(fakes.config("baseline"), tmp_path)
    algorithm.run(fakes.config("baseline"), tmp_path, restart=True)
    assert quick == ["baseline"] * 2


def test_restart_empties_the_folder_and_no_other(tmp_path, quick):
    algorithm.run(fakes.config("dkd"), tmp_path)
    (tmp_path / "dkd" / "old").mkdir()
    algorithm.run(fakes.config("dkd", learning_rate=0.1), tmp_path / "other")
    algorithm.run(fakes.config("dkd"), tmp_path, restart=True)
    assert quick == ["teacher", "dkd"] * 2 + ["dkd"]
    assert not (tmp_path / "dkd" / "old").exists()


HOLD = """
import sys
from jax_irkd.host import locks

with locks.held(sys.argv[1]):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def another():
    """Another process that works in a folder until it is told to leave."""
    started = []

    def begin(folder):
        command = [sys.executable, "-c", HOLD, str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(command, cwd=ROOT, **pipes)
        started.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize(
    ("busy", "folder", "waits"),
    [
        ("auto", "dkd", False),
        ("auto", "teacher", True),
        ("refuse", "dkd", False),
        ("refuse", "teacher", False),
        ("wait", "dkd", True),
        ("wait", "teacher", True),
    ],
)
def test_a_second_command_waits_or_is_refused(
    tmp_path, monkeypatch, capsys, quick, another, busy, folder, waits
):
    process = another(tmp_path / folder)

    def end(seconds):
        process.stdin.close()
        process.wait()

    monkeypatch.setattr(locks, "sleep", end)
    if waits:
        algorithm.run(fakes.config("dkd"), tmp_path, busy=busy)
        said = capsys.readouterr().out
        assert f"another command (process {process.pid} on " in said and "waiting until" in said
        assert quick == ["teacher", "dkd"]
        return
    with pytest.raises(UserError, match=rf"another command \(process {process.pid} on .*--busy="):
        algorithm.run(fakes.config("dkd"), tmp_path, busy=busy)
    assert "dkd" not in quick


def test_a_restart_does_not_empty_a_folder_in_use(tmp_path, quick, another):
    algorithm.run(fakes.config("baseline"), tmp_path)
    another(tmp_path / "baseline")
    with pytest.raises(UserError, match="another command"):
        algorithm.run(fakes.config("baseline"), tmp_path, restart=True)
    assert (tmp_path / "baseline" / "results.json").exists()


def test_a_lock_ends_with_its_process(tmp_path, another):
    process = another(tmp_path / "run")
    process.kill()
    process.wait()
    with locks.held(tmp_path / "run"):
        pass


def test_a_lock_in_a_folder_that_was_deleted_counts_no_more(tmp_path, another):
    another(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with locks.held(tmp_path / "run"):
        pass


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A folder with two checkpoints."""
    monkeypatch.setattr(setup, "make_model", lambda *args, **kwargs: fakes.TinyModel())
    save(tmp_path / "ours", "infrared", step=2, value=0.25)
    save(tmp_path / "ours", "infrared", step=3, value=0.75)
    return tmp_path / "ours"


def damage_of(folder, step):
    """Every file of a checkpoint that is not empty."""
    return [p for p in sorted((folder / "checkpoints" / str(step)).rglob("*")) if p.is_file()]


def value_of(folder, **options):
    with Checkpoints(folder / "checkpoints", **options) as checkpoints:
        template = {"params": {"model": {"w": np.float32(0)}}, "batch_stats": {"model": {}}}
        found = checkpoints.restore(template)
    return found and float(found[0]["params"]["model"]["w"])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff" * 40], ids=["empty", "cut", "binary"])
def test_any_file_of_a_checkpoint_may_be_damaged(two, tmp_path, content):
    """The run goes on from this checkpoint or the one before, and says so; nothing else happens."""
    for number, path in enumerate(damage_of(two, 3)):
        copy = tmp_path / f"copy{number}" / "ours"
        shutil.copytree(two, copy)
        place = copy / path.relative_to(two)
        place.write_bytes(content)
        assert value_of(copy) in (0.25, 0.75), place


def test_an_older_checkpoint_does_not_carry_newer_figures(two):
    (two / "results.json").write_text(json.dumps({"steps": 3, "metrics": {"top1": 0.9}}))
    largest = max(damage_of(two, 3), key=lambda path: path.stat().st_size)
    largest.write_bytes(b"")
    for read in (load_network, describe_network):
        with pytest.raises(UserError, match=r"checkpoint 3 is damaged.*goes on after step 2"):
            read(two)
    (two / "results.json").unlink()  # a run that goes on: the step says which it is
    assert load_network(two)[1]["step"] == 2


def test_results_are_of_the_run_that_wrote_them(tmp_path):
    def trained():
        return scores(), {"class_names": ["a", "b", "c"]}

    lifecycle.carry_out(tmp_path / "run", {"a": 1}, trained, lambda found: None)
    with pytest.raises(UserError, match="a is 1, asked for 2"):
        lifecycle.carry_out(tmp_path / "run", {"a": 2}, trained, lambda found: None)
    assert not re.search("partial", str(list((tmp_path / "run").iterdir())))


def test_what_changes_nothing_does_not_make_another_run(tmp_path):
    """An older version wrote down what reads the clips; another one a field at its default."""

    def trained():
        return scores(), {"class_names": ["a", "b", "c"]}

    wrote = {"a": 1, "input.readers": "auto", "input.mixup": 0.0, "model.temporal": "none"}
    first = lifecycle.carry_out(tmp_path / "run", wrote, trained, lambda found: None)
    held = json.loads((tmp_path / "run" / results.IDENTITY).read_text())
    assert held == wrote
    assert lifecycle.differences(tmp_path / "run", {"a": 1}) == []
    assert lifecycle.carry_out(tmp_path / "run", {"a": 1}, trained, lambda found: None) == first
    wanted = {"a": 1, "input.mixup": 0.2}
    found = lifecycle.differences(tmp_path / "run", wanted)
    assert found == ["input.mixup is None, asked for 0.2"]


def test_a_workdir_deleted_while_it_is_used(tmp_path):
    def trained():
        shutil.rmtree(tmp_path / "run")
        return scores(), {"class_names": ["a", "b", "c"]}

    with pytest.raises(OSError, match="No such file") as error:
        lifecycle.carry_out(tmp_path / "run", {"a": 1}, trained, lambda found: None)
    assert error.value.filename  # what a command says before it ends with 2


def test_refusals_reach_every_process(monkeypatch):
    sent = []
    monkeypatch.setattr(devices.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        devices.multihost_utils, "broadcast_one_to_all", lambda room: sent.append(room) or room
    )

    def refuse():
        raise UserError("the folder is taken: 拍手")

    with pytest.raises(UserError, match="the folder is taken: 拍手"):
        devices.first_does(refuse)
    monkeypatch.setattr(devices.jax, "process_index", lambda: 1)
    monkeypatch.setattr(devices.multihost_utils, "broadcast_one_to_all", lambda room: sent[0])
    with pytest.raises(UserError, match="the folder is taken"):
        devices.first_does(time.sleep)

"""A disk that fills up while a run writes: nothing is lost, nothing waits for ever."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from jax_irkd import algorithm, main
from jax_irkd.training.events import Events
from jax_irkd.training.logs import RunLog, read_log
from tests.helpers import chaos


def test_lines_wait_for_space(tmp_path, caplog):
    log = RunLog(tmp_path, 0)
    log.write(1, "train", {"loss": 1.0})
    file = log._file
    with Path("/dev/full").open("ab", buffering=0) as log._file:
        log.write(2, "train", {"loss": 2.0})
        log.write(3, "train", {"loss": 3.0})
        assert not log.flush()
    assert [line["step"] for line in read_log(tmp_path)] == [1]
    log._file = file
    log.write(4, "train", {"loss": 4.0})
    assert [line["loss"] for line in read_log(tmp_path)] == [1.0, 2.0, 3.0, 4.0]
    assert caplog.text.count("disk is full; its lines wait") == 1
    log.close()


def test_events_stop_where_the_disk_is_full(tmp_path, caplog):
    events = Events(tmp_path)
    with Path("/dev/full").open("wb", buffering=0) as full:
        events._writer._py_recordio_writer._writer.close()
        events._writer._py_recordio_writer._writer = full
        for step in range(50):  # More than the queue of tensorboardX's own writer takes.
            events.add_scalar("train/loss", 1.0, step, 0.0)
        events.close()
    assert caplog.text.count("TensorBoard's curves stop here") == 1


def test_a_full_disk_ends_a_command_in_one_line(tmp_path, monkeypatch, capsys):
    def run(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/demo/ours/results.json")

    monkeypatch.setattr(algorithm, "run", run)
    workdir = f"--workdir={tmp_path}"
    assert main.main(["--config=configs/demo.py", workdir, "--distributed=off"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the disk is full (runs/demo/ours/results.json); free space" in error


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 3 MB; a checkpoint of the tiny network takes 0.3."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(not os.environ.get("CHAOS"), reason="make chaos")
@pytest.mark.parametrize("left", [60, 200, 330, 500])
def test_a_run_on_a_full_disk_ends_and_continues(tiny_disk, tmp_path, left):
    chaos.finish(chaos.start(tmp_path / "whole", "baseline", "--epochs=12"))
    filler = tiny_disk / "filler"
    filler.write_bytes(bytes(3 * 2**20 - left * 1024))
    process = chaos.start(tiny_disk, "baseline", "--epochs=12")
    _, error = process.communicate(timeout=300)
    assert process.returncode in (0, 2)
    assert process.returncode == 0 or "could not be written" in error or "disk is full" in error
    assert len(error) < 20_000, "pages of noise"
    filler.unlink()
    chaos.finish(chaos.start(tiny_disk, "baseline", "--epochs=12"))
    left, right = tmp_path / "whole" / "baseline", tiny_disk / "baseline"
    chaos.assert_identical(chaos.final_leaves(left), chaos.final_leaves(right))
    trained = [[line["loss"] for line in read_log(run) if line["kind"] == "train"]
               for run in (left, right)]  # fmt: skip
    assert trained[0] == trained[1]

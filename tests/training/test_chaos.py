"""Runs that are killed, stopped, moved and spread; `make chaos` runs the long ones too."""

import os
import shutil
import signal
import time

import numpy as np
import pytest

from jax_irkd.host.interrupts import INTERRUPTED
from jax_irkd.training.logs import read_log
from tests.helpers import chaos

LONG = bool(os.environ.get("CHAOS"))
STEPS = 21 if LONG else 12
SHORT = ("--sync_bn", f"--epochs={STEPS // 3}", "--eval_every=1")


def losses(folder) -> list[float]:
    return [line["loss"] for line in read_log(folder) if line["kind"] == "train"]


def evaluations(folder) -> np.ndarray:
    found = [line for line in read_log(folder) if line["kind"] == "eval"]
    return np.array([(line["step"], line["top1"], line["nll"]) for line in found])


def run(workdir, method, *options, devices=1, **environment):
    chaos.finish(chaos.start(workdir, method, *options, devices=devices, **environment))


def assert_close(one, other, method):
    """Two workdirs hold the same teacher and student, but for the order of sums."""
    for folder in ("teacher", method):
        assert len(losses(other / folder)) == STEPS
        left, right = evaluations(one / folder), evaluations(other / folder)
        np.testing.assert_allclose(left, right, rtol=1e-5)
        np.testing.assert_allclose(losses(one / folder), losses(other / folder), rtol=1e-5)
        left, right = chaos.final_leaves(one / folder), chaos.final_leaves(other / folder)
        for name in left:
            np.testing.assert_allclose(left[name], right[name], rtol=1e-3, atol=2e-5, err_msg=name)


def wait_for_step(process, folder, step: int) -> None:
    while process.poll() is None:
        if any(line["step"] >= step for line in read_log(folder)):
            return
        time.sleep(0.02)


@pytest.mark.skipif(not LONG, reason="make chaos")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("method", ["baseline", "ours"])
def test_thirty_kills_at_random_moments(tmp_path, number, method):
    options = [{"baseline": "--epochs=500", "ours": "--epochs=250"}[method]]
    run(tmp_path / "whole", method, *options)
    struck = chaos.kill_repeatedly(tmp_path / "cut", method, 30, *options, number=number)
    assert struck == 30, f"only {struck} signals fell into the run; make it longer"
    for folder in {"baseline": ["baseline"], "ours": ["teacher", "ours"]}[method]:
        left, right = tmp_path / "whole" / folder, tmp_path / "cut" / folder
        chaos.assert_identical(chaos.final_leaves(left), chaos.final_leaves(right))
        assert losses(left) == losses(right)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A teacher and its student on one device, never hurt: what the hurt ones must give."""
    workdir = tmp_path_factory.mktemp("whole")
    run(workdir, "dkd", *SHORT)
    return workdir


@pytest.mark.slow
def test_killed_mid_run_it_ends_the_same(whole, tmp_path):
    shutil.copytree(whole / "teacher", tmp_path / "teacher")
    for step in (3, 7) if LONG else (5,):
        process = chaos.start(tmp_path, "dkd", *SHORT)
        wait_for_step(process, tmp_path / "dkd", step)
        process.kill()
        process.communicate()
    chaos.finish(chaos.start(tmp_path, "dkd", *SHORT))
    left, right = whole / "dkd", tmp_path / "dkd"
    chaos.assert_identical(chaos.final_leaves(left), chaos.final_leaves(right))
    assert losses(left) == losses(right)
    steps = [line["step"] for line in read_log(right) if line["kind"] == "train"]
    assert steps == [*range(1, STEPS + 1)]


@pytest.mark.slow
def test_two_processes_give_what_one_gives_and_one_of_them_continues_alone(whole, tmp_path):
    """Two devices each; the second is told to stop in the student's fifth step."""
    shutil.copytree(whole / "teacher", tmp_path / "teacher")
    for process in chaos.start_together(tmp_path, "dkd", 2, 2, *SHORT, "--stop_at=5"):
        said = chaos.finish(process, INTERRUPTED)
        assert "run the same command again to continue" in said
    assert 5 <= len(losses(tmp_path / "dkd")) <= 8 < STEPS
    early = evaluations(tmp_path / "dkd")  # by both processes
    np.testing.assert_allclose(early[0], evaluations(whole / "dkd")[0], rtol=1e-5)
    run(tmp_path, "dkd", *SHORT, devices=4)
    assert_close(whole, tmp_path, "dkd")


@pytest.mark.skipif(not LONG, reason="make chaos")
def test_two_processes_with_two_devices_each_give_what_one_gives(whole, tmp_path):
    for process in chaos.start_together(tmp_path, "dkd", 2, 2, *SHORT):
        chaos.finish(process)
    assert_close(whole, tmp_path, "dkd")
    with np.load(tmp_path / "dkd" / "scores.npz") as scores:
        assert len(set(scores["clip_id"])) == len(scores["label"]) == 7


@pytest.mark.skipif(not LONG, reason="make chaos")
def test_one_to_eight_devices_give_the_same(tmp_path):
    run(tmp_path / "1", "ours", *SHORT)
    for devices in (2, 4, 8):
        run(tmp_path / str(devices), "ours", *SHORT, devices=devices)
        assert_close(tmp_path / "1", tmp_path / str(devices), "ours")


@pytest.mark.skipif(not LONG, reason="make chaos")
@pytest.mark.parametrize("save_every", [2, 1])
def test_a_signal_to_one_of_two_processes_stops_both(tmp_path, save_every):
    """And one continues alone."""
    options = ["--sync_bn", "--epochs=40", f"--save_every={save_every}"]
    processes = chaos.start_together(tmp_path, "baseline", 2, 1, *options)
    wait_for_step(processes[0], tmp_path / "baseline", 5)
    processes[1].send_signal(signal.SIGTERM)
    begun = time.monotonic()
    for process in processes:
        said = chaos.finish(process, INTERRUPTED)
        assert "run the same command again to continue" in said
    assert time.monotonic() - begun < 10
    stopped = len(losses(tmp_path / "baseline"))
    assert 5 <= stopped < 120
    run(tmp_path, "baseline", *options, devices=4)
    assert len(losses(tmp_path / "baseline")) == 120

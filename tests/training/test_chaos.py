"""Runs that are killed, stopped, moved and spread; `make chaos` runs the long ones too."""

import os
import signal
import time

import numpy as np
import pytest

from jax_irkd.host.interrupts import INTERRUPTED
from jax_irkd.training.logs import read_log
from tests.helpers import chaos

LONG = bool(os.environ.get("CHAOS"))


def losses(folder) -> list[float]:
    return [line["loss"] for line in read_log(folder) if line["kind"] == "train"]


def run(workdir, method, *options, devices=1, **environment):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=1"
    chaos.finish(chaos.start(workdir, method, *options, XLA_FLAGS=flags, **environment))


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


def test_killed_mid_run_it_ends_the_same(tmp_path):
    run(tmp_path / "whole", "baseline")
    for step in (3, 7) if LONG else (5,):
        process = chaos.start(tmp_path / "cut", "baseline")
        wait_for_step(process, tmp_path / "cut" / "baseline", step)
        process.kill()
        process.communicate()
    chaos.finish(chaos.start(tmp_path / "cut", "baseline"))
    left, right = tmp_path / "whole" / "baseline", tmp_path / "cut" / "baseline"
    chaos.assert_identical(chaos.final_leaves(left), chaos.final_leaves(right))
    assert losses(left) == losses(right)
    assert [line["step"] for line in read_log(right) if line["kind"] == "train"] == [*range(1, 13)]


def test_two_processes_with_two_devices_each_give_what_one_gives(tmp_path):
    options = ["--sync_bn", "--epochs=7"]  # 21 steps
    run(tmp_path / "one", "dkd", *options)
    for process in chaos.start_together(tmp_path / "many", "dkd", 2, 2, *options):
        chaos.finish(process)
    for folder in ("teacher", "dkd"):
        left, right = tmp_path / "one" / folder, tmp_path / "many" / folder
        assert len(losses(left)) == 21
        np.testing.assert_allclose(losses(left), losses(right), rtol=1e-5)
        one, many = chaos.final_leaves(left), chaos.final_leaves(right)
        for name in one:
            np.testing.assert_allclose(one[name], many[name], rtol=1e-3, atol=2e-5, err_msg=name)
    with np.load(tmp_path / "many" / "dkd" / "scores.npz") as scores:
        assert len(set(scores["clip_id"])) == len(scores["label"]) == 7


@pytest.mark.skipif(not LONG, reason="make chaos")
def test_one_to_eight_devices_give_the_same(tmp_path):
    options = ["--sync_bn", "--epochs=7"]  # 21 steps
    run(tmp_path / "1", "ours", *options)
    for devices in (2, 4, 8):
        run(tmp_path / str(devices), "ours", *options, devices=devices)
        for folder in ("teacher", "ours"):
            left, right = tmp_path / "1" / folder, tmp_path / str(devices) / folder
            np.testing.assert_allclose(losses(left), losses(right), rtol=1e-5)
            one, many = chaos.final_leaves(left), chaos.final_leaves(right)
            for name in one:
                np.testing.assert_allclose(one[name], many[name], rtol=1e-3, atol=2e-5)


def test_a_signal_to_one_of_two_processes_stops_both_and_one_continues_alone(tmp_path):
    options = ["--sync_bn", "--epochs=40"]
    processes = chaos.start_together(tmp_path, "baseline", 2, 1, *options)
    wait_for_step(processes[0], tmp_path / "baseline", 5)
    processes[1].send_signal(signal.SIGTERM)
    begun = time.monotonic()
    for process in processes:
        said = chaos.finish(process, INTERRUPTED)
        assert "run the same command again to continue" in said
    assert time.monotonic() - begun < (10 if LONG else 60)  # a shared machine may be slow
    stopped = len(losses(tmp_path / "baseline"))
    assert 5 <= stopped < 120
    run(tmp_path, "baseline", *options, devices=4)
    assert len(losses(tmp_path / "baseline")) == 120

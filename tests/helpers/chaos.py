"""Start `worker.py`, hurt it, start it again: what `make chaos` and a short test share."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from jax_irkd.host.interrupts import INTERRUPTED
from jax_irkd.training.checkpoints import Checkpoints
from tests.helpers import ROOT

TIMEOUT = 1800  # seconds; a machine that does other things too is slow


def start(
    workdir: Path, method: str, *options: str, devices: int = 1, **environment: str
) -> subprocess.Popen:
    """A worker process of its own, compiled as all tests are but for its number of devices."""
    counted = "--xla_force_host_platform_device_count="
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if not flag.startswith(counted)]
    variables = os.environ | {"XLA_FLAGS": " ".join([*flags, f"{counted}{devices}"])} | environment
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.worker", workdir, method, *options],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, expected: int = 0) -> str:
    """Wait for a worker; what it printed. Fails when its exit code is not `expected`."""
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == expected, f"exit code {process.returncode}\n{out}\n{err[-3000:]}"
    return out + err


def final_leaves(folder: Path) -> dict[str, np.ndarray]:
    """The newest checkpoint of a run."""
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.read(checkpoints.steps()[-1])[0]


def assert_identical(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def kill_repeatedly(
    workdir: Path, method: str, kills: int, *options: str, seed: int = 0, number=signal.SIGKILL
) -> int:
    """Run to the end through `kills` signals at random moments; how many struck a living run.

    A third of the moments fall into start-up, the others up to 1.5 s into the steps that
    this start added, saving and evaluation among them.
    """
    rng = random.Random(seed)
    for struck in range(kills):
        process, before = start(workdir, method, *options), logged(workdir)
        if struck % 3:
            while process.poll() is None and logged(workdir) == before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1.5))
        else:
            time.sleep(rng.uniform(0, 8))
        if process.poll() is not None:
            finish(process)
            return struck
        process.send_signal(number)
        _, err = process.communicate(timeout=TIMEOUT)
        allowed = {-number} if number == signal.SIGKILL else {-number, INTERRUPTED}
        assert process.returncode in allowed | {0}, f"{process.returncode}\n{err[-3000:]}"
    finish(start(workdir, method, *options))
    return kills


def logged(workdir: Path) -> int:
    """Bytes of all logs of a workdir: grows with every step."""
    return sum(path.stat().st_size for path in workdir.glob("*/metrics.jsonl"))


def start_together(workdir: Path, method: str, processes: int, devices: int, *options: str) -> list:
    """`processes` workers with `devices` virtual devices each, joined by jax.distributed."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    return [
        start(
            workdir,
            method,
            *options,
            devices=devices,
            COORDINATOR_ADDRESS=f"localhost:{port}",
            NUM_PROCESSES=str(processes),
            PROCESS_ID=str(index),
        )
        for index in range(processes)
    ]

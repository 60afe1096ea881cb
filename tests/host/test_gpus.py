"""Which GPUs a process takes, and that JAX takes them."""

import os
import socket
import subprocess
import sys

import pytest

from jax_irkd.host import devices, gpus
from tests.helpers import ROOT

FOUR = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
ONE_A_HOST = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "0"}
ONE_A_GPU = {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("environ", "taken"),
    [
        ({}, None),
        (FOUR, None),  # not under SLURM: JAX takes what it sees
        (ONE_A_HOST | FOUR, [0, 1, 2, 3]),
        (ONE_A_HOST, []),  # SLURM hides none: all
        (ONE_A_GPU | FOUR, None),  # JAX takes the one of SLURM_LOCALID
        (ONE_A_GPU | {"CUDA_VISIBLE_DEVICES": "0"}, [0]),  # --gpus-per-task=1
        (ONE_A_GPU | {"CUDA_VISIBLE_DEVICES": "GPU-6f1d"}, [0]),
        (ONE_A_GPU | {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_PER_TASK": "a100:2"}, [0, 1]),
        (ONE_A_GPU | FOUR | {"SLURM_GPUS_PER_TASK": "1"}, None),
        (ONE_A_HOST | FOUR | {"JAX_LOCAL_DEVICE_IDS": "0,1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "3"}, [0]),
    ],
)
def test_which_gpus_a_process_takes(environ, taken):
    assert gpus.of_this_process(environ) == taken


@pytest.mark.parametrize("plain", [False, True])
def test_joining_takes_them(plain, monkeypatch):
    given = {}
    monkeypatch.setattr(
        "jax.distributed.initialize", lambda *args, **options: given.update(options)
    )
    monkeypatch.setattr(devices.interrupts, "hear_again", lambda: None)
    address = dict(zip(devices._PLAIN, ("localhost:1", "2", "0"))) if plain else {}
    for name, value in (ONE_A_HOST | FOUR | {"SLURM_PROCID": "0"} | address).items():
        monkeypatch.setenv(name, value)
    devices._join("auto")
    assert given["local_device_ids"] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environ", "visible"),
    [(FOUR, "0,1,2,3"), ({}, "all"), ({"JAX_LOCAL_DEVICE_IDS": "2"} | FOUR, "2")],
)
def test_jax_takes_them_under_slurm(environ, visible):
    """A step of one task on one host, which is to take all it sees."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "1",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "JAX_COORDINATOR_PORT": port,
    }
    script = (
        "import jax; from jax_irkd.host import devices; devices._join('on'); "
        "print(jax.config.values['jax_cuda_visible_devices'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | slurm | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == [visible], done.stderr

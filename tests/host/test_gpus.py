"""Whether a GPU is to be expected, which GPUs a process takes, and that JAX takes them."""

import importlib
import logging
import os
import socket
import subprocess
import sys

import jax
import pytest

from jax_irkd import errors
from jax_irkd.errors import UserError
from jax_irkd.host import devices, gpus
from jax_irkd.inspection import checkup
from tests.helpers import ROOT

FOUR = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
ONE_A_HOST = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "0"}
ONE_A_GPU = {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "1"}


def in_a_process(script: str, environ: dict[str, str]) -> subprocess.CompletedProcess:
    """`script` by a Python of its own, which looks for devices anew."""
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


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


LOGGER = logging.getLogger("jax._src.xla_bridge")  # as JAX names it: the slow test below asks it


def search_that_fails():
    """JAX's search with a plugin that raises, on a machine that has a GPU."""
    try:
        raise RuntimeError("Unable to load cuDNN.\nIs it installed?")
    except RuntimeError:
        LOGGER.exception("Jax plugin configuration error: Exception when calling %s", "it")
    LOGGER.warning("An NVIDIA GPU may be present on this machine, but")
    return jax.devices("cpu")


@pytest.fixture
def nothing_said(monkeypatch):
    monkeypatch.setattr(gpus._ear, "said", "")
    errors.once.cache_clear()
    before = jax.config.jax_platforms
    yield
    errors.once.cache_clear()
    jax.config.update("jax_platforms", before)


def none_found():
    search_that_fails()
    raise AssertionError


@pytest.mark.parametrize(
    ("driver", "wheels", "note"),
    [
        (True, False, "an NVIDIA GPU is there: pip install"),
        (True, True, "an NVIDIA GPU is there (Unable to load cuDNN. Is it installed?): pip"),
        (False, True, "wheels are installed (Unable to load cuDNN. Is it installed?): start the c"),
    ],
)
def test_a_page_of_jax_becomes_the_reason_of_a_line(
    driver, wheels, note, nothing_said, monkeypatch, capfd
):
    monkeypatch.setattr("jax.local_devices", search_that_fails)
    monkeypatch.setattr(gpus, "has_driver", lambda: driver)
    monkeypatch.setattr(gpus, "has_wheels", lambda: wheels)
    jax.config.update("jax_platforms", None)
    devices.start("off")
    told = capfd.readouterr().err
    assert told.startswith("note: computing on the CPU, though ") and told.count("\n") == 1
    assert note in told and "Traceback" not in told


def test_where_no_device_is_found_the_error_says_why(nothing_said, monkeypatch, capfd):
    monkeypatch.setattr("jax.local_devices", none_found)
    with pytest.raises(UserError, match=r"finds no device \(Unable to load cuDNN. Is it inst.*\);"):
        devices.local()
    assert not capfd.readouterr().err


def test_what_jax_says_of_other_devices_is_not_lost(nothing_said, monkeypatch, capfd):
    def search():
        LOGGER.warning("A Google TPU may be present\non this machine")
        return jax.devices("cpu")

    monkeypatch.setattr("jax.local_devices", search)
    monkeypatch.setattr(gpus, "has_driver", lambda: False)
    devices.start("off")
    said = "note: JAX says of the devices: A Google TPU may be present on this machine\n"
    assert capfd.readouterr().err == said


def test_wheels_are_known_by_their_plugin(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert not gpus.has_wheels()
    (tmp_path / "jax_cuda13_plugin").mkdir()
    (tmp_path / "jax_cuda13_plugin" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert gpus.has_wheels()


def test_wheels_without_a_driver_are_worth_a_warning(nothing_said, monkeypatch):
    """A container that was started without its GPU; not where the CPU is asked for."""
    monkeypatch.setattr(gpus, "has_driver", lambda: False)
    monkeypatch.setattr(gpus, "has_wheels", lambda: True)
    jax.config.update("jax_platforms", None)
    (line,) = checkup.check_devices(None)
    assert line.colour == checkup.YELLOW and "CUDA wheels are installed (no driver" in line.text
    assert "--gpus all" in line.remedy
    jax.config.update("jax_platforms", "cpu")
    (line,) = checkup.check_devices(None)
    assert line.colour == checkup.GREEN


@pytest.mark.slow
def test_a_plugin_that_jax_cannot_use_ends_in_one_line(tmp_path):
    """The real search, and a plugin for CUDA that raises as the real one does without cuDNN."""
    plugin = tmp_path / "jax_plugins" / "xla_cuda12" / "__init__.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("def initialize():\n    raise RuntimeError('no cuDNN')\n")
    script = (
        "import sys; from jax_irkd.host import commands, devices; "
        "sys.exit(commands.run(lambda argv: devices.start('off'), []))"
    )
    done = in_a_process(script, {"JAX_PLATFORMS": "cuda", "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: JAX finds no device (no cuDNN); ")


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
    done = in_a_process(script, slurm | environ)
    assert done.stdout.split() == [visible], done.stderr

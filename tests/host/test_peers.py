"""A lost process ends the others: by plain processes, without JAX."""

import signal
import subprocess
import sys

import pytest

from tests.helpers import ROOT

PROCESS = """
import sys, time
from pathlib import Path
from jax_irkd.errors import UserError
from jax_irkd.host import commands, interrupts, peers

index, told = int(sys.argv[1]), Path(sys.argv[2])

def share(given):
    if index == 0:
        told.with_suffix(".new").write_bytes(given)
        told.with_suffix(".new").rename(told)
    while not told.exists():
        time.sleep(0.01)
    return told.read_bytes()

def body(argv):
    peers.GRACE = 0.2
    peers.watch(index, 3, share, "localhost")
    print("joined", flush=True)
    if (asked := sys.stdin.readline().strip()) == "mistake":
        raise UserError("only here")
    if asked != "well":
        time.sleep(60)

sys.exit(commands.run(body, resumes=True))
"""


@pytest.fixture
def three(tmp_path):
    """Three processes that know of each other."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(index), tmp_path / "told"],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(3)
    ]
    for process in started:
        assert process.stdout.readline() == "joined\n"
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("lost", "number", "said"),
    [
        (0, signal.SIGKILL, "error: process 0 of 3 is gone"),
        (2, signal.SIGKILL, "error: process 2 of 3 is gone"),
        (1, signal.SIGTERM, "error: process 1 of 3 was stopped by a signal"),
    ],
)
def test_a_process_that_is_gone_ends_the_others_with_one_line(three, lost, number, said):
    three[lost].send_signal(number)
    for index, process in enumerate(three):
        _, err = process.communicate(timeout=20)
        if index != lost:
            assert process.returncode == 75
            assert err.startswith(said) and err.count("\n") == 1
            assert "start all again with the same command" in err


def test_one_that_ends_well_ends_nobody_and_one_with_a_mistake_all(three):
    three[2].communicate("well\n", timeout=20)
    assert three[2].returncode == 0
    _, err = three[1].communicate("mistake\n", timeout=20)
    assert (three[1].returncode, err) == (2, "error: only here\n")
    _, err = three[0].communicate(timeout=20)
    assert three[0].returncode == 2
    assert err.startswith("error: process 1 of 3 ended with exit code 2; its own output may say")

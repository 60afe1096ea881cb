"""Processes that read: the batches that threads make, faults that are counted, and an end."""

import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from jax_irkd.data import loading, workers
from jax_irkd.errors import UserError
from jax_irkd.host import processor
from jax_irkd.runs.identity import identity_of
from jax_irkd.training import streams
from tests.data.test_loading import assert_same, reader, take
from tests.helpers import fakes

OPTIONS = {"seed": 3, "batch_size": 6, "first_step": 2, "process": (1, 2)}


def test_the_batches_are_those_of_threads_in_the_same_order_and_ones_own():
    expected = take(loading.training_batches(reader(), **OPTIONS), workers.DEPTH + 3)
    batches = loading.training_batches(reader(), **OPTIONS, processes=2)
    made = take(batches, workers.DEPTH + 3)
    batches.close()
    for left, right in zip(expected, made):  # compared at the end: no batch is written over
        assert_same(left, right)
        assert {k: v.dtype for k, v in left.items() if k != "clips"} == {
            k: v.dtype for k, v in right.items() if k != "clips"
        }


def test_the_order_of_balanced_classes_too():
    records = [fakes.record(label, i) for i, label in enumerate([0] * 8 + [1] * 2)]
    options = {"seed": 5, "batch_size": 4, "first_step": 1}
    options["balanced"] = [record["label"] for record in records]
    expected = take(loading.training_batches(reader(records), **options), 3)
    batches = loading.training_batches(reader(records), **options, processes=1)
    for left, right in zip(expected, take(batches, 3)):
        assert_same(left, right)
    batches.close()


def test_a_clip_that_cannot_be_read_is_counted_here_and_too_many_end_the_run(caplog):
    records = [fakes.record(i % 3, i) for i in range(12)]
    records[4]["rgb"], records[4]["clip_id"] = [b""] * 6, b"BROKEN"
    watched = reader(records)
    batches = loading.training_batches(watched, seed=0, batch_size=4, first_step=0, processes=1)
    take(batches, 3)
    batches.close()
    assert watched.faults.clips["BROKEN"] == 1 and "BROKEN cannot be decoded" in caplog.text
    for record in records[:8]:
        record["rgb"] = [b""] * 6
    strict = reader(records, max_broken=0.01)
    batches = loading.training_batches(strict, seed=0, batch_size=4, first_step=0, processes=1)
    with pytest.raises(UserError, match=r"could not be decoded, more than input\.max_broken"):
        take(batches, 20)


class Carrying(list):
    """Records that bring something along into the process that reads them."""

    def __init__(self, records, brought):
        super().__init__(records)
        self.brought = brought

    def __reduce__(self):
        return type(self), (list(self), self.brought)


class Deadly(Carrying):
    """Of which one ends any process but `brought`, as the kernel does without memory."""

    def __getitem__(self, index):
        if os.getpid() != self.brought:
            os.kill(os.getpid(), 9)
        return super().__getitem__(index)


def test_a_process_that_dies_ends_the_run_with_the_next_step():
    records = Deadly([fakes.record(0, i) for i in range(4)], os.getpid())
    batches = loading.training_batches(
        reader(records), seed=0, batch_size=2, first_step=0, processes=2
    )
    with pytest.raises(UserError, match=r"ended without a word.*input.readers=threads"):
        next(batches)


SCRIPT = """
    import os, signal, sys, time
    from jax_irkd.data import loading
    from tests.data.test_loading import reader
    if __name__ == "__main__":
        batches = loading.training_batches(
            reader(), seed=0, batch_size=4, first_step=0, processes=2
        )
        next(batches)
        children = []
        for task in os.listdir("/proc/self/task"):
            children += open(f"/proc/self/task/{task}/children").read().split()
        readers = [
            pid for pid in set(children)
            if b"spawn_main" in open(f"/proc/{pid}/cmdline", "rb").read()
        ]
        for pid in readers:
            for name in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(int(pid), name)  # a cluster or a terminal sends it to all
        for _ in range(12):
            next(batches)
        print(*readers, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_readers_outlive_a_cluster_s_signal_and_nobody_who_started_them(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300
    )
    readers = done.stdout.split()
    assert len(readers) == 2, done.stderr
    until = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in readers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in readers)


@pytest.mark.parametrize(
    ("readers", "backend", "cores", "safe", "expected"),
    [
        ("auto", "cpu", 16, True, 0),
        ("auto", "gpu", 16, True, 12),
        ("auto", "gpu", 2, True, 0),
        ("auto", "gpu", 16, False, 0),
        ("threads", "gpu", 16, True, 0),
        ("processes", "cpu", 2, False, 12),
    ],
)
def test_processes_read_where_a_gpu_learns(readers, backend, cores, safe, expected, monkeypatch):
    monkeypatch.setattr(streams.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(processor, "cores", lambda: cores)
    monkeypatch.setattr(workers, "can_start", lambda: safe)
    config = fakes.config()
    config.input.threads, config.input.readers = 12, readers
    assert streams.processes(config) == expected


def test_who_reads_does_not_make_another_run():
    made = fakes.config()
    before = identity_of(made, "baseline")  # of a run that knew no readers, too
    made.input.readers = "processes"
    assert identity_of(made, "baseline") == before and "input.readers" not in before


def test_only_a_main_program_that_bears_it_is_run_again_unasked(monkeypatch):
    class Main:
        __file__ = "/home/me/train.py"
        __spec__ = None

    monkeypatch.setitem(sys.modules, "__main__", Main)
    assert not workers.can_start()
    Main.__file__ = "/usr/bin/jax-irkd"
    assert workers.can_start()
    del Main.__file__
    assert workers.can_start()  # a notebook
    Main.__spec__ = type("Spec", (), {"name": "jax_irkd.main"})
    assert workers.can_start()
    Main.__spec__ = type("Spec", (), {"name": "mine.train"})
    assert not workers.can_start()


def test_no_process_that_reads_looks_at_the_devices():
    clips = Looking([fakes.record(0, i) for i in range(4)])
    batches = loading.training_batches(
        reader(clips), seed=0, batch_size=2, first_step=0, processes=1
    )
    names = np.unique(next(batches)["clip_id"])
    batches.close()
    assert list(names) == ["no device"]


class Looking(list):
    """Records that say whether JAX has begun to compute in the process that reads them."""

    def __getitem__(self, index):
        from jax._src import xla_bridge

        seen = b"devices" if xla_bridge.backends_are_initialized() else b"no device"
        return super().__getitem__(index) | {"clip_id": seen}


class Unplugged(Carrying):
    """On a disk that is gone as soon as the file `brought` is there."""

    def __getitem__(self, index):
        if self.brought.exists():
            raise OSError(5, "Input/output error")
        return super().__getitem__(index)


@pytest.mark.parametrize("processes", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_goes_away_ends_the_run_whoever_reads(processes, tmp_path):
    """Every replacement fails, too: reading has to give up, whatever share may be broken."""
    records = Unplugged([fakes.record(i % 3, i) for i in range(200)], tmp_path / "gone")
    watched = reader(records, max_broken=1.0)
    options = {"seed": 0, "batch_size": 2, "first_step": 0, "processes": processes}
    batches = loading.training_batches(watched, **options)
    next(batches)
    records.brought.touch()
    with pytest.raises(UserError, match=r"40 clips in a row.*OSError.*check the disk"):
        take(batches, 60)
    with pytest.raises(UserError, match=r"40 clips in a row"):  # before a process is started
        next(loading.training_batches(watched, **options | {"processes": 1}))

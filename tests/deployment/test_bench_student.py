"""Timings in turns, and what is printed."""

import json

import numpy as np
import pytest

from jax_irkd import bench_student, export
from jax_irkd.deployment import timing
from jax_irkd.training import setup
from tests.helpers import student_runs


class Counter:
    """A classifier that only counts its calls."""

    class_names, modality, num_segments, size = ("a", "b"), "infrared", 2, (8, 8)
    engine = "JAX 0.10 on cpu"

    def __init__(self, calls, name):
        self.manifest = {"precision": "int8", "parameters": 5_000_000, "flops": 2e9}
        self._calls, self._name = calls, name

    def __call__(self, clips):
        assert clips.shape == (3, 2, 8, 8, 1) and clips.dtype == np.uint8
        self._calls.append(self._name)
        return np.zeros((3, 2), np.float32)


def test_networks_take_turns():
    calls = []
    networks = {name: Counter(calls, name) for name in ("first", "second")}
    timings = timing.measure(networks, batch=3, repeats=4)
    assert calls == ["first", "second"] * 5
    for measured in timings:
        assert measured.kind == "JAX int8" and measured.parameters == 5_000_000
        np.testing.assert_allclose(measured.clips_per_second, 1e3 / measured.milliseconds)
        assert measured.slow_milliseconds >= measured.milliseconds
    assert "5.00     2.00" in timing.table(timings)


@pytest.mark.slow
def test_a_run_beside_its_export(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(setup, "make_model", student_runs.make_model)
    run = student_runs.write_run(tmp_path / "ours")
    path = tmp_path / "student.irkd"
    assert export.main([f"--run={run}", f"--out={path}"]) == 0
    capsys.readouterr()
    assert bench_student.main([str(run), str(path), "--repeats=2", "--json"]) == 0
    flax, exported = map(json.loads, capsys.readouterr().out.splitlines())
    assert (flax["kind"], exported["kind"]) == ("Flax float32", "JAX float32")
    assert flax["parameters"] == exported["parameters"] > 500
    assert flax["flops"] == exported["flops"] > 1e5
    assert bench_student.main([str(path), "--repeats=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "cores, jax" in lines[0] and lines[1].split()[:3] == ["network", "kind", "ms/clip"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere"], "nowhere does not exist; give a run's folder"),
        (["nowhere", "--engine=tvm"], "unknown engine 'tvm'; choose from auto, jax, onnxrunt"),
        (["nowhere", "--batch=0"], "--batch=0 and --repeats=20 must be positive"),
    ],
)
def test_mistakes(flags, message, capsys):
    assert bench_student.main(flags) == 2
    assert message in capsys.readouterr().err

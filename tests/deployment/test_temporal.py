"""The temporal shift in exported programs and files, and in streams."""

import jax
import numpy as np
import pytest

from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment import program
from jax_irkd.deployment.archive import export_run
from jax_irkd.deployment.classifier import open_classifier
from jax_irkd.deployment.recognizer import Recognizer
from jax_irkd.models import resnet
from jax_irkd.models.tsn import TSN
from jax_irkd.training import setup
from jax_irkd.training.evaluation import Network
from tests.helpers import networks, student_runs


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "segments"), [("shift", 1), ("shift", 3), ("causal", 3)])
def test_exported_programs_give_what_the_network_gives(kind, segments, monkeypatch):
    """Folded, with short convolutions, for any number of clips."""
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))
    model = TSN(num_classes=3, depth=10, width=8, temporal=kind)
    network = Network(model, networks.draw(model, 1, segments, 48, 48, 1))
    spec = InputSpec("infrared", segments, (48, 48), 48, 1.0)
    made = program.make_program(network, spec, winograd=64)
    assert made.folded
    called = jax.jit(made.function)
    for count in (1, 3):
        clips = program.check_clips(spec, count)
        np.testing.assert_allclose(called(made.weights, clips), made.reference(clips), atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_model", student_runs.make_model)
        folder = tmp_path_factory.mktemp("shifted") / "ours"
        yield student_runs.write_run(folder, width=8, temporal="shift")


FILM = np.random.default_rng(3).integers(0, 256, (1, 4, 48, 56, 1), dtype=np.uint8)


def _order_counts(file) -> bool:
    """Whether the film played backwards has other probabilities; logarithms, as they are sure."""
    logs = (np.log(np.maximum(file(film), 1e-30)) for film in (FILM, FILM[:, ::-1].copy()))
    return bool(np.abs(np.subtract(*logs)).max() > 0.01)


def _same(file, expected) -> None:
    for film in (FILM, FILM[:, ::-1].copy()):
        np.testing.assert_allclose(np.log(file(film)), np.log(expected(film)), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_exported_files_keep_the_order_of_frames(run, tmp_path):
    reference = open_classifier(run)
    assert _order_counts(reference)
    for precision in ("float32", "int8"):
        path = tmp_path / f"{precision}.irkd"
        export_run(run, path, precision=precision, measure=False)
        file = open_classifier(path)
        assert _order_counts(file)
        if precision == "float32":
            _same(file, reference)


@pytest.mark.slow
def test_onnx_files_keep_the_order_of_frames(run, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "student.onnx"
    export_run(run, path, kind="onnx")
    file = open_classifier(path)
    assert _order_counts(file)
    _same(file, open_classifier(run))
    several = np.concatenate([FILM, FILM[:, ::-1], FILM])
    np.testing.assert_allclose(file(several)[2:], file(FILM), atol=1e-5)


@pytest.mark.slow
def test_a_stream_played_backwards_has_other_probabilities(run):
    def watch(clips):
        recognizer = Recognizer(run, seconds=4 / 30, stride=4)
        return [recognizer.push(frame) for frame in clips[0]][-1].probabilities

    assert _order_counts(watch)

"""Integers in ONNX files: calibrated on training clips, refused where they cost too much."""

import json

import numpy as np
import pytest

from jax_irkd import export
from jax_irkd.deployment import accuracy, archive, clips, engines
from jax_irkd.deployment.classifier import open_classifier
from jax_irkd.detection import consensus
from jax_irkd.errors import UserError
from jax_irkd.models import resnet
from jax_irkd.runs.network import load_network
from jax_irkd.training import setup
from tests.helpers import fakes, student_runs

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from jax_irkd.deployment import onnx_graph, quantisation  # noqa: E402

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def convolution():
    """Four output channels of very different size; 64 grey levels in."""
    graph = onnx_graph.Graph()
    kernel = RNG.normal(size=(3, 3, 1, 4)).astype(np.float32) * np.float32([0.01, 1, 1, 30])
    layer = {"kernel": kernel, "bias": np.float32([1, -2, 3, 0])}
    pixels = graph.cast("clips", onnx.TensorProto.FLOAT)
    graph.add("Identity", graph.conv(pixels, layer, name="conv"), name="out")
    kinds = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    model = onnx_graph.finished(
        graph, {"clips": (kinds[0], ["b", 1, 8, 8])}, {"out": (kinds[1], ["b", 4, 8, 8])}
    )
    frames = [RNG.integers(0, 64, (1, 1, 8, 8), dtype=np.uint8) for _ in range(3)]
    return model, kernel, frames


def test_weights_have_a_scale_for_each_channel(convolution):
    """By the definition: q = round(w / s), s = max |w| / 127, no zero point."""
    model, kernel, frames = convolution
    made, used = quantisation.quantised(model, frames)
    assert used == 3
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    (weights,) = (value for value in held.values() if value.dtype == np.int8 and value.ndim == 4)
    wanted = kernel.transpose(3, 2, 0, 1)
    scale = np.abs(wanted).max(axis=(1, 2, 3)) / 127
    assert any(v.shape == (4,) and np.allclose(v, scale, rtol=1e-5) for v in held.values())
    error = weights - wanted / scale[:, None, None, None]
    assert np.abs(error).max() <= 0.5 + 1e-4
    exact = engines.compiled(model.SerializeToString(), "onnxruntime")(frames[0])[0]
    for engine in ("onnxruntime", "openvino"):
        pytest.importorskip(engine)
        found = engines.compiled(made.SerializeToString(), engine, "int8")(frames[0])[0]
        assert 0 < np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def test_no_processor_is_left_to_saturate(convolution):
    """Where there is no VNNI onnxruntime's quick products of 8-bit numbers clip their sums, which
    was an error of a fifth there; elsewhere only the option tells."""
    session = engines.compiled(convolution[0].SerializeToString(), "onnxruntime")._session
    options = session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_without_clips_nothing_is_calibrated(convolution):
    with pytest.raises(UserError, match=r"needs clips to calibrate with, .*calibration_clips=64"):
        quantisation.quantised(convolution[0], [])


def test_what_cannot_be_read_is_no_example(monkeypatch):
    class Reader:
        records = range(5)

        def centre(self, i):
            image = np.full((2, 4, 4, 1), i, np.uint8)
            return {"clips": {"infrared": image}, "label": i, "mask": np.float32(i != 2)}

    monkeypatch.setattr(clips, "_opened", lambda *_: (None, "infrared", "train", Reader()))
    found = [int(labels[0]) for _, labels in clips.evenly({}, "train", 5).batches]
    assert found == [0, 1, 3, 4]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_model", student_runs.make_model)
        patch.setitem(resnet.BLOCKS, 18, (resnet.BasicBlock, (1, 1, 1, 1)))
        patch.setattr(clips, "RENDERED", 2)
        yield student_runs.write_run(tmp_path_factory.mktemp("integers") / "ours", width=8)


@pytest.mark.slow
def test_a_run_in_integers(run, tmp_path, monkeypatch, capsys):
    """Calibrated on training clips, tested on all test clips, and all that stands in the card."""
    network, meta = load_network(run)
    dataset = json.loads(fakes.config().dataset.to_json_best_effort())
    meta["config"]["dataset"] |= {"protocols": dataset["protocols"]}
    monkeypatch.setattr(archive, "load_network", lambda folder, which: (network, meta))
    path, flags = tmp_path / "small.onnx", ["--precision=int8", "--calibration_clips=5"]
    command = [f"--run={run}", f"--out={path}", *flags]
    assert export.main(command) == 2  # its data set is nowhere
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--precision=int8 is calibrated on training clips of the run, and there are" in error
    read = []
    honest = setup.make_reader

    def noted(config, dataset, split, modalities):
        read.append(split)
        return honest(config, dataset, split, modalities)

    monkeypatch.setattr(clips, "make_reader", noted)
    monkeypatch.setattr("jax_irkd.data.loading.open_dataset", lambda *_: fakes.dataset())
    assert export.main([*command, "--max_drop=100"]) == 0
    assert read == ["train", "test"]
    file = open_classifier(path)
    manifest = file.manifest
    assert manifest["quantised_with"].startswith("5 clips of the train split of fake/three")
    assert manifest["accuracy"]["clips"] == 7 and manifest["precision"] == "int8"
    assert "test split of fake/three" in capsys.readouterr().out
    card = {entry.key: entry.value for entry in onnx.load(path).metadata_props}["model_card"]
    for text in ("calibrated with 5 clips of the train split", "same answers, top-1", ", int8,"):
        assert text in card
    batch = next(clips.of_split(meta, "test").batches)[0]
    expected = open_classifier(run, engine="jax")(batch)
    assert 0 < np.abs(file(batch) - expected).max() < 0.1
    step, past = file.frame_program()  # calibrated by the same clips
    logits = step(batch[0], past)[0].mean(axis=0, keepdims=True)
    np.testing.assert_allclose(consensus.softmax(logits), file(batch[:1]), atol=0.02)


def split(name, wrong):
    """Ten clips of class 1; `wrong` of them are black, which the worse network below misses."""
    frames = np.ones((10, 1, 2, 2, 1), np.uint8)
    frames[:wrong] = 0
    return clips.SplitClips(name, iter([(frames, np.ones(10, int))]))


def worse(batch):
    seen = batch.max(axis=(1, 2, 3, 4)) > 0
    return np.where(seen[:, None], [[0.2, 0.8]], [[0.8, 0.2]])


def right(batch):
    return np.tile([[0.2, 0.8]], (len(batch), 1))


@pytest.mark.parametrize(
    ("share", "lost", "max_drop", "message"),
    [
        (0.0, {"test": 1}, 10.0, ""),
        (0.0, {"test": 2}, 10.0, r"test clips, .*: 20\.0 points .* more than --max_drop=10; nothi"),
        (0.0, {"test": 1}, 0.0, r"10\.0 points of top-1 are lost, more than --max_drop=0"),
        # Validation subjects decide where there are some; the test split is only told.
        (0.1, {"test": 5, "validation": 0}, 1.0, ""),
        (0.1, {"test": 0, "validation": 1}, 1.0, r"validation clips, .*: 10\.0 points of top-1"),
    ],
)
def test_what_costs_too_much_is_refused(share, lost, max_drop, message, monkeypatch):
    monkeypatch.setattr(clips, "of_split", lambda _, name: split(f"{name} clips", lost[name]))
    meta = {"config": {"input": {"validation": share}}}
    if message:
        with pytest.raises(UserError, match=message):
            accuracy.accuracy_change(worse, right, meta, None, max_drop)
        return
    figures = accuracy.accuracy_change(worse, right, meta, None, max_drop)
    assert figures["top1_change"] == pytest.approx(-lost["test"] / 10)
    assert ("validation" in figures) == bool(share)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["a.irkd", "--precision=fp16"], "--precision=fp16 is for .onnx files, which GPUs run so"),
        (["a.onnx", "--calibration_clips=0"], "--calibration_clips=0 must be 1 or more (64, say)"),
        (["a.onnx", "--max_drop=-1"], "--max_drop=-1 0 or more"),
        (["a.onnx", "--max_drop=nan"], "--max_drop=nan 0 or more"),
    ],
)
def test_mistakes(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert export.main(["--run=nowhere", f"--out={flags[0]}", *flags[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1

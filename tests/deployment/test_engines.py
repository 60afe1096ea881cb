"""The same numbers from every engine, and which engine it is."""

import functools
import signal

import jax
import numpy as np
import pytest

from jax_irkd import predict
from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment import archive, classifier, engines, program
from jax_irkd.deployment.classifier import open_classifier
from jax_irkd.deployment.recognizer import Recognizer
from jax_irkd.errors import UserError
from jax_irkd.host import processor
from jax_irkd.models import resnet
from jax_irkd.models.tsn import TSN
from jax_irkd.training import setup
from jax_irkd.training.phase import Network
from tests.helpers import networks, student_runs

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from jax_irkd.deployment import onnx_program  # noqa: E402

OTHERS = ["onnxruntime", "openvino"]
# Both kinds of block, all temporal orders, both modalities; a crop that is cut and one resampled.
NETWORKS = {
    "basic": (10, "none", "infrared", (48, 60), False, 3),
    "shift": (10, "shift", "rgb", (53, 61), False, 3),
    "one segment": (10, "shift", "infrared", (53, 61), False, 1),
    "bottleneck": (14, "causal", "infrared", (48, 48), True, 2),
}


def _through_flax(network, clips, spec):
    step = jax.jit(functools.partial(classifier.probabilities, model=network.model, spec=spec))
    return step(network.variables, clips)


@pytest.mark.slow
@pytest.mark.parametrize("case", NETWORKS)
def test_graphs_give_what_the_network_gives(case, monkeypatch):
    """For any number of clips, in the oldest and the newest opset; fewer bits come close."""
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))
    monkeypatch.setitem(resnet.BLOCKS, 14, (resnet.Bottleneck, (1, 1, 2, 1)))
    depth, kind, modality, size, offset, segments = NETWORKS[case]
    model = TSN(num_classes=3, depth=depth, width=8, temporal=kind, input_offset=offset)
    channels = 3 if modality == "rgb" else 1
    network = Network(model, networks.draw(model, 1, segments, 48, 48, channels))
    spec = InputSpec(modality, segments, size, 48, 1.0 if size[0] == 48 else 0.9)
    clips = program.check_clips(spec, 3)
    expected = np.log(_through_flax(network, clips, spec))
    newest = onnx.defs.onnx_opset_version()
    for precision, opset, apart in (
        ("float32", 17, 1e-5),
        ("float32", newest, 1e-5),
        ("bf16", 17, 0.1),
        ("fp16", 17, 0.01),
    ):
        made = onnx_program.clip_model(network, spec, precision, opset).SerializeToString()
        for engine in OTHERS:
            run = engines.compiled(made, engine, precision)
            for count in (1, 3):
                probabilities, logits = run(clips[:count])
                wanted = expected[:count]
                logits -= np.log(np.exp(logits).sum(1, keepdims=True))
                np.testing.assert_allclose(logits, wanted, atol=apart, rtol=apart)
                # A processor that computes in 16 bits rounds small probabilities, some to 0.
                np.testing.assert_allclose(probabilities, np.exp(wanted), atol=apart)
                if precision == "float32":
                    np.testing.assert_allclose(logits, np.log(probabilities), atol=1e-4)
            if kind != "shift" and opset == 17:
                step, past = onnx_program.frames(network, spec, engine, precision)
                first, past = step(clips[0, :1], past)
                rest, past = step(clips[0, 1:], past)
                found = np.concatenate([first, rest]).mean(axis=0)
                found -= np.log(np.exp(found).sum())
                np.testing.assert_allclose(found, expected[0], atol=apart, rtol=apart)


@pytest.mark.slow
def test_a_run_in_bfloat16_keeps_its_kernels(monkeypatch):
    """Engines compute in float32, so its graphs are those of the same parameters in float32."""
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))
    model = TSN(num_classes=3, depth=10, width=2, temporal="causal", temporal_share=0.5)
    spec, graphs = InputSpec("infrared", 2, (32, 32), 32, 1.0), []
    variables = networks.draw(model, 1, 2, 32, 32, 1)
    for dtype in ("float32", "bfloat16"):
        network = Network(model.clone(dtype=dtype), variables)
        clips = onnx_program.clip_model(network, spec)
        frames, _ = onnx_program.frame_model(network, spec)
        graphs.append([graph.SerializeToString() for graph in (clips, frames)])
    assert graphs[0] == graphs[1]


def test_signals_are_heard_when_programs_are_gone():
    """Whatever a library sets up for its own, and takes away with it."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "relu", [value], [result])
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    for engine in OTHERS:
        programs = [engines.compiled(model, engine, "float32") for _ in range(3)]
        while programs:  # in the order they came
            [found] = programs.pop(0)(np.float32([-1, 2]))
            np.testing.assert_array_equal(found, [0, 2])
        signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert heard == [1, 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_model", student_runs.make_model)
        yield student_runs.write_run(tmp_path_factory.mktemp("engines") / "ours", width=4)


@pytest.mark.slow
def test_a_run_and_its_file_through_every_engine(run, tmp_path):
    """The file has eight bits a weight: what it holds is widened alike everywhere.

    A program is made once, and only where it is needed: a stream's frames need none for clips.
    """
    clips = np.random.default_rng(1).integers(0, 256, (2, 4, 48, 56, 1), dtype=np.uint8)
    path = tmp_path / "small.irkd"
    archive.export_run(run, path, precision="int8", measure=False)
    for source in (run, path):
        by_jax = open_classifier(source, engine="jax")
        assert by_jax.frame_program()[0] is by_jax.frame_program()[0]
        expected = by_jax(clips)
        for engine in OTHERS:
            recognizer = Recognizer(source, engine=engine)
            assert recognizer.classifier.engine.lower().startswith(engine)
            assert recognizer.classifier.frame_program()[0] is recognizer._frames.step
            assert "clips" not in vars(recognizer.classifier._onnx)
            np.testing.assert_allclose(recognizer.classifier(clips), expected, atol=1e-5)


def test_the_order_of_auto(monkeypatch):
    """What is documented: a GPU first, then what was fastest on CPUs."""
    there = {"openvino", "onnxruntime", "onnx"}
    monkeypatch.setattr(engines, "_is_there", lambda package: package in there)
    monkeypatch.setattr(engines, "_gpu_providers", lambda: [])
    monkeypatch.setattr(engines, "_jax_has_gpu", lambda: False)
    monkeypatch.setattr(engines, "_is_x86", lambda: True)
    assert engines.choose("auto") == engines.choose("auto", onnx_file=True) == "openvino"
    monkeypatch.setattr(engines, "_is_x86", lambda: False)
    assert engines.choose("auto") == "onnxruntime"
    monkeypatch.setattr(engines, "_jax_has_gpu", lambda: True)
    assert (engines.choose("auto"), engines.choose("auto", onnx_file=True)) == ("jax", OTHERS[0])
    monkeypatch.setattr(engines, "_jax_has_gpu", lambda: False)
    there.remove("onnx")  # a graph can be read, not written
    assert (engines.choose("auto"), engines.choose("auto", onnx_file=True)) == ("jax", OTHERS[0])
    there.clear()
    assert engines.choose("auto") == "jax"
    for engine, file, message in (
        (
            "openvino",
            False,
            r"openvino needs openvino and onnx, .*: pip install openvino onnx",
        ),
        ("onnxruntime", True, r"needs onnxruntime, not installed here: pip install onnxruntime$"),
        ("jax", True, r"--engine=jax cannot run an \.onnx file; export the run as \.irkd"),
        ("tvm", False, r"unknown engine 'tvm'; choose from auto, jax, onnxruntime, openvino"),
    ):
        with pytest.raises(UserError, match=message):
            engines.choose(engine, onnx_file=file)


def test_networks_of_others_are_run_by_jax(run, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "make_model", student_runs.make_model)
    tiny = student_runs.write_run(tmp_path / "tiny")
    assert open_classifier(tiny).engine.startswith("Flax, JAX")
    with pytest.raises(UserError, match=r"holds no network of ours that can be written as ONNX"):
        open_classifier(tiny, engine="openvino")


def test_a_processor_that_lacks_something_is_told(monkeypatch, capsys):
    engines.once.cache_clear()
    monkeypatch.setattr(processor, "features", lambda precision: [])
    engines._note("int8", quick=True)
    assert "has none of avx512_vnni, avx_vnni" in capsys.readouterr().err
    monkeypatch.setattr(processor, "features", lambda precision: None)
    engines._note("int8", quick=True)
    engines._note("float32", quick=False)
    assert not capsys.readouterr().err


def test_the_engine_is_named(run, tmp_path, capsys):
    (tmp_path / "a.avi").write_bytes(b"no film")
    assert predict.main([f"--run={run}", str(tmp_path / "a.avi"), "--engine=onnxruntime"]) == 2
    assert "engine: onnxruntime 1." in capsys.readouterr().err

"""One file, jax alone, the same numbers; a wrong program is never written."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import bench_student, export
from jax_irkd.data import augment
from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment import archive, classifier, clips, exported, precision, program, timing
from jax_irkd.deployment.archive import without_paths
from jax_irkd.deployment.classifier import open_classifier
from jax_irkd.errors import UserError
from jax_irkd.models.tsn import TSN
from jax_irkd.runs.network import load_network
from jax_irkd.training import setup
from jax_irkd.training.evaluation import Network
from tests.helpers import fakes, networks, student_runs

SPEC = InputSpec("infrared", 2, (40, 48), 32, 0.8)


@pytest.fixture(scope="module", autouse=True)
def small():
    """TinyModel for runs of width 1, and few rendered clips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_model", student_runs.make_model)
        patch.setattr(clips, "RENDERED", 2)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a configuration that names files of its machine."""
    folder, honest = tmp_path_factory.mktemp("student"), fakes.config

    def config():
        made = honest()
        made.teacher, made.eval.raw_dir = str(folder / "the_teacher"), str(folder / "raw")
        made.weights.student, made.tstdd.cache_dir = str(folder / "resnet18.pth"), "~/flow"
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes, "config", config)
        return student_runs.write_run(folder / "ours")


@pytest.fixture(scope="module")
def student(run):
    path = run / "student.irkd"
    assert export.main([f"--run={run}", f"--out={path}"]) == 0
    return path


def tiny() -> Network:
    model = fakes.TinyModel()
    return Network(model, networks.draw(model, 1, 2, 32, 32, 1))


@pytest.mark.slow
def test_a_file_gives_what_the_run_gives(run, student):
    network, file = open_classifier(run), open_classifier(student)
    for name in ("class_names", "modality", "num_segments", "size"):
        assert getattr(file, name) == getattr(network, name)
    clips = np.random.default_rng(1).integers(0, 256, (3, 4, 48, 56, 1), dtype=np.uint8)
    probabilities = file(clips)
    np.testing.assert_allclose(probabilities, network(clips), atol=1e-5)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(file(clips[1:2]), probabilities[1:2], atol=1e-6)
    assert file.manifest["parameters"] == network.cost()[0] and file.manifest["flops"] > 1e5
    with pytest.raises(
        ValueError, match=r"clips are float32 \(1, 4, 48, 56, 1\); give uint8 \(b, 4"
    ):
        file(np.zeros((1, 4, 48, 56, 1), np.float32))


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    return student_runs.write_run(tmp_path_factory.mktemp("residual") / "ours", width=4)


@pytest.mark.slow
def test_batch_norms_of_residual_networks_are_folded(residual):
    path = residual / "student.irkd"
    manifest = archive.export_run(residual, path)
    assert manifest["batch_norm_folded"] and manifest["distance"] < 1e-5


def test_what_travels_with_the_file(student):
    with zipfile.ZipFile(student) as archive:
        card = archive.read("MODEL_CARD.md").decode()
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["format"] == 3 and manifest["class_names"] == student_runs.CLASSES
    assert manifest["platforms"] == ["cpu", "cuda"] and manifest["metrics"] == {"top1": 0.5}
    assert "data_dir" not in manifest["config"]["dataset"]
    for text in ("from exported import Exported", "| top1 | 0.5000 |", "fake/three", "eat meal"):
        assert text in card


def test_no_path_of_the_training_machine_travels(run, student):
    """Neither in the manifest nor on the card; the names of files are kept."""
    with zipfile.ZipFile(student) as archive:
        texts = [archive.read(name).decode() for name in ("MODEL_CARD.md", "manifest.json")]
    for text in texts:
        assert str(run.parent) not in text and "~/" not in text
        assert '"the_teacher"' in text and '"resnet18.pth"' in text
    held = {"a": ["/mnt/b", 2, None], "c": {"d": "fake/three", "e": "../../home/f.npz"}}
    expected = {"a": ["b", 2, None], "c": {"d": "fake/three", "e": "f.npz"}}
    assert without_paths(held) == expected


ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        ours = name not in ("jax_irkd", "jax_irkd.deployment", "jax_irkd.deployment.exported")
        heavy = ("flatbuffers", "flax", "orbax", "tensorflow_datasets", "grain", "optax", "cv2",
                 "av", "absl", "ml_collections", "rich", "matplotlib", "jaxtyping", "tensorboardX")
        if top in heavy or (top == "jax_irkd" and ours):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
import numpy as np
clips = np.full((2, 4, 48, 56, 1), 99, np.uint8)
"""
WITH_US = """
from jax_irkd.deployment.exported import Exported
print(Exported(sys.argv[1])(clips).tolist())
"""


def alone(code: str, path: Path) -> list[np.ndarray]:
    done = subprocess.run(
        [sys.executable, "-c", ALONE + code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [np.array(json.loads(line)) for line in done.stdout.splitlines()[-2:]]


@pytest.mark.slow
def test_it_loads_where_only_jax_is(run, student, tmp_path):
    """Once through our package, once by the lines of the model card, with what the file holds."""
    with zipfile.ZipFile(student) as archive:
        archive.extract("exported.py", tmp_path)
        code = archive.read("MODEL_CARD.md").decode().split("```python\n")[1].split("```")[0]
    lines = code.replace('"student.irkd"', "sys.argv[1]").splitlines()
    code = "\n".join(line for line in lines if not line.startswith(("clips =", "print(")))
    code = f"sys.path.insert(0, {str(tmp_path)!r})\n{code}\nprint(probabilities.tolist())\n"
    code += "assert 'jax_irkd' not in sys.modules\n" + WITH_US
    card, ours = alone(code, student)
    expected = open_classifier(run)(np.full((2, 4, 48, 56, 1), 99, np.uint8))
    np.testing.assert_allclose(card, expected, atol=1e-5)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def rewritten(student: Path, target: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(student) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, members.get(name.partition(".")[0], old.read(name)))
    return target


def test_files_that_cannot_be_used(student, tmp_path):
    with zipfile.ZipFile(student) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    newer = json.dumps(manifest | {"format": 9}).encode()
    path = rewritten(student, tmp_path / "newer.irkd", manifest=newer)
    with pytest.raises(
        UserError, match=r"has format 9, this version of jax_irkd reads format 3; ex"
    ):
        open_classifier(path)
    with zipfile.ZipFile(tmp_path / "0.1.irkd", "w") as old:  # as version 0.1 wrote it
        old.writestr("manifest.json", '{"format": 2, "versions": {"jax-irkd": "0.1.0"}}')
        old.writestr("program.stablehlo", b"program")
    with pytest.raises(
        UserError, match=r"format 2, .*export the run again, .*wrote it \(0\.1\.0\)"
    ):
        open_classifier(tmp_path / "0.1.irkd")
    later = json.dumps(manifest | {"versions": {"jax": "9.9"}}).encode()
    path = rewritten(student, tmp_path / "later.irkd", manifest=later, program=b"nonsense")
    with pytest.raises(UserError, match=r"was exported by jax 9\.9 and jax .* cannot read it"):
        open_classifier(path)
    path = rewritten(student, tmp_path / "poor.irkd", manifest=b'{"format": 3}')
    with pytest.raises(
        UserError, match=r"poor\.irkd is not a complete .* manifest has no class_na"
    ):
        open_classifier(path)
    path = rewritten(student, tmp_path / "short.irkd", weights=b"12")
    with pytest.raises(UserError, match=r"short\.irkd is not a complete exported network"):
        open_classifier(path)
    broken = tmp_path / "broken.irkd"
    broken.write_bytes(student.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"broken\.irkd is not a complete exported network"):
        open_classifier(broken)
    with pytest.raises(UserError, match=r"nothing\.irkd does not exist; give a run's folder or"):
        open_classifier(tmp_path / "nothing.irkd")
    (tmp_path / "work/ours/checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match=r"work holds no run .*one of those in it, as .*work/ours"):
        open_classifier(tmp_path / "work")
    with pytest.raises(UserError, match=r"holds no run \(no checkpoints folder\)"):
        open_classifier(tmp_path)
    tmp_path.joinpath("results.json").write_text('{"method": "tstdd"}')
    with pytest.raises(UserError, match=r"holds TSTDDs, .* train another method"):
        open_classifier(tmp_path)


def test_commands_say_what_is_wrong(run, tmp_path, capsys):
    for flags, message in (
        ([f"--run={tmp_path}", f"--out={tmp_path}/a.irkd"], "holds no run"),
        ([f"--run={run}", f"--out={tmp_path}"], "is a folder; give a file name"),
        ([f"--run={run}", f"--out={tmp_path}/none/a.irkd"], "there is no folder"),
    ):
        assert export.main(flags) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mismatch_is_never_written(run, tmp_path, monkeypatch, capsys):
    """A program that is wrong by 0.001 stands in for a faulty exporter."""
    honest = program.stablehlo

    def faulty(program):
        return honest(program._replace(function=lambda *args: 1.001 * program.function(*args)))

    monkeypatch.setattr(archive, "stablehlo", faulty)
    assert export.main([f"--run={run}", f"--out={tmp_path}/a.irkd"]) == 2
    assert "differ from the Flax model's by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_confident_network_hides_nothing():
    sure, other = np.array([[1.0, 1e-20]]), np.array([[1.0, 1e-21]])
    assert program._distance(lambda _: sure, lambda _: other, None) > 0.04
    assert program._distance(lambda _: sure, lambda _: sure, None) == 0
    assert program._distance(lambda _: sure * np.nan, lambda _: sure, None) == np.inf


@pytest.mark.slow
def test_norms_that_cannot_be_folded_are_kept():
    """TinyModel's layers have names that folding does not know: it would be wrong silently."""
    made = program.make_program(tiny(), SPEC)
    assert not made.folded
    clips = jnp.asarray(program.check_clips(SPEC, 2))
    found = made.function(made.weights, clips)
    np.testing.assert_allclose(found, made.reference(clips), atol=1e-5)


@pytest.mark.slow
def test_narrow_convolutions_take_fewer_products_on_cpus():
    """Of a ResNet-18 the four of its first stage, for any number of clips; ONNX has none.

    The three projections are products of matrices on CPUs, strided convolutions elsewhere.
    """
    model = TSN(num_classes=3, depth=18, width=64)
    variables = networks.draw(model, 1, 2, 64, 64, 1)
    # As drawn, logits of 35: their last digits, which processors round differently, are 1e-5 of a
    # probability, and all other probabilities are 0.
    variables["params"]["head"] = jax.tree.map(lambda x: 0.1 * x, variables["params"]["head"])
    network = Network(model, variables)
    spec = InputSpec("infrared", 2, (64, 64), 64, 1.0)
    quick, plain = (program.make_program(network, spec, winograd=width) for width in (64, 0))
    clips = jax.ShapeDtypeStruct((1, *spec.shape), jnp.uint8)
    programs = [
        jax.jit(program.function).trace(program.weights, clips).lower(lowering_platforms=(name,))
        for program, name in ((quick, "cpu"), (quick, "cuda"), (plain, "cpu"))
    ]
    assert [text.as_text().count("stablehlo.convolution") for text in programs] == [13, 20, 20]
    module, convention = program.stablehlo(quick)
    _, layout = exported.pack(quick.weights)
    manifest = {"class_names": "abc", "platforms": program.PLATFORMS, "weights": layout}
    manifest |= {"modality": "infrared", "num_segments": 2, "height": 64, "width": 64}
    called = jax.jit(
        exported.program_of(manifest | {"calling_convention": convention}, module).call
    )
    for count in (1, 3):
        clips = program.check_clips(spec, count)
        found = called(quick.weights, clips)
        np.testing.assert_allclose(found, quick.reference(clips), atol=1e-5)


def test_weights_are_packed_and_found_again():
    weights = [np.float32([[1, 2], [3, 4]]), np.array(5, jnp.bfloat16), np.int8([-1, 7])]
    numbers, layout = exported.pack(weights)
    assert layout == [["float32", [2, 2]], ["bfloat16", []], ["int8", [2]]]
    for found, weight in zip(exported.unpack(numbers, layout), weights, strict=True):
        assert found.dtype == weight.dtype
        np.testing.assert_array_equal(found, weight)
    for wrong in (numbers + b"1", numbers[:-1]):
        with pytest.raises(ValueError, match=r"bytes of weights where 20|buffer"):
            exported.unpack(wrong, layout)


def test_quantised_kernels_by_hand():
    kernel = jnp.array([[1.27, 0.0], [-0.5, 0.0]])
    bias = jnp.array([0.3, 0.4])
    stored = precision.quantise({"kernel": kernel, "bias": bias})
    assert stored["kernel"].values.dtype == jnp.int8
    np.testing.assert_array_equal(stored["kernel"].values, [[127, 0], [-50, 0]])
    restored = precision.dequantise(stored)
    np.testing.assert_allclose(restored["kernel"], kernel, atol=0.005)
    np.testing.assert_array_equal(restored["bias"], bias)
    with pytest.raises(ValueError, match=r"unknown precision 'int4'; choose one of \['float32'"):
        precision.with_precision(None, {}, "int4")


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["bf16", "int8"])
def test_smaller_networks_say_what_they_lose(run, tmp_path, bits, monkeypatch, capsys):
    """On the test split: every clip once, top-1 of both."""
    made = json.loads(fakes.config().dataset.to_json_best_effort())["protocols"]
    network, meta = load_network(run)
    meta["config"]["dataset"] |= {"protocols": made}
    meta["config"]["input"]["eval_batch_size"] = 4
    monkeypatch.setattr(archive, "load_network", lambda folder, which: (network, meta))
    if bits == "int8":
        monkeypatch.setattr("jax_irkd.data.loading.open_dataset", lambda *_: fakes.dataset())
    path = tmp_path / "small.irkd"
    command = [f"--run={run}", f"--out={path}", f"--precision={bits}", "--max_drop=100"]
    assert export.main(command) == 0
    accuracy = exported.Exported(path).manifest["accuracy"]
    shown = capsys.readouterr().out
    if bits == "int8":
        assert accuracy["clips"] == 7 and "test split of fake/three (cross_subject)" in shown
        assert abs(accuracy["top1"] - accuracy["top1_float32"]) == abs(accuracy["top1_change"])
    else:
        assert accuracy["clips"] == 2 and "2 rendered clips (agreement only)" in shown
    assert 0 < accuracy["largest_change"] < 0.2 and accuracy["agreement"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("size", "scale"), [((40, 48), 0.8), ((40, 48), 0.7), ((33, 48), 0.97)])
def test_preprocessing_is_that_of_the_evaluation(size, scale):
    clips = np.random.default_rng(0).integers(0, 256, (2, 2, *size, 1), dtype=np.uint8)
    expected = augment.prepare_evaluation({"x": jnp.asarray(clips)}, resolution=32, scale=scale)
    got = classifier.prepare(jnp.asarray(clips), 32, scale)
    np.testing.assert_allclose(got, expected["x"], atol=2e-5)


@pytest.fixture(scope="module")
def onnx_file(residual):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = residual / "student.onnx"
    assert export.main([f"--run={residual}", f"--out={path}"]) == 0
    return path


@pytest.mark.slow
def test_onnx(residual, onnx_file):
    file = open_classifier(onnx_file)
    assert file.class_names == tuple(student_runs.CLASSES) and file.manifest["distance"] < 1e-5
    clips = np.random.default_rng(1).integers(0, 256, (3, 4, 48, 56, 1), dtype=np.uint8)
    expected = open_classifier(residual, engine="jax")(clips)
    np.testing.assert_allclose(file(clips), expected, atol=1e-5)


def test_what_an_onnx_file_needs_is_said(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    for missing, message in (
        ("onnx", "an .onnx file needs onnx: pip install onnx onnxruntime"),
        ("onnxruntime", "an .onnx file needs onnxruntime: pip install onnx onnxruntime"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            assert export.main([f"--run={run}", f"--out={tmp_path}/b.onnx"]) == 2
            assert message in capsys.readouterr().err
    with monkeypatch.context() as patch:
        for name in ("onnxruntime", "openvino"):
            patch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match=r"needs an engine: pip install onnxruntime \(or open"):
            open_classifier(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["a.irkd", "--format=onnx"],
            "--format out or write --out=a.onnx",
        ),
        (
            ["a.onnx", "--format=irkd"],
            "--out=a.onnx and --format=irkd contradict",
        ),
        (["a", "--format=onnx"], "write --out=a.onnx"),
        (["a.irkd", "--opset=18"], "--opset=18 is for .onnx files; give --out=NAME.onnx"),
        (["a.onnx", "--opset=16"], "--opset=16 must be from 17 to "),
        (["a.onnx", "--opset=99"], "--opset=99 must be from 17 to "),
    ],
)
def test_names_and_formats(flags, message, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    assert export.main(["--run=nowhere", f"--out={flags[0]}", *flags[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(("name", "kind"), [("a.ONNX", "onnx"), ("a.Onnx", "onnx"), ("a.IRKD", "")])
def test_capitals_in_a_name_are_read_as_they_are_written(name, kind, tmp_path, monkeypatch):
    """By `open_classifier` and `bench_student` as by `export`, which wrote it."""
    opened = []
    monkeypatch.setattr(classifier, "open_onnx", lambda path, engine: opened.append("onnx"))
    monkeypatch.setattr(classifier, "_open_irkd", lambda path, engine: opened.append("irkd"))
    path = tmp_path / name
    path.touch()
    open_classifier(path)
    assert opened == [archive.kind_of(path, None)] == [kind or "irkd"]
    asked, honest = [], lambda path, which, engine: asked.append(engine)
    monkeypatch.setattr(classifier, "open_classifier", honest)
    monkeypatch.setattr(timing, "measure", lambda *_: [])
    assert bench_student.main([str(path), "--engine=jax,onnxruntime", "--json"]) == 0
    assert asked == (["onnxruntime"] if kind else ["jax", "onnxruntime"])


def test_networks_without_a_graph_are_told(run, tmp_path, capsys):
    pytest.importorskip("onnx")
    assert export.main([f"--run={run}", f"--out={tmp_path}/a.onnx"]) == 2
    assert "holds a TinyModel; ONNX files are written of TSNs" in capsys.readouterr().err

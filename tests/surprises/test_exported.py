"""Exported files that are damaged or hostile are refused in a line, and take no memory."""

import json
import random
import zipfile

import numpy as np
import pytest

from jax_irkd.deployment import archive, exported, onnx_file
from jax_irkd.deployment.exported import ExportedError
from jax_irkd.deployment.model_card import model_card
from jax_irkd.deployment.program import Program
from jax_irkd.runs.network import load_network
from jax_irkd.training import setup
from tests.helpers import fakes
from tests.surprises.test_identity import save

WEIGHTS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(3, np.int8)]
GOOD = {
    "format": exported.FORMAT,
    "class_names": ["a", "b"],
    "modality": "infrared",
    "num_segments": 2,
    "height": 32,
    "width": 40,
    "platforms": ["cpu"],
    "calling_convention": 9,
    "weights": exported.pack(WEIGHTS)[1],
    "versions": {"jax": "0"},
}


def write(path, manifest=GOOD, numbers=None, program=b"x", frames=None, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        file.writestr(exported.MANIFEST, text)
        file.writestr(exported.PROGRAM, program)
        if frames is not None:
            file.writestr(exported.FRAMES, frames)
        file.writestr(exported.WEIGHTS, exported.pack(WEIGHTS)[0] if numbers is None else numbers)
    return path


def test_a_good_archive_is_read(tmp_path):
    manifest, program, frames, weights = exported.read_archive(write(tmp_path / "a.irkd"))
    assert manifest == GOOD and program == b"x" and frames is None
    for found, wanted in zip(weights, WEIGHTS, strict=True):
        np.testing.assert_array_equal(found, wanted)


HOSTILE = {
    "class_names": [None, [], "ab", [1, 2], {"a": 1}, 7],
    "modality": ["depth", 1, None, ["rgb"]],
    "num_segments": [0, -1, 1 << 40, 2.5, "2", True, None, [2]],
    "height": [0, -32, "32", None, 1 << 30],
    "width": [0, 1e9, {}, float("inf")],
    "platforms": ["cpu", [], None, [None]],
    "calling_convention": ["9", -1, None, []],
    "versions": [None, "0.1", ["jax"]],
    "range": [None, 3, ["auto"]],
    "past": [None, [["float32"]], [["object", [2]]], [["float32", [-1]]], []],
    "weights": [
        None,
        {},
        "float32",
        [["float32"]],
        [["float32", [2, 3]], ["int8", [4]]],
        [["float32", [1 << 40]]],
        [["float32", [-1]]],
        [["float32", "2"]],
        [["object", [2]]],
        [["no such type", [2]]],
        [[{}, [2]]],
        [],
    ],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, rows in HOSTILE.items() for v in rows])
def test_a_manifest_that_no_export_wrote_is_refused(tmp_path, name, value):
    refused(write(tmp_path / "a.irkd", GOOD | {name: value}))


@pytest.mark.parametrize("name", [*exported.NEEDED, "format"])
def test_a_manifest_without_an_entry_is_refused(tmp_path, name):
    refused(write(tmp_path / "a.irkd", {k: v for k, v in GOOD.items() if k != name}))


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", '"a"', "{", "[" * 100_000, "\ud800".encode("utf-8", "ignore")]
)
def test_a_manifest_that_is_no_object_is_refused(tmp_path, text):
    refused(write(tmp_path / "a.irkd", text if isinstance(text, str) else text.decode()))


def test_clips_larger_than_any_are_refused(tmp_path):
    refused(write(tmp_path / "a.irkd", GOOD | {"height": 1 << 19, "width": 1 << 19}))


@pytest.mark.parametrize("entry", ["numbers", "program", "frames", "manifest"])
def test_an_archive_that_swells_is_not_unpacked(tmp_path, entry):
    huge = {"manifest": " " * 50_000_000} if entry == "manifest" else {entry: bytes(50_000_000)}
    path = write(tmp_path / "a.irkd", method=zipfile.ZIP_DEFLATED, **huge)
    assert path.stat().st_size < 100_000
    assert "would unpack to 50,0" in refused(path)


def test_whatever_is_cut_or_flipped_is_refused(tmp_path):
    manifest = GOOD | {"past": [["float32", [1, 2, 2, 1]]]}
    path = write(tmp_path / "a.irkd", manifest, program=bytes(range(256)) * 4, frames=b"y" * 99)
    whole, rng = path.read_bytes(), random.Random(0)
    read = exported.read_archive(path)
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        refused(path)
    for _ in range(300):
        changed = bytearray(whole)
        changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            again = exported.read_archive(path)
        except ExportedError as error:
            assert "\n" not in str(error)
            continue
        assert again[:3] == read[:3], "other content was taken"  # a flip in a date, say
        for one, other in zip(again[3], read[3], strict=True):
            np.testing.assert_array_equal(one, other)


def refused(path) -> str:
    with pytest.raises(ExportedError) as error:
        exported.read_archive(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_every_flip_of_a_sealed_onnx_file_is_noticed():
    blank = b"graph" * 20 + onnx_file.ENTRY + onnx_file.BLANK.encode() + b"the rest"
    content = onnx_file.seal(blank)
    assert onnx_file.sealed(content) and len(content) == len(blank)
    assert onnx_file.sealed(b"a file of before") is None
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        assert not onnx_file.sealed(bytes(changed))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "make_model", lambda *args, **kwargs: fakes.TinyModel())
    save(tmp_path / "ours", "infrared", step=3)
    return tmp_path / "ours"


def test_figures_are_those_of_the_parameters(run, monkeypatch, tmp_path):
    """`best` and `ema` do not carry what the last step reached."""
    (run / "results.json").write_text(json.dumps({"steps": 9, "metrics": {"top1": 0.9}}))
    assert load_network(run)[1]["figures"] == {"top1": 0.5}
    monkeypatch.setattr(archive, "make_program", lambda *args, **kwargs: None)
    seen = []

    def manifest(program: Program, meta, results, precision):
        seen.append((meta["which"], results["metrics"]))
        raise KeyboardInterrupt  # the rest of an export is tested where it belongs

    monkeypatch.setattr(archive, "make_manifest", manifest)
    for which in ("last", "best"):
        with pytest.raises(KeyboardInterrupt):
            archive.export_run(run, tmp_path / "a.irkd", which=which)
    (run / "results.json").write_text(json.dumps({"steps": 3, "metrics": {"top1": 0.7}}))
    for which in ("last", "best"):
        with pytest.raises(KeyboardInterrupt):
            archive.export_run(run, tmp_path / "a.irkd", which=which)
    few, full = {"top1": 0.5}, {"top1": 0.7}
    assert seen == [("last", few), ("best", few), ("last", full), ("best", few)]


def test_a_card_says_that_people_are_generated():
    sampling = dict.fromkeys(("frames", "fit", "values", "inside", "range"), "…")
    config = {"dataset": {"name": "ntu_rgbd_ir/ten"}}
    manifest = GOOD | {"channels": 1, "precision": "float32", "parameters": 1, "flops": 1.0}
    manifest |= {"sampling": sampling, "config": config, "generated": "generated people"}
    assert "# a network on ntu_rgbd_ir/ten of generated people" in model_card(manifest)

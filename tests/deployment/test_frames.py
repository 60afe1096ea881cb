"""Every frame once: the program for frames in runs and files, and what asks for it in vain."""

import json
import zipfile

import numpy as np
import pytest

from jax_irkd.data.synthetic.raw_ntu import write_video
from jax_irkd.deployment import exported, prediction
from jax_irkd.deployment.archive import export_run
from jax_irkd.deployment.classifier import open_classifier, shared_frames
from jax_irkd.deployment.prediction import VideoSettings
from jax_irkd.detection.consensus import softmax
from jax_irkd.errors import UserError
from jax_irkd.models import resnet
from jax_irkd.training import setup
from tests.helpers import student_runs

KINDS = ("none", "causal", "shift")
CLIP = np.random.default_rng(3).integers(0, 256, (4, 48, 56, 1), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """One block a stage: quick to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_model", student_runs.make_model)
        patch.setitem(resnet.BLOCKS, 18, (resnet.BasicBlock, (1, 1, 1, 1)))
        yield


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Of every kind the run and its exported file."""
    folder, made = tmp_path_factory.mktemp("frames"), {}
    for kind in KINDS:
        run = student_runs.write_run(folder / kind, width=8, temporal=kind)
        export_run(run, folder / f"{kind}.irkd")
        made[kind] = tuple(open_classifier(p, engine="jax") for p in (run, folder / f"{kind}.irkd"))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "causal"])
def test_frames_as_they_come_are_the_clip(networks, kind):
    for network in networks[kind]:
        _frames_are_the_clip(network, kind)


def _frames_are_the_clip(network, kind: str) -> None:
    """In calls of three frames and one."""
    step, past = shared_frames(network, "shared")
    assert bool(past) == (kind != "none")
    rows = []
    for part in (CLIP[:3], CLIP[3:]):
        logits, past = step(part, past)
        rows.append(np.asarray(logits))
    found, wanted = softmax(np.concatenate(rows).mean(axis=0, keepdims=True)), network(CLIP[None])
    np.testing.assert_allclose(np.log(found), np.log(wanted), atol=1e-3)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """100 frames, 17 of them on the grid of windows of 32 every 8."""
    path = tmp_path_factory.mktemp("films") / "long.avi"
    return write_video(path, 102, infrared=True, size=(56, 48))


class Counted:
    """A classifier that counts the frames of both programs."""

    def __init__(self, network):
        self._network, self.clip_frames, self.frames = network, 0, 0
        for name in ("class_names", "modality", "num_segments", "size", "range", "framewise"):
            setattr(self, name, getattr(network, name))

    def __call__(self, clips):
        self.clip_frames += clips.shape[0] * clips.shape[1]
        return self._network(clips)

    def frame_program(self):
        step, past = self._network.frame_program()

        def counted(frames, past):
            self.frames += int((frames.max((1, 2, 3)) > 0).sum())  # padding is black
            return step(frames, past)

        return counted, past


@pytest.mark.slow
def test_a_film_is_looked_at_once(networks, film):
    """The same answers from a third of the frames; causal: over all frames so far."""
    settings = VideoSettings(trimmed=False, seconds=32 / 30, stride=8)
    for kind in ("none", "causal"):
        counted, whole = Counted(networks[kind][1]), Counted(networks[kind][1])
        shared = prediction.predict(counted, film, settings)
        alone = prediction.predict(whole, film, settings._replace(windows="whole"))
        windows = len(shared.spans)
        assert windows == 10 and whole.clip_frames == 4 * windows and whole.frames == 0
        assert counted.frames == 4 + (windows - 1) and counted.clip_frames == 0
        np.testing.assert_array_equal(shared.spans, alone.spans)
        difference = np.abs(shared.probabilities - alone.probabilities).max()
        assert difference < 1e-5 if kind == "none" else difference > 1e-4
        np.testing.assert_allclose(shared.probabilities[0], alone.probabilities[0], atol=1e-5)


def without_frames(path, target):
    """The file as it was written before there was a program for frames."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name == exported.MANIFEST:
                manifest = json.loads(old.read(name))
                del manifest["past"], manifest["temporal"]
                new.writestr(name, json.dumps(manifest))
            elif name != exported.FRAMES:
                new.writestr(name, old.read(name))
    return target


@pytest.mark.slow
def test_networks_that_need_whole_windows_say_so(networks, film, tmp_path):
    old = open_classifier(
        without_frames(networks["none"][1].path, tmp_path / "old.irkd"), engine="jax"
    )
    settings = VideoSettings(trimmed=False, seconds=32 / 30, stride=8)
    for network, said in (
        (networks["shift"][0], r"segments see the ones after them .* train with :temporal=causal"),
        (networks["shift"][1], r"shift\.irkd cannot take frames one by one: its segments see"),
        (old, r"old\.irkd was exported without a program for frames; .* or export its run again"),
    ):
        assert shared_frames(network) is None
        with pytest.raises(UserError, match=said):
            prediction.predict(network, film, settings._replace(windows="shared"))
    result = prediction.predict(old, film, settings)
    new = prediction.predict(networks["none"][1], film, settings)
    np.testing.assert_allclose(result.probabilities, new.probabilities, atol=1e-5)
    with pytest.raises(UserError, match="windows is 'frame'; choose one of auto, shared, whole"):
        shared_frames(old, "frame")


@pytest.mark.slow
def test_the_two_onnx_files_belong_together(networks, tmp_path, capsys):
    """Without the second one windows are whole, and that is said; another export's is refused."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path, frames = tmp_path / "student.onnx", tmp_path / "student_frames.onnx"
    for kind in ("none", "causal"):
        export_run(networks[kind][0].path, path)
        _frames_are_the_clip(open_classifier(path, engine="onnxruntime"), kind)
    whole = frames.read_bytes()
    for content, said in (
        (whole[:-9] + bytes(9), "student_frames.onnx has changed since it was written"),
        (path.read_bytes(), "student_frames.onnx is of another export than the file beside it"),
    ):
        frames.write_bytes(content)
        file = open_classifier(path, engine="onnxruntime")
        with pytest.raises(UserError, match=said):
            file.frame_program()
    frames.unlink()
    assert shared_frames(open_classifier(path, engine="onnxruntime")) is None
    assert "student_frames.onnx, which is not beside it" in capsys.readouterr().err
    frames.write_bytes(whole)
    export_run(networks["shift"][0].path, path)
    assert not frames.exists()

"""From raw PKU-MMD-like files to the figures of trimmed clips and of untrimmed videos."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from jax_irkd import algorithm, build
from jax_irkd.configs import pku
from jax_irkd.data import augment
from jax_irkd.data.synthetic.raw_ntu import truncate, write_video
from jax_irkd.data.synthetic.raw_pku import LABELS, label_path, pku_tree, video_path
from jax_irkd.detection import consensus, scoring, watching
from jax_irkd.detection import untrimmed as evaluation
from jax_irkd.detection.protocol import evaluate
from jax_irkd.detection.rows import read_folder
from jax_irkd.errors import UserError
from jax_irkd.metrics import calibration
from jax_irkd.pku_mmd.annotations import CLASSES
from jax_irkd.pku_mmd.untrimmed import pku_videos
from jax_irkd.video import windows
from tests.helpers import fakes
from tests.helpers.shared_programs import shared_programs  # noqa: F401

VIDEOS = {"cross_subject": ["0291-L", "0291-M", "0291-R"], "cross_view": ["0002-M", "0291-M"]}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    pku_tree(folder, train=(2,), validation=(291,))
    return folder


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("built")
    flags = [f"--manual_dir={raw}", f"--data_dir={out}", "--workers=1", "--max_frames=4"]
    assert build.main(["pku_mmd_ir", *flags]) == 0
    return out


@pytest.fixture(autouse=True)
def small(monkeypatch):
    fakes.use_tiny_models(monkeypatch)


def config(raw, built, protocol="cross_subject", method="baseline", detect=True):
    """The paper's configuration with the sizes of the tests."""
    made, shrunk = pku.get_config(f"method={method},protocol={protocol}"), fakes.config()
    made.dataset.data_dir = str(built)
    made.dataset.rgb_size = made.dataset.infrared_size = shrunk.dataset.rgb_size
    made.input, made.num_devices = shrunk.input, 1
    for training in (made.teacher_training, made.student_training):
        training.batch_size, training.num_epochs, training.learning_rate = 3, 1.0, 0.1
    made.eval.detection, made.eval.raw_dir = detect, str(raw)
    # One epoch teaches nothing: propose nearly every class nearly everywhere, and let that hit.
    made.eval.window, made.eval.stride = 30, 12
    made.eval.thresholds, made.eval.overlap = (0.005, 0.02), 0.2
    return made


@pytest.mark.slow
@pytest.mark.parametrize("protocol", VIDEOS)
def test_from_raw_files_to_both_figures(raw, built, protocol, tmp_path):
    """Both protocols from one build; each figure against a library or the files that were left."""
    results = algorithm.run(config(raw, built, protocol), tmp_path)
    folder = tmp_path / "baseline"
    assert json.loads((folder / "results.json").read_text()) == results
    scores = np.load(folder / "scores.npz")
    shares = np.exp(scores["logits"].astype(np.float64))
    shares /= shares.sum(1, keepdims=True)
    present = np.unique(scores["label"])
    expected = [average_precision_score(scores["label"] == c, shares[:, c]) for c in present]
    np.testing.assert_allclose(results["metrics"]["mAP"], np.mean(expected), rtol=1e-6)
    assert len(scores["label"]) == 3 * len(VIDEOS[protocol])

    found = results["detection"]
    rows = read_folder(folder / "detection")
    assert list(rows) == VIDEOS[protocol] and found["proposals"] == sum(map(len, rows.values())) > 0
    truth = read_folder(raw / LABELS, confidence=1.0)
    truth = {name: truth[name] for name in rows}
    figures = evaluate(rows, truth, threshold=0.2)
    assert {name: found[name] for name in evaluation.FIGURES} == figures
    assert figures["F1"] > 0 and figures["mAP_action"] > 0
    assert found["videos"] == len(rows) and not found["absent_videos"]
    page = (folder / "report.html").read_text()
    assert "mAP of trimmed clips (mean class AP)" in page and "2D-AP" in page


@pytest.mark.slow
def test_detection_asked_for_later_trains_nothing(raw, built, tmp_path, monkeypatch):
    alone = algorithm.run(config(raw, built, detect=False), tmp_path)
    assert "detection" not in alone
    monkeypatch.setattr(algorithm, "Trainer", None)
    results = algorithm.run(config(raw, built), tmp_path)
    assert {**alone, "detection": results["detection"]} == results
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "detect", None)
        assert algorithm.run(config(raw, built), tmp_path) == results  # held, not sought again
        for name in ("report.html", "report_sections.json"):  # as if killed before its page
            (tmp_path / "baseline" / name).unlink()
        assert algorithm.run(config(raw, built), tmp_path) == results
    assert "mAP of trimmed" in (tmp_path / "baseline" / "report.html").read_text()
    stricter = config(raw, built)
    stricter.eval.overlap = 1.0
    other = algorithm.run(stricter, tmp_path)["detection"]
    assert other["F1"] <= results["detection"]["F1"] and other["overlap"] == 1.0
    assert (tmp_path / "baseline" / "report.html").read_text().count("mAP of trimmed") == 1


@pytest.mark.slow
def test_figures_with_and_without_background(raw, built, tmp_path, monkeypatch):
    """A network that leans to one action everywhere, and knows where nothing happens."""
    made = config(raw, built)
    made.eval.window, made.eval.stride, made.eval.smoothing = 10, 5, 1
    made.eval.thresholds, made.eval.overlap = (0.5,), 0.5
    truth = evaluation.find_footage(made).ground["0291-L"]

    def watch(windows):
        spans = np.array([(window.start, window.stop) for window in windows])
        scores = np.full((len(spans), 52), 0.001)
        for row, (start, stop) in zip(scores, spans):
            middle = (start + stop) / 2
            acting = [r.label - 1 for r in truth if r.start - 1 <= middle < r.end]
            row[acting or 7] = 0.8 if acting else 0.3
            row[51] = 1 - row[:51].sum()
        return scores, spans

    monkeypatch.setattr(watching, "make_watch", lambda *args: watch)
    meta = {"modality": "infrared", "class_names": [*CLASSES, "background"]}
    found = evaluation.detect(None, made, meta, tmp_path / "rows")
    without = found["without_background"]
    assert found["F1"] == 1 and found["proposals"] == 3 * len(truth)
    assert without["F1"] < 1 and without["mAP_action"] <= found["mAP_action"]
    assert found["AUROC"] > 0.9 and found["false_per_minute"] == 0 < without["false_per_minute"]
    assert all(row.label <= 51 for rows in read_folder(tmp_path / "rows").values() for row in rows)
    shown = {"settings": {"window": 10, "stride": 5}, **found}
    made = evaluation.section(
        {"detection": shown, "metrics": {"mAP": 0.5}, "protocol": "cross_subject"}
    )
    assert "with background" in made.html and "100.0" in made.html


def test_classes_that_were_left_out_shift_no_labels(raw, built, monkeypatch):
    """Class 0 of the network is PKU-MMD's third, its last one nothing."""
    scores = np.array([[0.7, 0.1, 0.2]])
    monkeypatch.setattr(watching, "make_watch", lambda *args: lambda w: (scores, [[0, 90]]))
    names = [CLASSES[2], CLASSES[50], "background"]
    made, videos = config(raw, built), pku_videos(raw, "cross_subject")[:1]
    for known, nothing in ((names, 0.2), (names[:2], None)):
        meta = {"modality": "infrared", "class_names": known}
        [seen] = watching.watched(None, made, meta, videos, {})
        assert dict(enumerate(seen.actions[0])) == {**dict.fromkeys(range(51), 0), 2: 0.7, 50: 0.1}
        assert seen.nothing is None if nothing is None else seen.nothing == nothing
        np.testing.assert_allclose(seen.happening, 0.7 if nothing is None else 0.8)
        np.testing.assert_allclose(seen.renormalised[0, [2, 50]], [0.875, 0.125])
    none = np.zeros((1, 3)), np.zeros((3, 3))
    half = calibration.Calibration(0.5, *none, -1.0, 0.1, 0.05, 9).as_json()
    meta = {"modality": "infrared", "class_names": names, "calibration": half}
    [seen] = watching.watched(None, made, meta, videos, {})
    np.testing.assert_allclose(seen.actions[0, [2, 50]], np.array([0.49, 0.01]) / 0.54)
    np.testing.assert_allclose(seen.nothing, 0.04 / 0.54)


@pytest.mark.slow
def test_an_rgb_network_watches_the_rgb_videos(raw, built, tmp_path):
    results = algorithm.run(config(raw, built, "cross_view", "teacher"), tmp_path)
    assert results["modality"] == "rgb" and results["detection"]["videos"] == 2


@pytest.mark.slow
def test_window_scores_are_those_of_a_test_clip(raw, built):
    """Five windows in batches of four, each as the network alone scores it."""
    chosen, network = config(raw, built), fakes.teacher()
    found = list(
        windows.windows(
            video_path(raw, "0291-L", "rgb"),
            infrared=False,
            size=(32, 40),
            length=30,
            stride=15,
            num_segments=2,
        )
    )
    score = scoring.make_score(network, chosen, "rgb")
    scores, spans = consensus.window_scores(found, score, 4)
    assert spans.tolist() == [[0, 30], [15, 45], [30, 60], [45, 75], [60, 90]]
    inputs = chosen.input
    for window, row in zip(found, scores, strict=True):
        clip = augment.prepare_evaluation(
            {"rgb": jnp.asarray(window.frames[None])},
            resolution=inputs.resolution,
            scale=inputs.eval_scale,
        )["rgb"]
        logits = np.asarray(network.model.apply(network.variables, clip, train=False).logits)[0]
        np.testing.assert_allclose(row, np.exp(logits) / np.exp(logits).sum(), rtol=1e-4)


def test_absent_damaged_and_slower_videos(tmp_path, built, raw):
    rows = pku_tree(tmp_path, train=(2,), validation=(291, 292))
    video_path(tmp_path, "0291-L", "infrared").unlink()
    truncate(video_path(tmp_path, "0291-M", "infrared"))
    write_video(video_path(tmp_path, "0292-L", "infrared"), 45, infrared=True)
    video_path(tmp_path, "0292-R", "infrared").write_bytes(b"no video")
    chosen = config(tmp_path, built)
    chosen.eval.window, chosen.eval.stride = 20, 20
    with pytest.raises(
        UserError, match=r"1 of 6 test videos .*\['0291-L'\] first.*missing=official"
    ):
        evaluation.check(chosen)
    network = fakes.Network(fakes.TinyModel(51), {})
    chosen.eval.missing, one = "empty", np.eye(51, dtype=np.float32)[:1]

    def sure(*_):
        return lambda clips: np.repeat(one, len(clips), axis=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "make_score", sure)
        meta = {"modality": "infrared", "class_names": CLASSES}
        counts = evaluation.detect(network, chosen, meta, tmp_path / "detection")
        chosen.eval.missing = "official"
        leaves = evaluation.detect(network, chosen, meta, tmp_path / "detection")
    found = read_folder(tmp_path / "detection")
    assert counts["absent_videos"] == ["0291-L"] and "0291-L" not in found
    assert set(counts["damaged_videos"]) == {"0291-M", "0292-R"}
    assert "truncated" in counts["damaged_videos"]["0291-M"] and found["0292-R"] == []
    assert [(row.start, row.end) for row in found["0291-R"]] == [(1, 90)]
    assert [(row.start, row.end) for row in found["0292-L"]] == [(1, 90)]  # 45 frames at half rate
    assert found["0291-M"][0].end < 90
    annotated = {name: r for name, r in rows.items() if name > "0290"}
    assert counts["videos"] == leaves["videos"] == len(annotated) - 1
    assert leaves["AP"] >= counts["AP"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("raw_dir", "", r"set --config.eval.raw_dir to the folder that was --manual_dir"),
        ("raw_dir", "/nowhere", r"raw_dir=/nowhere is no folder"),
        ("smoothing", 2, r"eval\.smoothing is 2; it must be an odd number"),
        ("stride", 0, r"eval\.stride is 0; it must be a whole number of 1 or more"),
        ("overlap", 0.0, r"eval\.overlap is 0\.0; it must be a number above 0"),
        ("missing", "skip", r"eval\.missing is 'skip'; it must be one of error, official, empty"),
        ("thresholds", (), r"eval\.thresholds is \(\); it must be one or several"),
        ("thresholds", (0.5, 1.5), r"above 0 and at most 1"),
    ],
)
def test_mistakes_are_named_before_training(raw, built, tmp_path, field, value, message):
    wrong = config(raw, built)
    wrong.eval[field] = value
    with pytest.raises(UserError, match=message):
        algorithm.run(wrong, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_video_without_its_annotation_is_absent(tmp_path, built):
    pku_tree(tmp_path, train=(2,), validation=(291,), frames=40)
    label_path(tmp_path, "0291-M").unlink()
    chosen = config(tmp_path, built)
    with pytest.raises(UserError, match=r"1 of 3 test videos of .*annotation.*\['0291-M'\] first"):
        evaluation.check(chosen)
    chosen.eval.missing = "official"
    found = evaluation.find_footage(chosen)
    assert found.absent == ["0291-M"] and sorted(found.ground) == ["0291-L", "0291-R"]


def test_other_data_sets_have_no_untrimmed_videos(raw, built, tmp_path):
    wrong = config(raw, built)
    wrong.dataset.name = "ntu_rgbd_ir/ten"
    with pytest.raises(UserError, match=r"defined for pku_mmd_ir, not for 'ntu_rgbd_ir/ten'"):
        algorithm.run(wrong, tmp_path)

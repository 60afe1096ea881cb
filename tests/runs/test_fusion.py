import json

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from jax_irkd import fuse
from jax_irkd.errors import UserError
from jax_irkd.metrics import classification
from jax_irkd.runs import fusion
from tests.helpers.generated_runs import generate_runs


def write(folder, ids, labels, logits, **results):
    folder.mkdir(parents=True, exist_ok=True)
    logits = np.asarray(logits, np.float32)
    np.savez(folder / "scores.npz", clip_id=np.array(ids), label=np.array(labels), logits=logits)
    (folder / "results.json").write_text(json.dumps(results))
    return str(folder)


def problem(seed=0, clips=80, classes=4):
    """Two runs, each sure and right where the other guesses."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, clips)
    logits = rng.normal(0, 1, (2, clips, classes))
    strong = rng.random(clips) < 0.6
    for run, good in enumerate((strong, ~strong)):
        logits[run, np.flatnonzero(good), labels[good]] += 4
    return logits, labels


def test_fused_probabilities_are_the_weighted_mean():
    logits, _ = problem()
    p = scipy.special.softmax(logits, axis=-1)
    fused = np.exp(fusion.fuse(logits, np.array([1.0, 3.0])))
    np.testing.assert_allclose(fused, 0.25 * p[0] + 0.75 * p[1], rtol=1e-12)
    np.testing.assert_allclose(np.exp(fusion.fuse(logits, np.array([0.0, 2.0]))), p[1], rtol=1e-12)
    assert np.isfinite(fusion.fuse(logits * 1e4, np.ones(2))).all()


def test_tuned_weights_are_those_of_a_general_optimiser():
    logits, labels = problem()
    p = scipy.special.softmax(logits, axis=-1)[:, np.arange(len(labels)), labels]
    best = scipy.optimize.minimize_scalar(
        lambda w: -np.log(w * p[0] + (1 - w) * p[1]).sum(), bounds=(0, 1), method="bounded"
    )
    np.testing.assert_allclose(fusion.tune(logits, labels), [best.x, 1 - best.x], atol=1e-3)


@pytest.mark.parametrize(
    ("ids", "kind", "groups"),
    [
        (["S001C001P001R001A001", "S001C002P001R001A002", "S001C001P002R001A001"], "subjects", 1),
        (["0002-L/1", "0002-M/1", "0003-L/1", "0004-R/2"], "recordings", 2),
        (["wave/anna__1", "clap/anna__2", "train/wave/bert__1"], "named subjects", 1),
        (["a", "b", "c"], "clips", 2),
    ],
)
def test_halves_keep_groups_together(ids, kind, groups):
    by, tuning, chosen = fusion.halves(ids)
    assert by == kind and len(chosen) == groups and 0 < tuning.sum() < len(ids)
    keys = [i.split("-")[0] if "-" in i else i.split("/")[-1].split("__")[0] for i in ids]
    keys = [key[8:12] if kind == "subjects" else key for key in keys]
    sides = {}
    assert all(sides.setdefault(key, side) == side for key, side in zip(keys, tuning))


def test_tuned_weights_are_measured_on_other_clips(tmp_path):
    logits, labels = problem()
    ids = [f"S001C001P{1 + i % 8:03d}R001A{i:03d}" for i in range(len(labels))]
    for run, name in enumerate(("rgb", "ir")):
        order = np.random.default_rng(run).permutation(len(ids))  # Order must not matter.
        write(tmp_path / name, np.array(ids)[order], labels[order], logits[run][order])
    folders = [str(tmp_path / name) for name in ("rgb", "ir")]
    assert fuse.main([*folders, "--weights=tuned"]) == 0
    results = json.loads((tmp_path / "fusion.json").read_text())
    assert results["tuned_on"] == {
        "by": "subjects",
        "groups": ["P001", "P003", "P005", "P007"],
        "clips": 40,
    }
    measured = np.array([int(i[9:12]) % 2 == 0 for i in ids])
    float32 = logits.astype(np.float32)
    weights = fusion.tune(float32[:, ~measured], labels[~measured])
    np.testing.assert_allclose(list(results["weights"].values()), weights, rtol=1e-6)
    fused = fusion.fuse(float32, weights)[measured]
    expected = classification.summarize(fused, labels[measured], 4)
    for name, value in expected.items():
        np.testing.assert_allclose(results["fused"][name], value, rtol=1e-6)
    alone = classification.summarize(float32[0][measured], labels[measured], 4)
    assert results["metrics"][folders[0]] == pytest.approx(alone)
    assert results["fused"]["top1"] > max(m["top1"] for m in results["metrics"].values())


def test_the_table_of_generated_runs(tmp_path, capsys):
    generate_runs(tmp_path, clips=60, steps=60)
    folders = [str(tmp_path / name) for name in ("teacher", "ours")]
    assert fuse.main([*folders, "--weights=3,1", f"--out={tmp_path}/f.json"]) == 0
    text = capsys.readouterr().out
    assert "0.750" in text and "0.250" in text and "measured on 60 of 60 clips" in text
    results = json.loads((tmp_path / "f.json").read_text())
    assert results["weights_are"] == "given" and results["tuned_on"] is None
    saved = json.loads((tmp_path / "ours" / "results.json").read_text())["metrics"]
    assert results["metrics"][folders[1]]["top1"] == pytest.approx(saved["top1"])


def test_runs_that_do_not_fit_are_refused(tmp_path):
    eye = np.eye(2)
    good = write(tmp_path / "good", ["a", "b"], [0, 1], eye, class_names=["x", "y"])
    others = {
        r"good \(2 clips\) and .* \(2\) scored different clips: 2 are in one only, b in .*good": (
            write(tmp_path / "clips", ["a", "c"], [0, 1], eye)
        ),
        r"disagree on the labels of 1 clips \(b is 1 and 0\)": (
            write(tmp_path / "labels", ["a", "b"], [0, 0], eye)
        ),
        r"knows 2 classes, .* 3, and they are not the same": (
            write(tmp_path / "more", ["a", "b"], [0, 1], np.eye(3)[:2])
        ),
        r"knows 2 classes, .* 2, and they are not the same": (
            write(tmp_path / "names", ["a", "b"], [0, 1], eye, class_names=["x", "z"])
        ),
    }
    for message, folder in others.items():
        with pytest.raises(UserError, match=message):
            fusion.fused_results([fusion.read_scored(good), fusion.read_scored(folder)])


def test_mistakes_are_one_line(tmp_path, capsys):
    ids, labels, eye = ["S001C001P001R001A001", "S001C001P001R001A002"], [0, 1], np.eye(2)
    runs = [write(tmp_path / name, ids, labels, eye) for name in "ab"]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "scores.npz").write_bytes(b"half a file")
    for arguments, words in [
        (runs[:1], "needs two runs or more"),
        ([runs[0], f"{runs[0]}/"], "each named once"),
        ([runs[0], str(tmp_path)], "has no scores.npz"),
        ([runs[0], str(tmp_path / "broken")], "cannot be read"),
        ([*runs, "--weights=best"], "none of equal, tuned and numbers"),
        ([*runs, "--weights=1,2,3"], "has 3 numbers for 2 runs"),
        ([*runs, "--weights=-1,2"], "weights are 0 or more"),
        ([*runs, "--weights=tuned"], "all clips are of one group (subjects: P001)"),
        ([*runs, "--out=/no/such/folder/x.json"], "cannot write /no/such/folder/x.json"),
    ]:
        assert fuse.main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error

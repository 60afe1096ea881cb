import json

import numpy as np
import pytest

from jax_irkd import inspect
from jax_irkd.errors import UserError
from jax_irkd.metrics import significance
from jax_irkd.runs import answers
from jax_irkd.runs.results import read_run
from jax_irkd.studies import outputs
from tests.studies.test_study import LABELS, PREDICTIONS, done, generated, plan


def study(folder, predictions=PREDICTIONS, methods=("baseline", "ours")):
    """A finished study's folder, and what it says."""
    folder.mkdir()
    generated(folder, predictions, LABELS)
    seeds = sorted({seed for seed, _ in predictions})
    return outputs.write_outputs(folder, plan(folder, methods, seeds), done(predictions))


def test_every_answer_of_every_run_is_kept(tmp_path):
    study(tmp_path / "study")
    lines = (tmp_path / "study" / "answers.csv").read_text().splitlines()
    assert lines[0] == (
        "clip,label,seed0/baseline,seed0/ours,seed0/teacher,seed1/baseline,seed1/ours,seed1/teacher"
    )
    assert lines[3] == "clip2,0,1,0,0,0,0,0" and len(lines) == 1 + len(LABELS)
    found = answers.read(tmp_path / "study" / "answers.csv")
    np.testing.assert_array_equal(found.labels, LABELS)
    assert set(found.runs) == set(PREDICTIONS)
    for key, predicted in PREDICTIONS.items():
        np.testing.assert_array_equal(found.runs[key], predicted)


def test_a_clip_that_a_run_could_not_read_is_left_out_of_its_comparisons(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS)
    runs = {key: read_run(tmp_path / f"seed{key[0]}" / key[1]) for key in PREDICTIONS}
    short = runs[0, "ours"]
    cut = {name: getattr(short, name)[1:] for name in ("clip_ids", "labels", "logits")}
    (tmp_path / "answers.csv").write_text(
        answers.write(runs | {(0, "ours"): short._replace(**cut)})
    )
    found = answers.read(tmp_path / "answers.csv")
    assert found.runs[0, "ours"][0] == answers.NONE
    (one,) = answers.compare(found, "baseline")  # as in a study
    pairs = [[(seed, method) for seed in (0, 1)] for method in ("ours", "baseline")]
    scores = [[np.equal(PREDICTIONS[key], LABELS)[1:] for key in keys] for keys in pairs]
    assert one.difference == significance.paired_bootstrap(*map(np.array, scores))
    with pytest.raises(ValueError, match="clip0"):
        found.right([(0, "ours")])
    assert answers.write({}) == ""


def test_the_comparison_is_the_study_s(tmp_path):
    predictions = PREDICTIONS | {(s, "at"): PREDICTIONS[s, "teacher"] for s in (0, 1)}
    said = study(tmp_path / "study", predictions, ("baseline", "ours", "at"))["methods"]
    table = answers.read(tmp_path / "study" / "answers.csv")
    found = {one.method: one for one in answers.compare(table, "baseline")}
    assert list(found) == ["at", "ours"]  # the larger gain first; the teacher is no student
    for method, one in found.items():
        difference = said[method]["difference"]
        assert one.difference._asdict() == {key: difference[key] for key in one.difference._fields}
        assert one.p_holm == difference["p_holm"]
        assert one.top1 == pytest.approx(said[method]["metrics"]["top1"]["mean"])
    # Two methods beside each other: 9 and 8 right of 10 for 7 and 7.
    assert [one.by_seed for one in answers.compare(table, "ours") if one.method == "at"] == [
        pytest.approx([0.2, 0.1])
    ]


def test_studies_on_the_same_clips_are_joined(tmp_path):
    study(tmp_path / "first")
    more = {(seed + 2, method): given for (seed, method), given in PREDICTIONS.items()}
    study(tmp_path / "second", more)
    files = [tmp_path / name / "answers.csv" for name in ("first", "second")]
    (one,) = answers.compare(answers.joined(files), "baseline")
    assert one.seeds == [0, 1, 2, 3] and one.by_seed == pytest.approx([0.2] * 4)
    assert answers.joined(files[:1] * 2).runs.keys() == PREDICTIONS.keys()  # one file twice


def test_what_cannot_be_compared_is_refused(tmp_path):
    study(tmp_path / "first")
    first = tmp_path / "first" / "answers.csv"
    other = tmp_path / "other.csv"
    other.write_text(first.read_text().replace("clip2,0,1", "clip2,0,2"))
    with pytest.raises(UserError, match="other answers of seed0/baseline"):
        answers.joined([first, other])
    other.write_text(first.read_text().replace("clip2,0", "clip2,1"))
    with pytest.raises(UserError, match="different test clips"):
        answers.joined([first, other])
    with pytest.raises(UserError, match="no run of 'our' to compare with; did you mean 'ours'"):
        answers.compare(answers.read(first), "our")
    for text in (
        "",
        "clip,label\n",
        "clip,label,seed0/at\na,0\n",
        "clip,label,at\na,0,1\n",
        "a\n1\n",
    ):
        other.write_text(text)
        with pytest.raises(UserError, match=r"is no answers\.csv of a study"):
            answers.read(other)
    with pytest.raises(UserError, match="cannot read"):
        answers.read(tmp_path / "nowhere.csv")


def test_the_command_shows_any_two_methods(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    study(tmp_path / "study")
    path = str(tmp_path / "study" / "answers.csv")
    assert inspect.main(["answers", path]) == 0
    out = capsys.readouterr().out
    table, note = out.split("10 test clips")
    assert "+20.0 [" in table and max(map(len, table.splitlines())) <= 81 and "could see" in note
    assert inspect.main(["answers", path, "--against=teacher"]) == 0
    assert "over teacher" in capsys.readouterr().out
    assert inspect.main(["answers"]) == 2
    assert "which answers?" in capsys.readouterr().err
    assert json.loads((tmp_path / "study" / "study.json").read_text())["clips"] == len(LABELS)

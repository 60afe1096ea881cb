"""What a study compares with, of runs that an earlier one has left in its workdir."""

import json
import shutil

import numpy as np
import pytest

from jax_irkd import study
from jax_irkd.config import paper_setup
from jax_irkd.reporting.comparison import cast_of, misfits, seeds_of
from jax_irkd.runs.results import read_runs
from tests.helpers.generated_runs import generate_runs

OF_BASELINES = {
    "student_training.num_epochs": 1.0,
    "student_training.learning_rate": 1.0,
    "student_model.depth": 50,
    "weights.student": "somewhere/resnet18.pth",
}
OF_TEACHERS = {
    "teacher_training.num_epochs": 1.0,
    "teacher_model.temporal": "shift",
    "weights.teacher": "somewhere/resnet50.pth",
}
OF_ALL = {
    "protocol": "cross_view",
    "dtype": "bfloat16",
    "input.resolution": 112,
    "dataset.infrared_size": [64, 64],
    "eval.crops": 10,
}
OF_NONE = {
    "dataset.data_dir": "elsewhere",
    "input.threads": 3,
    "input.eval_batch_size": 1,
    "eval.window": 7,
}


def other(folder, field=None, value=None, **facts):
    """Rewrite results.json with the whole configuration, one field of it otherwise."""
    path = folder / "results.json"
    results = json.loads(path.read_text()) | facts
    config = paper_setup(results["method"], "cross_subject", 0)
    config.dataset.name = results["dataset"]
    results["config"] = json.loads(config.to_json_best_effort())
    section = results["config"]
    *above, name = field.split(".") if field else ("seed",)
    for part in above:
        section = section[part]
    if field:
        assert name in section
        section[name] = value
    path.write_text(json.dumps(results))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Finished runs of the same settings: teacher, baseline, st."""
    folder = generate_runs(tmp_path_factory.mktemp("made"), ("teacher", "baseline", "st"), clips=60)
    for run in folder.iterdir():
        other(run)
    return folder


@pytest.fixture
def workdir(tmp_path, made):
    """A study of `st` alone, beside what an earlier one has left."""
    shutil.copytree(made, tmp_path / "seed0")
    kept = {"command": "c", "methods": ["st"], "seeds": [0], "runs": [[0, "st"]]}
    (tmp_path / "plan.json").write_text(json.dumps(kept))
    return tmp_path


def report(workdir):
    """The exit code, and what the study says."""
    code = study.main([f"--workdir={workdir}", "--report_only"])
    return code, json.loads((workdir / "study.json").read_text())


def compared(workdir):
    """The runs that the page of `st` compares it with."""
    runs = read_runs(workdir / "seed0")
    cast = cast_of(next(run for run in runs if run.method == "st"), runs)
    return {run.method for run in (cast.teacher, cast.baseline) if run is not None}


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [("baseline", *row) for row in (OF_BASELINES | OF_ALL).items()]
    + [("teacher", *row) for row in (OF_TEACHERS | OF_ALL).items()],
)
def test_a_page_compares_with_runs_of_its_settings_only(workdir, method, field, value):
    other(workdir / "seed0" / method, field, value)
    assert compared(workdir) == {"teacher", "baseline"} - {method}


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [("baseline", *row) for row in (OF_TEACHERS | OF_NONE).items()]
    + [("teacher", *row) for row in (OF_BASELINES | OF_NONE).items()],
)
def test_settings_that_a_run_has_no_use_for_do_not_count(workdir, method, field, value):
    other(workdir / "seed0" / method, field, value, git_commit="another")
    assert compared(workdir) == {"teacher", "baseline"}


def test_a_run_of_another_number_type_is_no_other_seed_and_no_measure(workdir):
    """dtype=auto, which both have, is bfloat16 on GPUs and float32 elsewhere."""
    other(workdir / "seed0/st", computed_in="float32")
    other(workdir / "seed0/baseline", computed_in="bfloat16")  # the teacher does not tell
    assert compared(workdir) == {"teacher"}
    runs = {run.method: run for run in read_runs(workdir / "seed0")}
    said = misfits(runs["baseline"], runs["st"])
    assert said == ["computed_in is 'bfloat16', not 'float32'"]
    shutil.copytree(workdir / "seed0/st", workdir / "seed1/st")
    for computed_in, seeds in (("float32", 2), ("bfloat16", 1)):
        other(workdir / "seed1/st", seed=1, computed_in=computed_in)
        assert len(seeds_of(runs["st"], read_runs(workdir / "seed1"))) == seeds


def test_a_study_compares_with_earlier_runs_of_its_settings(workdir):
    other(workdir / "seed0/baseline", "teacher_model.depth", 18, git_commit="another")
    code, found = report(workdir)
    assert code == 0 and set(found["methods"]) == {"teacher", "baseline", "st"}
    assert found["methods"]["st"]["difference"] and found["left_out"] == []
    assert "Left out" not in (workdir / "study.md").read_text()


@pytest.mark.parametrize("method", ["teacher", "baseline"])
def test_a_run_of_other_settings_is_left_out_and_named(workdir, capsys, method):
    role = "teacher" if method == "teacher" else "student"
    other(workdir / "seed0" / method, f"{role}_training.num_epochs", 1.0)
    code, found = report(workdir)
    assert code == 0 and set(found["methods"]) == {"teacher", "baseline", "st"} - {method}
    assert (found["methods"]["st"]["difference"] is None) == (method == "baseline")
    assert found["methods"]["st"]["gap_closed"] is None
    reason = "training.num_epochs is 1.0, not 80.0"
    said = [line for line in capsys.readouterr().err.splitlines() if f"seed0/{method}" in line]
    assert len(said) == 1 and reason in said[0] and "another --workdir" in said[0]
    assert (
        f"Left out: seed0/{method}, of an earlier study ({reason})."
        in (workdir / "study.md").read_text()
    )


@pytest.mark.parametrize(
    "facts",
    [
        {"protocol": "cross_view"},
        {"fingerprint": "built again"},
        {"dataset": "another/ten"},
        {"class_names": list("abcdefghij")},
    ],
)
def test_a_run_on_other_data_is_no_error(workdir, facts):
    """Hours of training ended with an error, and without study.md."""
    other(workdir / "seed0" / "baseline", **facts)
    code, found = report(workdir)
    assert code == 0 and set(found["methods"]) == {"teacher", "st"}
    assert (workdir / "study.md").exists() and compared(workdir) == {"teacher"}


def test_results_that_cannot_be_read_are_no_error_either(workdir):
    (workdir / "seed0/baseline/scores.npz").write_bytes(b"PK\x03\x04 cut short")
    code, found = report(workdir)
    assert code == 0 and "cannot be read" in found["left_out"][0]["reason"]


@pytest.mark.parametrize("same", [False, True])
def test_a_teacher_from_elsewhere_is_known_by_its_figures(workdir, same):
    own = json.loads((workdir / "seed0/teacher/results.json").read_text())["metrics"]
    taught = own if same else own | {"top1": 0.6}
    other(workdir / "seed0/st", "teacher", "/elsewhere/teacher", teacher=taught)
    code, found = report(workdir)
    assert code == 0 and ("teacher" in found["methods"]) == same
    assert compared(workdir) == ({"teacher", "baseline"} if same else {"baseline"})
    if same:
        top1 = {name: row["metrics"]["top1"]["mean"] for name, row in found["methods"].items()}
        share = np.subtract(top1["st"], top1["baseline"]) / (top1["teacher"] - top1["baseline"])
        assert found["methods"]["st"]["gap_closed"] == pytest.approx(share)
    else:
        assert found["methods"]["st"]["gap_closed"] is None


def test_what_is_in_no_table_is_said(workdir, made, capsys):
    """A study of one more seed wrote its tables over those of the five before."""
    shutil.copytree(made, workdir / "seed3")
    shutil.copytree(made / "st", workdir / "seed0" / "at")
    _, found = report(workdir)
    lost = ["seed0/at", "seed3/baseline", "seed3/st", "seed3/teacher"]
    assert found["not_asked_for"] == lost
    assert f"in no table: {', '.join(lost)}; --seeds and --methods" in capsys.readouterr().out

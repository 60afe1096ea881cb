import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jax_irkd import algorithm, main
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.runs.results import finished
from tests.helpers import ROOT, fakes
from tests.helpers.shared_programs import shared_programs  # noqa: F401


def patch(monkeypatch):
    """The data set in memory and the tiny model, in place of TFDS and ResNets."""
    fakes.use_tiny_models(monkeypatch)
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: fakes.dataset())


@pytest.fixture(autouse=True)
def small(monkeypatch):
    patch(monkeypatch)


def config(method, **training):
    made = fakes.config(method, **training)
    made.teacher_model.depth = 50
    made.allow_weak_teacher = True
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir with a teacher, `ours` and, trained after it, the baseline; what `ours` gave."""
    workdir = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patched:
        patch(patched)
        ours = algorithm.run(config("ours"), workdir)
        shutil.copy(workdir / "ours" / "report.html", workdir / "before.html")
        algorithm.run(config("baseline"), workdir)
    return workdir, ours


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(trained[0], tmp_path / "runs")


@pytest.mark.slow
def test_algorithm_one(trained):
    """Teacher once, baseline and distilled student beside it, everything written."""
    workdir, ours = trained
    teacher = json.loads((workdir / "teacher" / "results.json").read_text())
    assert ours["teacher"] == teacher["metrics"]
    for folder in ("teacher", "baseline", "ours"):
        results = json.loads((workdir / folder / "results.json").read_text())
        assert results["protocol"] == "cross_subject" and results["num_clips"] == 7
        assert set(results["metrics"]) >= {"top1", "top5", "mean_class_accuracy", "mAP"}
        assert results["versions"]["jax"] and results["config"]["seed"] == 0
        for name in ("report.html", "confusion_matrix.png", "metrics.jsonl", "config.json"):
            assert (workdir / folder / name).stat().st_size > 100
        assert list((workdir / folder / "tensorboard").iterdir())
        scores = np.load(workdir / folder / "scores.npz")
        top1 = np.mean(scores["logits"].argmax(1) == scores["label"])
        np.testing.assert_allclose(top1, results["metrics"]["top1"])
        assert len(set(scores["clip_id"])) == 7


@pytest.mark.slow
def test_what_is_finished_is_not_run_again(trained, monkeypatch):
    workdir, ours = trained
    monkeypatch.setattr(algorithm, "Trainer", None)
    assert algorithm.run(config("ours"), workdir) == ours


@pytest.mark.slow
def test_a_page_that_was_never_written_is_written_by_the_same_command(workdir, monkeypatch):
    """Killed between results.json and report.html, the teacher's page and the student's."""
    pages = [workdir / name / "report.html" for name in ("teacher", "ours", ".")]
    for page in pages:
        page.unlink()
    monkeypatch.setattr(algorithm, "Trainer", None)
    honest, killed, taught = algorithm.write.write_report, [], []

    def kill(workdir, names, sections):
        killed.append(names)
        raise KeyboardInterrupt

    monkeypatch.setattr(algorithm.write, "write_report", kill)
    for _ in range(2):  # The second call finds the teacher trained and is killed again there.
        with pytest.raises(KeyboardInterrupt):
            algorithm.run(config("ours"), workdir)
    assert len(killed) == 2 and all("teacher" in names for names in killed)
    assert finished(workdir / "teacher")
    monkeypatch.setattr(algorithm.write, "write_report", honest)
    monkeypatch.setattr(
        algorithm.examples, "closeups", lambda *_, teacher: taught.append(teacher) or []
    )
    algorithm.run(config("ours"), workdir)
    assert all(page.exists() for page in pages) and len(taught) == 1
    assert taught[0].model.width == 6  # The closeups get the teacher, as after training.
    algorithm.run(config("ours"), workdir)
    assert len(taught) == 1


@pytest.mark.slow
def test_a_baseline_that_comes_later_is_named_on_the_earlier_pages(trained):
    workdir, _ = trained
    alone = "No infrared-only run of these settings lies beside this one"
    assert alone in (workdir / "before.html").read_text()
    assert alone not in (workdir / "ours" / "report.html").read_text()


@pytest.mark.slow
def test_another_configuration_is_refused_unless_told_otherwise(workdir):
    with pytest.raises(
        UserError, match=r"training.learning_rate is 0.05, asked for 0.1\); use ano"
    ):
        algorithm.run(config("baseline", learning_rate=0.1), workdir)
    moved = config("baseline")
    moved.dataset.data_dir, moved.input.threads = "/elsewhere", 1
    algorithm.run(moved, workdir)
    algorithm.run(config("baseline", learning_rate=0.1), workdir, restart=True)


@pytest.mark.slow
def test_a_teacher_from_elsewhere(workdir, tmp_path):
    borrowed = config("ours")
    borrowed.teacher = str(workdir / "teacher")
    results = algorithm.run(borrowed, tmp_path / "second")
    assert not (tmp_path / "second" / "teacher").exists()
    assert 0 <= results["teacher"]["top1"] <= 1


@pytest.mark.slow
def test_a_teacher_that_cannot_teach_is_refused(trained, tmp_path, monkeypatch):
    workdir, _ = trained
    wrong = config("dkd")
    wrong.teacher = str(workdir / "baseline")
    with pytest.raises(UserError, match="reads infrared, but a teacher reads rgb"):
        algorithm.run(wrong, tmp_path)
    wrong.teacher = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no run"):
        algorithm.run(wrong, tmp_path)
    data = fakes.dataset()
    four = loading.Dataset(data.name, (*fakes.CLASSES, "up"), data.splits, "four")
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: four)
    wrong.teacher = str(workdir / "teacher")
    with pytest.raises(UserError, match=r"knows 3 classes .*fake/three has 4"):
        algorithm.run(wrong, tmp_path)


@pytest.mark.slow
def test_a_weak_teacher_stops_the_run(tmp_path):
    weak = config("dkd", num_epochs=0.1, learning_rate=0.0)
    weak.allow_weak_teacher = False
    with pytest.raises(UserError, match=r"chance is 33.3%; it has nothing to teach"):
        algorithm.run(weak, tmp_path)


@pytest.mark.parametrize(
    ("classes", "top1", "of_a_class", "weak"),
    [
        (2, 0.74, 0.74, False),
        (2, 0.62, 0.62, True),
        (3, 0.60, 1 / 3, True),  # who always names the class that three in five clips have
        (10, 0.16, 0.16, False),
        (10, 0.15, 0.15, True),
    ],
)
def test_what_a_weak_teacher_is(tmp_path, monkeypatch, classes, top1, of_a_class, weak):
    results = {"metrics": {"top1": top1, "mean_class_accuracy": of_a_class}}
    monkeypatch.setattr(algorithm, "judge", lambda *given: results)
    data = loading.Dataset("fake/many", tuple("abcdefghij"[:classes]), {}, "many")
    asked = config("dkd")
    asked.teacher, asked.allow_weak_teacher = str(tmp_path), False
    if not weak:
        assert algorithm.get_teacher(asked, data, tmp_path)[1] == results
        return
    with pytest.raises(UserError, match=r"nothing to teach.*allow_weak_teacher=True"):
        algorithm.get_teacher(asked, data, tmp_path)


@pytest.mark.slow
def test_a_new_method_is_one_new_file_and_learns_from_the_same_teacher(workdir, monkeypatch):
    package = workdir.parent / "methods_of_mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "squares.py").write_text(
        "import flax.linen as nn\n"
        "import jax.numpy as jnp\n"
        "class Distiller(nn.Module):\n"
        "    weight: float = 0.5\n"
        "    @nn.compact\n"
        "    def __call__(self, student, teacher, labels, *, epoch=None):\n"
        "        gap = student.logits - teacher.logits\n"
        "        return {'mine': self.weight * jnp.mean(gap**2)}\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    written = (workdir / "teacher" / "metrics.jsonl").read_text()
    algorithm.run(config("methods_of_mine.squares"), workdir)
    lines = (workdir / "methods_of_mine.squares" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["mine"] > 0
    assert (workdir / "teacher" / "metrics.jsonl").read_text() == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spp": {}}, r"unknown distiller 'spp'; choose one of \['at', 'cc'"),
        ({"at": {"wieght": 1.0}}, r"distiller at: no field 'wieght'; it has \["),
        ({"at": {"weight": "heavy"}}, "heavy"),
        ({"at": {"layers": ["stage5"]}}, "stage5.*stage4"),
        ({"mgcam": {"attention": "grph"}}, r"grph.*'uniform'"),
    ],
)
def test_bad_distillers_are_named(tmp_path, change, message):
    bad = config("baseline")
    bad.distillers.update(change)
    bad.method = next(iter(change))
    with pytest.raises(UserError, match=message):
        algorithm.run(bad, tmp_path)
    assert not (tmp_path / "teacher").exists(), "a teacher was trained for nothing"


def test_no_write_permission(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot write to .*Permission denied; use another"):
        algorithm.run(config("baseline"), tmp_path / "locked")


def test_a_missing_dataset_is_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.undo()
    flags = [f"--workdir={tmp_path}", f"--config.dataset.data_dir={tmp_path}", "--distributed=off"]
    assert main.main(["--config=configs/demo.py", *flags]) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: no dataset ntu_rgbd_ir/ten") and said.count("\n") == 1
    assert "python -m jax_irkd.build" in said


@pytest.mark.slow
def test_training_imports_no_tensorflow(tmp_path):
    script = (
        "import pathlib, sys\n"
        "from tests.helpers import fakes\n"
        "from jax_irkd import algorithm\n"
        "from jax_irkd.data import loading\n"
        "from jax_irkd.training import setup\n"
        "setup.make_model = lambda *args, **kwargs: fakes.TinyModel()\n"
        "loading.open_dataset = lambda *args: fakes.dataset()\n"
        f"algorithm.run(fakes.config(), pathlib.Path({str(tmp_path)!r}))\n"
        "assert 'tensorflow_datasets' in sys.modules\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'tensorflow'])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "[]"

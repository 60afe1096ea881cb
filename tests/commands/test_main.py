import json
import subprocess
import sys

import numpy as np
import pytest

from jax_irkd import algorithm
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.runs.results import finished
from jax_irkd.training import setup
from tests.helpers import ROOT, fakes


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The data set in memory and the tiny model, in place of TFDS and ResNets."""

    def tiny(section, num_classes, dtype, **overrides):
        return fakes.TinyModel(num_classes, width=6 if section.depth == 50 else 4)

    monkeypatch.setattr(setup, "make_model", tiny)
    # Grad-CAM reads a TSN's head; test_closeups has it.
    monkeypatch.setattr(algorithm.examples, "closeups", lambda *args, **kwargs: [])
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: fakes.dataset())


def config(method, **training):
    made = fakes.config(method, **training)
    made.teacher_model.depth = 50
    made.allow_weak_teacher = True
    return made


@pytest.mark.slow
def test_algorithm_one(tmp_path):
    """Teacher once, baseline and distilled student beside it, everything written."""
    baseline = algorithm.run(config("baseline"), tmp_path)
    ours = algorithm.run(config("ours"), tmp_path)
    teacher = json.loads((tmp_path / "teacher" / "results.json").read_text())
    assert baseline["teacher"] is None
    assert ours["teacher"] == teacher["metrics"]
    for folder in ("teacher", "baseline", "ours"):
        results = json.loads((tmp_path / folder / "results.json").read_text())
        assert results["protocol"] == "cross_subject" and results["num_clips"] == 7
        assert set(results["metrics"]) >= {"top1", "top5", "mean_class_accuracy", "mAP"}
        assert results["versions"]["jax"] and results["config"]["seed"] == 0
        for name in ("report.html", "confusion_matrix.png", "metrics.jsonl", "config.json"):
            assert (tmp_path / folder / name).stat().st_size > 100
        assert list((tmp_path / folder / "tensorboard").iterdir())
        scores = np.load(tmp_path / folder / "scores.npz")
        top1 = np.mean(scores["logits"].argmax(1) == scores["label"])
        np.testing.assert_allclose(top1, results["metrics"]["top1"])
        assert len(set(scores["clip_id"])) == 7


@pytest.mark.slow
def test_what_is_finished_is_not_run_again(tmp_path, monkeypatch):
    first = algorithm.run(config("dkd"), tmp_path)
    monkeypatch.setattr(algorithm, "Trainer", None)
    assert algorithm.run(config("dkd"), tmp_path) == first


@pytest.mark.slow
def test_a_page_that_was_never_written_is_written_by_the_same_command(tmp_path, monkeypatch):
    """Killed between results.json and report.html, the teacher's page and the student's."""
    honest, killed = algorithm.write.write_report, []

    def kill(workdir, names, sections):
        killed.append(names)
        raise KeyboardInterrupt

    monkeypatch.setattr(algorithm.write, "write_report", kill)
    for _ in range(2):  # The second call finds the teacher trained and is killed again there.
        with pytest.raises(KeyboardInterrupt):
            algorithm.run(config("dkd"), tmp_path)
    assert killed == [["teacher"]] * 2 and finished(tmp_path / "teacher")
    monkeypatch.setattr(algorithm.write, "write_report", honest)
    algorithm.run(config("dkd"), tmp_path)
    pages = [folder / "report.html" for folder in (tmp_path / "dkd", tmp_path)]
    for page in pages:
        page.unlink()
    monkeypatch.setattr(algorithm, "Trainer", None)
    taught = []
    monkeypatch.setattr(
        algorithm.examples, "closeups", lambda *_, teacher: taught.append(teacher) or []
    )
    algorithm.run(config("dkd"), tmp_path)
    assert all(page.exists() for page in pages) and len(taught) == 1
    assert taught[0].model.width == 6  # The closeups get the teacher, as after training.
    algorithm.run(config("dkd"), tmp_path)
    assert len(taught) == 1


@pytest.mark.slow
def test_a_baseline_that_comes_later_is_named_on_the_earlier_pages(tmp_path):
    algorithm.run(config("dkd"), tmp_path)
    alone = "No infrared-only run lies beside this one"
    assert alone in (tmp_path / "dkd" / "report.html").read_text()
    algorithm.run(config("baseline"), tmp_path)
    assert alone not in (tmp_path / "dkd" / "report.html").read_text()


@pytest.mark.slow
def test_all_methods_share_one_teacher(tmp_path):
    algorithm.run(config("dkd"), tmp_path)
    written = (tmp_path / "teacher" / "metrics.jsonl").read_text()
    algorithm.run(config("st"), tmp_path)
    assert (tmp_path / "teacher" / "metrics.jsonl").read_text() == written


@pytest.mark.slow
def test_another_configuration_is_refused_unless_told_otherwise(tmp_path):
    algorithm.run(config("baseline"), tmp_path)
    with pytest.raises(
        UserError, match=r"training.learning_rate is 0.05, asked for 0.1\); use ano"
    ):
        algorithm.run(config("baseline", learning_rate=0.1), tmp_path)
    moved = config("baseline")
    moved.dataset.data_dir, moved.input.threads = "/elsewhere", 1
    algorithm.run(moved, tmp_path)
    algorithm.run(config("baseline", learning_rate=0.1), tmp_path, restart=True)


@pytest.mark.slow
def test_a_teacher_from_elsewhere(tmp_path):
    algorithm.run(config("teacher"), tmp_path / "first")
    borrowed = config("dkd")
    borrowed.teacher = str(tmp_path / "first" / "teacher")
    results = algorithm.run(borrowed, tmp_path / "second")
    assert not (tmp_path / "second" / "teacher").exists()
    assert 0 <= results["teacher"]["top1"] <= 1


def test_a_teacher_that_cannot_teach_is_refused(tmp_path, monkeypatch):
    algorithm.run(config("baseline"), tmp_path)
    wrong = config("dkd")
    wrong.teacher = str(tmp_path / "baseline")
    with pytest.raises(UserError, match="reads infrared, but a teacher reads rgb"):
        algorithm.run(wrong, tmp_path / "other")
    wrong.teacher = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no run"):
        algorithm.run(wrong, tmp_path / "other")
    algorithm.run(config("teacher"), tmp_path)
    data = fakes.dataset()
    four = loading.Dataset(data.name, (*fakes.CLASSES, "up"), data.splits, "four")
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: four)
    wrong.teacher = str(tmp_path / "teacher")
    with pytest.raises(UserError, match=r"knows 3 classes .*fake/three has 4"):
        algorithm.run(wrong, tmp_path / "other")


def test_a_weak_teacher_stops_the_run(tmp_path):
    weak = config("dkd", num_epochs=0.1, learning_rate=0.0)
    weak.allow_weak_teacher = False
    with pytest.raises(UserError, match=r"chance is 33.3%; it has nothing to teach"):
        algorithm.run(weak, tmp_path)


def test_a_new_method_is_one_new_file(tmp_path, monkeypatch):
    (tmp_path / "my_method.py").write_text(
        "import flax.linen as nn\n"
        "import jax.numpy as jnp\n"
        "class Distiller(nn.Module):\n"
        "    weight: float = 0.5\n"
        "    @nn.compact\n"
        "    def __call__(self, student, teacher, labels, *, epoch=None):\n"
        "        gap = student.logits - teacher.logits\n"
        "        return {'mine': self.weight * jnp.mean(gap**2)}\n"
    )
    package = tmp_path / "methods_of_mine"
    package.mkdir()
    (tmp_path / "my_method.py").rename(package / "squares.py")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    algorithm.run(config("methods_of_mine.squares"), tmp_path)
    lines = (tmp_path / "methods_of_mine.squares" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["mine"] > 0


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


MISTAKES = [
    (["--config=configs/demo.py:method=spp"], ["'spp'; did you mean 'sp'", "mgcam"]),
    (
        ["--config=configs/demo.py:metod=at"],
        ["'metod'", "did you mean 'method'?", "protocol, seed"],
    ),
    (["--config=configs/demo.py", "--config.inptu.threads=1"], ["inptu"]),
    (["--config=configs/demo.py", "--config.seed=x"], ["seed", "x"]),
    (["--config=configs/nowhere.py"], ["nowhere"]),
    (["--config=configs/demo.py", "--wrkdir=x"], ["wrkdir"]),
    (["--config=configs/demo.py"], ["no dataset ntu_rgbd_ir/ten", "python -m jax_irkd.build"]),
    ([], ["--config is missing"]),
]


def test_mistakes_on_the_command_line_end_with_one_line(tmp_path):
    command = [sys.executable, "-m", "jax_irkd.main", f"--workdir={tmp_path}"]
    moved = [
        [*argv, f"--config.dataset.data_dir={tmp_path}"] if argv else [] for argv, _ in MISTAKES
    ]
    started = [
        subprocess.Popen([*command, *argv], stderr=subprocess.PIPE, text=True) for argv in moved
    ]
    for (_, words), process in zip(MISTAKES, started):
        said = process.communicate()[1]
        assert process.returncode == 2, said
        assert said.startswith("error: ") and "Traceback" not in said
        for word in words:
            assert word in said


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

"""A result, a teacher, a cache belong to what they were made from, not to where it lay."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from jax_irkd import algorithm
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.runs import identity
from jax_irkd.runs.identity import facts_of
from jax_irkd.training import setup
from jax_irkd.training.checkpoints import Checkpoints
from jax_irkd.training.evaluation import Scores
from jax_irkd.weights import teacher
from tests.helpers import fakes

DATA = fakes.dataset()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Runs that end at once: what is tested lies before and behind their steps."""

    def trained(phase, config, dataset, folder, profile=False):
        runs.append(phase.name)
        if not (folder / "checkpoints").exists():
            save(folder, phase.modality, config)
        return scores(), facts_of(config, dataset, phase.name, phase.modality) | {"steps": 3}

    def tiny(section, num_classes, dtype, **overrides):
        return fakes.TinyModel(num_classes)

    runs = []
    monkeypatch.setattr(algorithm, "train", trained)
    monkeypatch.setattr(algorithm, "write_page", lambda folder, *rest: None)
    monkeypatch.setattr(setup, "make_model", tiny)
    monkeypatch.setattr(setup, "check_fit", lambda *args: None)
    data(monkeypatch)
    return runs


def data(monkeypatch, **changes):
    made = dataclasses.replace(DATA, **changes)
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: made)


def scores() -> Scores:
    labels = np.arange(6) % 3
    return Scores(np.array([f"clip{i}" for i in range(6)]), labels, np.eye(3)[labels])


def save(folder, modality="rgb", config=None, step=3, value=0.5, classes=DATA.class_names) -> None:
    """A checkpoint of a network of one number."""
    config = config or fakes.config("teacher")
    meta = {"name": folder.name, "modality": modality, "class_names": list(classes), "step": step}
    meta |= {"input_offset": False, "dataset": "fake"}
    meta["config"] = json.loads(config.to_json_best_effort())
    state = {"params": {"model": {"w": np.float32(value)}}, "batch_stats": {"model": {}}}
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(step, state, meta, {"top1": 0.5, "ema_top1": 0.25})


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(tmp_path, quick):
    first = algorithm.run(fakes.config("dkd"), tmp_path)
    assert algorithm.run(fakes.config("dkd"), tmp_path) == first
    assert quick == ["teacher", "dkd"]


@pytest.mark.parametrize("method", ["teacher", "baseline", "dkd"])
@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "another film"},
        {"fingerprint": "renamed", "class_names": ("top", "bottom", "edge")},
    ],
    ids=["film", "class"],
)
def test_other_data_are_noticed(tmp_path, monkeypatch, method, change):
    algorithm.run(fakes.config(method), tmp_path)
    data(monkeypatch, **change)
    with pytest.raises(UserError, match=r"another build of the data set.*begin it anew"):
        algorithm.run(fakes.config(method), tmp_path)


def test_a_student_does_not_learn_from_a_teacher_of_other_data(tmp_path, monkeypatch, quick):
    algorithm.run(fakes.config("teacher"), tmp_path)
    data(monkeypatch, fingerprint="another film")
    with pytest.raises(UserError, match="teacher holds a run with another configuration"):
        algorithm.run(fakes.config("dkd"), tmp_path)
    assert quick == ["teacher"] and not (tmp_path / "dkd").exists()


def from_elsewhere(folder):
    config = fakes.config("dkd")
    config.teacher = str(folder)
    return config


def test_a_teacher_may_be_moved_and_is_measured_once(tmp_path, monkeypatch, quick):
    measured = []
    monkeypatch.setattr(teacher, "load_network", lambda *args: (None, {}))
    monkeypatch.setattr(teacher, "evaluate", lambda *args: measured.append(1) or scores())
    save(tmp_path / "a")
    first = algorithm.run(from_elsewhere(tmp_path / "a"), tmp_path / "work")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert algorithm.run(from_elsewhere(tmp_path / "b"), tmp_path / "work") == first
    # A run that was interrupted does not measure it again either.
    (tmp_path / "work" / "dkd" / "results.json").unlink()
    algorithm.run(from_elsewhere(tmp_path / "b"), tmp_path / "work")
    assert measured == [1] and quick == ["dkd", "dkd"]


def test_a_changed_teacher_at_the_same_place_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "load_network", lambda *args: (None, {}))
    monkeypatch.setattr(teacher, "evaluate", lambda *args: scores())
    save(tmp_path / "a")
    algorithm.run(from_elsewhere(tmp_path / "a"), tmp_path / "work")
    shutil.rmtree(tmp_path / "a")
    save(tmp_path / "a", value=0.75)
    with pytest.raises(UserError, match=r"teacher is '.*', asked for"):
        algorithm.run(from_elsewhere(tmp_path / "a"), tmp_path / "work")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("bottom", "top", "side"), "class 0 of the teacher in .* is 'bottom', .* is 'top'"),
        (("top", "bottom"), "knows 2 classes"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(tmp_path, classes, message):
    save(tmp_path / "a", classes=classes)
    with pytest.raises(UserError, match=message):
        algorithm.run(from_elsewhere(tmp_path / "a"), tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("kind", ["run", "file"])
def test_weights_are_known_by_their_content(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(algorithm.start, "check", lambda *args: None)
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"

    def write(place, value):
        if kind == "run":
            save(place, "infrared", value=value)
        else:
            place.write_bytes(bytes([int(4 * value)]))

    def asked(place):
        config = fakes.config("baseline")
        config.weights.student = str(place)
        return algorithm.run(config, tmp_path / "work")

    write(first, 0.5)
    results = asked(first)
    first.rename(second)
    assert asked(second) == results
    shutil.rmtree(second) if kind == "run" else second.unlink()
    write(second, 0.75)
    with pytest.raises(UserError, match=r"weights is '.*', asked for"):
        asked(second)


def test_missing_weights_are_found_before_the_teacher_trains(tmp_path, quick):
    config = fakes.config("dkd")
    config.weights.student = str(tmp_path / "nothing.safetensors")
    with pytest.raises(UserError, match=r"nothing\.safetensors does not exist"):
        algorithm.run(config, tmp_path / "work")
    assert not quick and not (tmp_path / "work").exists()
    config.weights.student = ""
    algorithm.run(config, tmp_path / "work")  # the corrected command is not refused


def test_what_a_run_of_before_holds_still_counts(tmp_path, quick):
    """Older versions had the data's counts in the results only, and the path of the weights."""
    algorithm.run(fakes.config("baseline"), tmp_path)
    identity = tmp_path / "baseline" / "config.json"
    held = json.loads(identity.read_text())
    del held["data"]
    identity.write_text(json.dumps(held))
    algorithm.run(fakes.config("baseline"), tmp_path)
    assert quick == ["baseline"]


# Fields that came later, each with another value that makes another run.
LATER = {
    "model.frozen": "stem",
    "training.class_weights": "balanced",
    "training.sampling": "balanced",
    "training.extra_clips": 2,
    "training.min_steps": 500,
    "input.unpaired": False,
    "input.erasing": 0.25,
    "input.mixup": 0.2,
    "input.cutmix": 1.0,
    "eval.clips": 3,
    "eval.crops": 10,
}


def test_a_run_without_what_came_later_is_the_run_it_was():
    config = fakes.config("ours")
    for role in ("teacher", "student"):
        phase = "teacher" if role == "teacher" else "ours"
        known = identity.identity_of(config, phase)
        assert not set(known) & set(LATER)
        for path, value in LATER.items():
            section, name = path.split(".")
            section = f"{role}_{section}" if section in ("model", "training") else section
            if name not in config[section]:
                continue  # of the student only
            older, other = (
                config.copy_and_resolve_references(),
                config.copy_and_resolve_references(),
            )
            del older[section][name]
            assert identity.identity_of(older, phase) == known, path
            other[section][name] = value
            assert identity.identity_of(other, phase) == known | {path: value}, path


def test_more_epochs_on_a_finished_run_are_explained(tmp_path):
    algorithm.run(fakes.config("baseline"), tmp_path)
    longer = fakes.config("baseline", num_epochs=50.0)
    with pytest.raises(UserError, match=r"a finished one is not lengthened.*weights\.student="):
        algorithm.run(longer, tmp_path)

"""Which network of a run is its best, and what is said where that was not kept."""

from types import SimpleNamespace

import pytest

from jax_irkd import algorithm
from jax_irkd.config import get_training
from jax_irkd.errors import UserError
from jax_irkd.runs.network import NotKept, load_network
from jax_irkd.training.checkpoints import Checkpoints
from tests.helpers import student_runs

SCORES = {8: 0.5, 9: 0.9, 10: 0.1, 11: 0.2, 12: 0.3}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes a run that keeps its two latest and so many of the best of `SCORES`."""
    monkeypatch.setattr("jax_irkd.runs.network.setup.make_model", student_runs.make_model)

    def made(best, scores=SCORES):
        folder = student_runs.write_run(tmp_path / "run")
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            state, meta = checkpoints.read(7)
        standing = {"step": 0, "value": -1.0}
        with Checkpoints(folder / "checkpoints", latest=2, best=best) as checkpoints:
            for step, value in scores.items():
                beside = {"step": step, "standing": dict(standing)}
                assert checkpoints.save(step, state, meta | beside)
                checkpoints.score(step, {"top1": value})
                if value >= standing["value"]:
                    standing = {"step": step, "value": value}
        return folder

    return made


def test_the_best_that_was_kept_is_taken(run):
    assert load_network(run(best=1), "best")[1]["step"] == 9


def test_the_better_of_the_latest_few_is_not_the_best(run):
    folder = run(best=0)
    with pytest.raises(UserError, match=r"of step 9, is not on disk.*checkpoints\.best=1"):
        load_network(folder, "best")
    assert load_network(folder)[1]["step"] == 12


@pytest.mark.parametrize("best", [0, 1])
def test_the_best_may_be_one_of_the_latest(run, best):
    assert load_network(run(best, {8: 0.5, 9: 0.2, 10: 0.5, 11: 0.4}), "best")[1]["step"] == 10


def test_the_best_may_be_the_last_whose_own_figures_nobody_has_counted_yet(run):
    assert load_network(run(0, {8: 0.5, 9: 0.6, 10: 0.7}), "best")[1]["step"] == 10


def test_a_run_that_kept_no_best_ends_with_the_calibration_of_its_last(tmp_path, monkeypatch):
    def lost(*_):
        raise NotKept("not on disk")

    def damaged(*_):
        raise UserError("its checkpoint is damaged")

    trainer = SimpleNamespace(
        folder=tmp_path,
        last=12,
        phase=SimpleNamespace(modality="infrared", training=get_training()),
    )
    monkeypatch.setattr(algorithm, "load_network", lost)
    monkeypatch.setattr(algorithm.calibrating, "calibrate", lambda *_: "of the last")
    monkeypatch.setattr(algorithm.calibrating, "figures", lambda last, *_: last)
    kept = []
    monkeypatch.setattr(algorithm.calibrating, "keep", lambda _, made: kept.extend(made.values()))
    dataset = SimpleNamespace(class_names=["a", "b"])
    assert algorithm.calibrate(None, None, trainer, None, dataset) == "of the last"
    assert kept == ["of the last"]
    monkeypatch.setattr(algorithm, "load_network", damaged)
    with pytest.raises(UserError, match="is damaged"):  # nothing else is passed over
        algorithm.calibrate(None, None, trainer, None, dataset)

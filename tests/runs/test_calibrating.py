"""A run with validation subjects is calibrated at its end, and every network of it knows how."""

import json

import numpy as np
import pytest
import scipy.special

from jax_irkd import algorithm
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.inspection import strangers
from jax_irkd.metrics import calibration
from jax_irkd.runs import calibrating
from jax_irkd.runs.network import load_network
from jax_irkd.runs.results import read_scores
from jax_irkd.training import setup
from jax_irkd.training.evaluation import Scores, evaluate
from tests.helpers import fakes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        fakes.use_tiny_models(patched)
        patched.setattr(loading, "open_dataset", lambda name, data_dir: fakes.dataset())
        patched.setattr(strangers, "COUNT", 3)
        made = fakes.config("baseline", ema_decay=0.9, num_epochs=2)
        made.input.validation, made.dataset.leave_out = 0.34, ("side",)
        workdir = tmp_path_factory.mktemp("calibrated")
        yield workdir / "baseline", made, algorithm.run(made, workdir)


@pytest.mark.slow
def test_the_calibration_is_that_of_the_validation_clips(run):
    folder, config, results = run
    network, meta = load_network(folder)
    reader = setup.make_reader(config, setup.open_data(config), "validation", ("infrared",))
    held = evaluate(network, config, reader)
    made = calibration.Calibration.from_json(meta["calibration"])
    assert made.clips == len(held.labels) == 4 == results["validation"]["clips"]
    assert made.temperature == calibration.fit_temperature(held.logits, held.labels)
    known = made.recognised(scipy.special.softmax(held.logits, axis=1))
    assert known.all()  # 5 % of four clips is no clip
    assert made.means.shape == (2, 2)


@pytest.mark.slow
def test_every_network_of_a_run_has_its_own(run):
    folder, _, results = run
    found = {which: load_network(folder, which)[1] for which in ("last", "best", "ema")}
    keys = json.loads((folder / calibrating.CALIBRATION).read_text()).keys()
    assert {str(results["steps"]), f"{results['steps']}_ema"} <= keys
    assert all(meta["calibration"] for meta in found.values())
    assert found["last"]["calibration"] != found["ema"]["calibration"]


@pytest.mark.slow
def test_results_and_page_tell_what_it_changes(run):
    folder, _, results = run
    told, scores = results["calibration"], read_scores(folder)
    p = scipy.special.softmax(scores.logits / told["temperature"], axis=1)
    np.testing.assert_allclose(
        told["nll_after"], -np.log(p[np.arange(len(p)), scores.labels]).mean(), rtol=1e-6
    )
    page = (folder / "report.html").read_text()
    assert "rooms without people (generated)" in page and "left out: side" in page
    assert "What the probabilities are worth" in page and f"{told['temperature']:.3g}" in page


def test_a_calibration_that_cannot_be_read_is_no_calibration_in_silence(tmp_path):
    (tmp_path / calibrating.CALIBRATION).write_text('{"7": {"temperature": "hot"}}')
    with pytest.raises(UserError, match="delete it, and the run is used as one that is not cal"):
        calibrating.kept(tmp_path, 7)
    assert calibrating.kept(tmp_path, 8) is None and calibrating.kept(tmp_path / "none", 7) is None


def test_an_action_taken_for_background_is_not_recognised():
    """Two actions in four are not: one is unsure, one is taken for class 2, which is nothing."""
    logits = np.log(
        [[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    )
    labels = np.array([0, 0, 0, 1, 2])
    made = calibration.Calibration(1.0, np.zeros((1, 3)), np.zeros((3, 3)), -1.0, 0.5, 0.05, 9)
    scores = Scores(np.arange(5).astype(str), labels, logits)
    assert calibrating.figures(made, scores, background=2)["rejected_test"] == 0.5
    assert calibrating.figures(made, scores)["rejected_test"] == pytest.approx(0.2)

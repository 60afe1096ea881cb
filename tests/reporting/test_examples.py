"""What the closeups choose and show, on a fake dataset and networks that were never trained."""

import numpy as np
import pytest

from jax_irkd.errors import UserError
from jax_irkd.models.tsn import TSN
from jax_irkd.reporting import examples, write
from jax_irkd.training.evaluation import Network
from jax_irkd.training.setup import make_reader
from tests.helpers import fakes
from tests.helpers.generated_runs import write_run
from tests.helpers.networks import draw


def _network(channels):
    model = TSN(num_classes=3, depth=18, width=4)
    return Network(model, draw(model, 1, 2, 32, 32, channels))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Baseline and student folders whose scores belong to the test clips of the fake dataset."""
    dataset, config = fakes.dataset(test=9), fakes.config("ours")
    reader = make_reader(config, dataset, "test", ("infrared",))
    clips = [reader.centre(i) for i in range(len(reader.records))]
    ids = np.array([str(clip["clip_id"]) for clip in clips])
    labels = np.array([clip["label"] for clip in clips], np.int64)
    rng = np.random.default_rng(0)
    for method, skill in [("baseline", 0.0), ("ours", 0.7)]:
        logits = rng.normal(size=(len(ids), 3)) + skill * np.eye(3)[labels]
        write_run(tmp_path / method, method, "fake", fakes.CLASSES, ids, labels, logits, 60)
    network = _network(1)
    monkeypatch.setattr(examples, "load_network", lambda folder: (network, {}))
    return tmp_path, config, dataset


@pytest.mark.slow
def test_sections_of_a_distilled_student(runs):
    folder, config, dataset = runs
    made = examples.closeups(folder / "ours", config, dataset, teacher=_network(3))
    titles = ["Most confident mistakes", "Where the student looks", "What MGCAM attends to"]
    assert [section.title for section in made] == titles
    assert made[2].html.count("<rect") == 16 * 6 * 6 + 24
    assert "stage 4" in made[2].html and "attention weight" in made[2].html
    won, lost = (made[1].html.count(f"sure · {kind} ·") for kind in ("won", "lost"))
    assert (won, lost) == (2, 0) and "drawn by lot with the seed 0" in made[1].lead
    assert "Of the 6 clips that only" in made[1].lead
    assert (
        any(name in made[0].html for name in fakes.CLASSES) and made[0].html.count("<img") % 2 == 0
    )
    path = write.write_report(folder, ["ours"], sections={"ours": made})
    assert path.exists() and "data:image/jpeg" in (folder / "ours/report.html").read_text()


def test_a_baseline_has_mistakes_only(runs):
    folder, config, dataset = runs
    config.distillers = {}
    made = examples.closeups(folder / "baseline", config, dataset)
    assert [section.title for section in made] == ["Most confident mistakes"]


def test_a_baseline_without_checkpoints_is_left_out(runs, monkeypatch):
    folder, config, dataset = runs

    def load(path):
        if path.name == "baseline":
            raise UserError("no checkpoints")
        return _network(1), {}

    monkeypatch.setattr(examples, "load_network", load)
    made = examples.closeups(folder / "ours", config, dataset)
    assert [section.title for section in made] == ["Most confident mistakes"]


def test_surest_mistakes_by_hand():
    # Right; wrong and sure; wrong and surer; the same confusion again; wrong and unsure.
    logits = np.array([[9, 0, 0], [0, 5, 0], [0, 0, 7], [0, 6, 0], [0, 0.1, 0]])
    labels = np.array([0, 0, 1, 0, 2])
    assert examples.surest_mistakes(logits, labels) == [2, 3, 1, 4]


def test_clips_are_drawn_by_the_seed_in_equal_number():
    kinds = {"won": range(50), "lost": range(60, 90)}
    drawn = [examples.won_and_lost(kinds, seed) for seed in range(200)]
    assert drawn[3] == examples.won_and_lost(kinds, 3)
    assert all([kind for kind, _ in one] == ["won", "won", "lost", "lost"] for one in drawn)
    assert len({clip for one in drawn for clip in one}) > 70  # none is preferred
    assert examples.won_and_lost({"won": [5, 6, 7], "lost": [9]}, 0)[1:] == [("lost", 9)]
    assert len(examples.won_and_lost({"won": range(9), "lost": []}, 0)) == 2


def test_a_clip_is_found_behind_one_that_was_left_out(runs):
    _, config, dataset = runs
    reader = make_reader(config, dataset, "test", ("infrared", "rgb"))
    third = reader.centre(3)
    found = examples._find(reader, 1, str(third["clip_id"]))
    np.testing.assert_array_equal(found["clips"]["rgb"], third["clips"]["rgb"])
    assert examples._find(reader, 0, "nobody") is None


def test_crops_are_what_the_network_sees():
    config = fakes.config()
    config.input.eval_scale = 1.0
    frames = np.random.default_rng(0).integers(0, 255, (1, 2, 32, 32, 1), dtype=np.uint8)
    np.testing.assert_array_equal(examples._crops(frames, config), frames)

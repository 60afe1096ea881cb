"""From raw NTU RGB+D-like archives, as users have them, to a finished run."""

import json

import numpy as np
import pytest

from jax_irkd import algorithm, build
from jax_irkd.configs import ntu
from jax_irkd.data.synthetic.raw_ntu import ntu_tree
from tests.helpers import fakes
from tests.helpers.shared_programs import shared_programs  # noqa: F401


@pytest.fixture(autouse=True)
def small(monkeypatch):
    fakes.use_tiny_models(monkeypatch)


@pytest.mark.slow
def test_other_codecs_sizes_and_lengths_train(tmp_path):
    """Zipped H.264 and MJPEG, RGB wider than infrared and with more frames; both protocols."""
    keys = ntu_tree(
        tmp_path / "raw",
        actions=(1, 2, 10),
        frames=(11, 7),
        size=(96, 54),
        infrared_size=(64, 54),
        codecs=("h264", "mjpeg"),
        zipped=True,
    )
    flags = [f"--manual_dir={tmp_path / 'raw'}", f"--data_dir={tmp_path}", "--workers=1"]
    assert build.main(["ntu_rgbd_ir", *flags, "--max_frames=5", "--short_side=40"]) == 0
    for protocol, held_out in (("cross_subject", "P003"), ("cross_view", "C001")):
        config, shrunk = ntu.get_config(f"method=baseline,protocol={protocol}"), fakes.config()
        config.dataset.data_dir, config.num_devices = str(tmp_path), 1
        config.dataset.infrared_size, config.input = (32, 40), shrunk.input
        config.student_training.batch_size = config.student_training.num_epochs = 3
        results = algorithm.run(config, tmp_path / protocol)
        folder = tmp_path / protocol / "baseline"
        scores = np.load(folder / "scores.npz")
        tested = [key for key in keys if held_out in key]
        assert sorted(scores["clip_id"].tolist()) == tested
        actions = [int(name[-3:]) - 1 for name in scores["clip_id"].tolist()]
        assert scores["label"].tolist() == actions and scores["logits"].shape[1] == 10
        top1 = np.mean(scores["logits"].argmax(1) == scores["label"])
        np.testing.assert_allclose(results["metrics"]["top1"], top1)
        assert results["broken_clips"] == {} and results["num_clips"] == len(tested)
        assert json.loads((folder / "results.json").read_text()) == results
        assert (folder / "report.html").stat().st_size > 1000

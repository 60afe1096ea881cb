"""Windows of a video by their frames: the same figures from a fraction of the network's work."""

import numpy as np
import pytest

from jax_irkd.detection import scoring
from jax_irkd.models import resnet
from jax_irkd.models.tsn import TSN
from jax_irkd.training.evaluation import Network
from jax_irkd.video import windows
from tests.helpers import fakes, networks

SIDE = 40


def _video(total: int, segments: int = 8) -> list[windows.Window]:
    """Windows of 64 frames every 16, as `config.eval` has them, of noise."""
    film = np.random.default_rng(0).integers(0, 256, (total, SIDE, SIDE, 1), dtype=np.uint8)
    made = []
    for start, stop in windows.spans(total, 64, 16):
        parts = (np.arange(segments) + 0.5) / segments
        indices = tuple(int(i) for i in start + np.floor(parts * (stop - start)))
        made.append(windows.Window(start, stop, film[list(indices)], indices))
    return made


class Brightness:
    """Logits that can be known without a network; counts the clips it is given."""

    def __init__(self):
        self.clips = 0

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.clips += int((clips.max((1, 2, 3, 4)) > 0).sum())  # padding is black
        bright = clips.astype(np.float32).mean((2, 3, 4)) / 50
        return np.stack([bright, bright**2], axis=2).mean(axis=1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_every_frame_is_looked_at_once(batch_size):
    """An hour's row: two new frames a window; the last window is off the others' grid."""
    found, counted, whole = _video(64 + 20 * 16 + 5), Brightness(), Brightness()
    scores, spans = scoring.frame_scores(iter(found), counted, batch_size)
    expected = scoring.window_scores(iter(found), lambda clips: _softmax(whole(clips)), 4)
    np.testing.assert_allclose(scores, expected.probabilities, atol=1e-6)
    np.testing.assert_array_equal(spans, expected.spans)
    assert whole.clips * 8 == len(found) * 8 == 22 * 8
    assert counted.clips == 8 + 20 * 2 + 8 <= 0.35 * whole.clips * 8


def test_a_window_that_repeats_its_last_frame_weighs_it_twice():
    frames = np.random.default_rng(1).integers(1, 256, (2, 4, 4, 1), dtype=np.uint8)
    short = windows.Window(0, 2, frames[[0, 1, 1]], (0, 1, 1))
    found, _ = scoring.frame_scores([short], Brightness(), 4)
    np.testing.assert_allclose(found, _softmax(Brightness()(short.frames[None])), rtol=1e-5)


def test_no_windows_have_no_scores():
    for result in (
        scoring.frame_scores([], Brightness(), 4),
        scoring.window_scores([], Brightness(), 4),
    ):
        assert result.probabilities.shape == (0, 0) and result.spans.shape == (0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("temporal", ["none", "shift"])
def test_a_network_gives_what_it_gives_for_whole_windows(temporal, monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))
    config = fakes.config()
    config.input.num_segments, config.input.eval_batch_size = 8, 2
    config.input.resolution = 32
    model = TSN(num_classes=3, depth=10, width=8, temporal=temporal)
    variables = networks.draw(model, 1, 1, 32, 32, 1)
    head = variables["params"]["head"]
    head["kernel"] = head["kernel"] / 30  # a random network would be sure of everything
    network, found = Network(model, variables), _video(64 + 3 * 16)
    watched = scoring.make_watch(network, config, "infrared")(found)
    whole = scoring.window_scores(found, scoring.make_score(network, config, "infrared"), 2)
    np.testing.assert_allclose(watched.probabilities, whole.probabilities, atol=1e-5)
    assert np.ptp(whole.probabilities, axis=0).max() > 1e-3
    frames = scoring.frame_scores(found, scoring.make_logits(network, config, "infrared"), 16)
    same = np.abs(frames.probabilities - whole.probabilities).max() < 1e-5
    assert same == (temporal == "none")  # Segments that see each other cannot be looked at alone.

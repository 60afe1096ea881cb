"""Windows of a video by their frames: the same figures from a fraction of the network's work."""

import numpy as np
import pytest

from jax_irkd.detection import consensus, scoring
from jax_irkd.detection.consensus import softmax
from jax_irkd.models import resnet
from jax_irkd.models.tsn import TSN
from jax_irkd.training.evaluation import Network
from jax_irkd.video import grid, timing, windows
from tests.helpers import fakes, networks

SIDE = 40


def _video(total: int, segments: int = 8, stride: int = 16) -> list[windows.Window]:
    """Windows of 64 frames, every 16 as `config.eval` has them, of noise."""
    film = np.random.default_rng(0).integers(0, 256, (total, SIDE, SIDE, 1), dtype=np.uint8)
    planned = grid.plan(timing.steady(total, 1.0), 64, stride, segments, slack=0)
    return [
        windows.Window(start, stop, film[list(indices)], indices, lane)
        for start, stop, indices, lane in planned
    ]


class Brightness:
    """Logits that can be known without a network; counts the frames it is given."""

    def __init__(self):
        self.frames = 0

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        self.frames += int((clips.max((2, 3, 4)) > 0).sum())  # padding is black
        bright = clips.astype(np.float32).mean((2, 3, 4)) / 50
        return np.stack([bright, bright**2], axis=2).mean(axis=1)

    def alone(self) -> consensus.Frames:
        return consensus.Frames(lambda frames, past: (self(frames[:, None]), past), {})

    def after(self) -> consensus.Frames:
        """Logits that are the sum over all frames so far: order and lanes count."""

        def step(frames, past):
            sums = past["sum"] + np.cumsum(self(frames[:, None]), axis=0)
            return sums, {"sum": sums[-1]}

        return consensus.Frames(step, {"sum": np.zeros(2, np.float32)})


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_every_frame_is_looked_at_once(batch_size):
    """An hour's row: two new frames a window, the last window on the others' grid."""
    found, counted, whole = _video(64 + 20 * 16 + 5), Brightness(), Brightness()
    scores, spans = consensus.frame_scores(iter(found), counted.alone(), batch_size)
    expected = consensus.window_scores(iter(found), lambda clips: softmax(whole(clips)), 4)
    np.testing.assert_allclose(scores, expected.probabilities, atol=1e-6)
    np.testing.assert_array_equal(spans, expected.spans)
    assert whole.frames == len(found) * 8 == 22 * 8
    assert counted.frames == 8 + 20 * 2 + 1 <= 0.3 * whole.frames


@pytest.mark.parametrize(("stride", "lanes"), [(16, 1), (8, 1), (4, 2), (3, 8)])
def test_what_depends_on_the_past_runs_in_order(stride, lanes):
    found, counted = _video(64 + 9 * stride, stride=stride), Brightness()
    scores, _ = consensus.frame_scores(iter(found), counted.after(), 5)
    seen: dict[int, dict[int, np.ndarray]] = {}
    for window in found:
        logits = Brightness()(window.frames[:, None])
        for index, row in zip(window.indices, logits, strict=True):
            seen.setdefault(window.lane, {}).setdefault(index, row)
    for window, got in zip(found, scores, strict=True):
        lane = seen[window.lane]
        assert list(lane) == sorted(lane)
        sums = dict(zip(lane, np.cumsum(list(lane.values()), axis=0), strict=True))
        mean = np.mean([sums[index] for index in window.indices], axis=0)
        np.testing.assert_allclose(got, softmax(mean[None])[0], atol=1e-5)
    assert counted.frames == sum(map(len, seen.values())) and len(seen) == lanes


def test_where_windows_do_not_agree_on_a_frame_each_is_whole():
    """More than eight bits by each window's own percentiles."""
    found, counted, whole = _video(64 + 3 * 16), Brightness(), Brightness()
    sizes = {"batch_size": 2, "frames_at_once": 8}
    consensus.scores(found, whole, counted.alone(), **sizes)
    assert (counted.frames, whole.frames) == (8 + 3 * 2, 0)
    own = [window._replace(shared=False) for window in found]
    consensus.scores(own, whole, counted.alone(), **sizes)
    consensus.scores(found, whole, None, **sizes)
    assert (counted.frames, whole.frames) == (8 + 3 * 2, 2 * 4 * 8)


def test_a_window_that_repeats_its_last_frame_weighs_it_twice():
    frames = np.random.default_rng(1).integers(1, 256, (2, 4, 4, 1), dtype=np.uint8)
    short = windows.Window(0, 2, frames[[0, 1, 1]], (0, 1, 1))
    found, _ = consensus.frame_scores([short], Brightness().alone(), 4)
    np.testing.assert_allclose(found, softmax(Brightness()(short.frames[None])), rtol=1e-5)


def test_no_windows_have_no_scores():
    for result in (
        consensus.frame_scores([], Brightness().alone(), 4),
        consensus.window_scores([], Brightness(), 4),
    ):
        assert result.probabilities.shape == (0, 0) and result.spans.shape == (0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("temporal", ["none", "shift", "causal"])
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
    watched = scoring.make_watch(network, config, "infrared")(found).probabilities
    score = scoring.make_score(network, config, "infrared")
    whole = consensus.window_scores(found, score, 2).probabilities
    assert np.ptp(whole, axis=0).max() > 1e-3
    if temporal != "causal":
        np.testing.assert_allclose(watched, whole, atol=1e-5)
        return
    np.testing.assert_allclose(watched[0], whole[0], atol=1e-5)
    assert np.abs(watched - whole).max() > 1e-4
    # The last window: what the network makes of all 14 frames, less the first 6 of them.
    film = np.concatenate([found[0].frames, *(window.frames[-2:] for window in found[1:])])[None]
    sums = [count * np.log(score(film[:, :count])) for count in (14, 6)]
    np.testing.assert_allclose(watched[-1:], softmax((sums[0] - sums[1]) / 8), atol=1e-5)

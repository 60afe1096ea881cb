"""The grid of frames that windows share: by hand, at every rate, at the end of a film."""

import itertools

import numpy as np
import pytest

from jax_irkd.video import grid, timing


@pytest.mark.parametrize(
    ("length", "stride", "count", "step", "windows", "segments"),
    [
        (64, 16, 8, 8, 2, 1),  # PKU-MMD's
        (60, 16, 8, 8, 2, 1),  # 2 s at 30 frames/s: 64 frames, to share six of eight
        (50, 16, 8, 16 / 3, 3, 1),  # at 25: 43 frames
        (120, 16, 8, 16, 1, 1),  # at 60
        (60, 1, 8, 1, 1, 8),  # every frame
        (60, 3, 8, 1.5, 2, 5),
        (30, 15, 2, 15, 1, 1),
        (2, 0.5, 1, 0.25, 2, 8),  # one segment: nothing to share, the length as it is
    ],
)
def test_grids_by_hand(length, stride, count, step, windows, segments):
    found = grid.lay(length, stride, count)
    if count == 1:
        assert found.length == pytest.approx(length) and found.cost == 1
        return
    assert found == (pytest.approx(step), windows, segments, count)


def test_every_grid_keeps_the_stride_and_nearly_the_length():
    for length, stride, count in itertools.product(
        (1, 7, 45.5, 64, 200), (1, 6, 16, 97), (1, 3, 8)
    ):
        free, exact = (grid.lay(length, stride, count, slack) for slack in (grid.SLACK, 0))
        for found in (free, exact):
            assert found.windows * found.step == pytest.approx(stride)
        assert abs(free.length / length - 1) <= grid.SLACK + 0.01
        assert exact.length == pytest.approx(length, rel=0.01) or exact.windows == 1000
        assert free.cost <= exact.cost <= count


@pytest.mark.parametrize("total", [64, 65, 71, 72, 100, 1000])
@pytest.mark.parametrize("rate", [25.0, 29.97, 30.0])
def test_windows_share_their_frames_to_the_end(total, rate):
    film = timing.steady(total, rate)
    planned = grid.plan(film, 2.0, 16 / rate, 8)
    laid = grid.lay(2.0 * rate, 16, 8)
    assert planned[0].start == 0 and planned[-1].stop == total
    frames = sorted({frame for place in planned for frame in place.frames})
    assert len(frames) <= 8 + laid.cost * (len(planned) - 1)
    steps = np.diff(frames)
    assert steps.max() <= np.ceil(laid.step) and steps.min() >= np.floor(laid.step)
    for place in planned:
        assert len(place.frames) == 8 and list(place.frames) == sorted(set(place.frames))
        assert place.start - laid.step / 2 - 1 <= place.frames[0]
        assert place.frames[-1] < place.stop and place.stop - place.start <= laid.length + laid.step
    assert frames[-1] >= total - laid.step * 1.5


def test_frames_of_a_changing_rate_are_taken_in_order():
    """Windows that had to be longer do not go back to what windows before them left out."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.choice([0.02, 0.5], 120, p=[0.8, 0.2]))
    film = timing.Timing(times - times[0], float(times[-1] - times[0] + 0.1))
    lanes: dict[int, list[int]] = {}
    for place in grid.plan(film, 0.4, 0.05, 4):
        lane = lanes.setdefault(place.lane, [])
        new = [frame for frame in dict.fromkeys(place.frames) if frame not in lane]
        assert new == sorted(new) and (not lane or not new or new[0] > lane[-1])
        lane += new
    assert len(lanes) > 1


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, -2, 3)])
def test_impossible_windows(wrong):
    with pytest.raises(ValueError, match="length, stride and segments must be positive, not"):
        grid.lay(*wrong)

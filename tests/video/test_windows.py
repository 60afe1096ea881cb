"""Sliding windows over long videos. Frame i shows the number i."""

import tracemalloc

import numpy as np
import pytest

from jax_irkd.data.synthetic.raw_ntu import number_of, truncate, write_video
from jax_irkd.data.synthetic.raw_pku import pku_tree, video_path
from jax_irkd.errors import UserError
from jax_irkd.pku_mmd import untrimmed
from jax_irkd.video import faults, grid, timing, windows
from tests.helpers import films


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "0002-L-infrared.avi"
    return write_video(path, 150, size=(112, 96), infrared=True)


@pytest.mark.parametrize(
    ("total", "length", "stride", "expected"),
    [
        (100, 40, 20, [(0, 40), (20, 60), (40, 80), (60, 100)]),
        (95, 40, 20, [(0, 40), (20, 60), (40, 80), (55, 95)]),
        (40, 40, 20, [(0, 40)]),
        (13, 40, 20, [(0, 13)]),
        (90, 20, 50, [(0, 20), (50, 70), (70, 90)]),
        (0, 40, 20, []),
    ],
)
def test_windows_cover_the_video(total, length, stride, expected):
    planned = grid.plan(timing.steady(total, 1.0), length, stride, 5, slack=0)
    assert [place[:2] for place in planned] == expected


def test_windows_hold_the_centres_of_their_segments(long):
    found = list(windows.windows(long, infrared=True, size=(96, 96), length=64, stride=16))
    assert [(w.start, w.stop) for w in found] == [
        *((start, start + 64) for start in range(0, 87, 16)),
        (86, 150),
    ]
    assert {window.frames.shape for window in found} == {(8, 96, 96, 1)}
    originals = np.array(list(films.iterate_frames(long)))[..., 0]
    for window in found:  # the last one by the frames that the others have
        indices = [round(window.start / 8) * 8 + 4 + 8 * i for i in range(8)]
        np.testing.assert_allclose(window.frames[..., 0], originals[indices, :, 8:104], atol=3)


def test_rgb_windows_keep_their_numbers(tmp_path):
    path = write_video(tmp_path / "a.avi", 50, size=(128, 96), codec="h264")
    found = list(
        windows.windows(path, infrared=False, size=(96, 128), length=20, stride=7, num_segments=5)
    )
    assert found[0].frames.shape == (5, 96, 128, 3)
    for window in found:
        numbers = [number_of(frame) for frame in window.frames]
        assert numbers == [window.start + 2 + 4 * i for i in range(5)]


def test_memory_does_not_grow_with_the_video(tmp_path):
    peaks = []
    for frames in (80, 400):
        path = write_video(tmp_path / f"{frames}.avi", frames, size=(96, 96), infrared=True)
        tracemalloc.start()
        for _ in windows.windows(path, infrared=True, size=(96, 96), length=32, stride=8):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_a_short_video_is_one_window(tmp_path):
    path = write_video(tmp_path / "a.avi", 5, infrared=True)
    (window,) = windows.windows(path, infrared=True, size=(48, 64))
    assert (window.start, window.stop) == (0, 5)
    assert [number_of(f) for f in window.frames] == [0, 0, 1, 2, 2, 3, 4, 4]


def test_a_fault_comes_after_the_windows_before_it(tmp_path, long):
    path = tmp_path / "a.avi"
    path.write_bytes(long.read_bytes())
    truncate(path, 0.6)
    found = []
    with pytest.raises(faults.VideoError, match="is truncated"):
        for window in windows.windows(path, infrared=True, size=(96, 96), length=20, stride=20):
            found.append(window)
    assert len(found) >= 3


def test_pku_videos_by_protocol(tmp_path):
    rows = pku_tree(tmp_path, train=(2,), validation=(291,))
    (tmp_path / "Data" / "IR_VIDEO" / "0291-R-infrared.avi").unlink()
    subjects = untrimmed.pku_videos(tmp_path, "cross_subject")
    assert [found.name for found in subjects] == ["0291-L", "0291-M"]
    views = untrimmed.pku_videos(tmp_path, "cross_view")
    assert [found.name for found in views] == ["0002-M", "0291-M"]
    train = untrimmed.pku_videos(tmp_path, "cross_view", "train")
    assert [found.name for found in train] == ["0002-L", "0002-R", "0291-L"]
    assert subjects[0].rows == rows["0291-L"]
    assert subjects[0].infrared == str(video_path(tmp_path, "0291-L", "infrared"))
    with pytest.raises(UserError, match=r"unknown protocol 'x'; choose one of \['cross_subject'"):
        untrimmed.pku_videos(tmp_path, "x")
    with pytest.raises(UserError, match="unknown part 'val'"):
        untrimmed.pku_videos(tmp_path, "cross_view", "val")

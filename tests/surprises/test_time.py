"""When a frame was taken: changing rates, two clocks, headers that are wrong, streams."""

import av
import cv2
import numpy as np
import pytest

from jax_irkd.data.synthetic.raw_ntu import number_of, picture, truncate, write_video
from jax_irkd.deployment import answers, prediction
from jax_irkd.deployment.prediction import VideoSettings
from jax_irkd.tfds_builders._shared import pairs
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders.pku_mmd_ir.videos import on_own_clock
from jax_irkd.video import grid, timing
from jax_irkd.video.decoding import Film
from jax_irkd.video.faults import VideoError
from jax_irkd.video.finding import film_name, find
from jax_irkd.video.streams import Stream
from tests.deployment.test_predict import Reader
from tests.helpers import made_films as films

# 100 frames of 10 s, then 100 of 4 s: a rate that changes, as phones write it in the dark.
CHANGING = [0.1 * i for i in range(100)] + [10 + 0.04 * i for i in range(100)]


def shown(done, kind):
    (record,) = done.records
    images = [cv2.imdecode(np.frombuffer(f, np.uint8), 1) for f in record.frames[kind]]
    return [number_of(image) for image in images]


def pair(rgb, infrared, **options):
    done = pairs.encode_pair("a", {}, str(rgb), str(infrared), BuildOptions(**options), "1")
    return done, [f"{item.reason}: {item.detail}" for item in (*done.skipped, *done.notes)]


@pytest.mark.parametrize(
    ("stamps", "times", "end"),
    [
        ([0.0, 0.033, 0.067, 0.1], [0, 1 / 30, 2 / 30, 0.1], 4 / 30),
        ([5.0, 5.1, 5.2], [0, 0.1, 0.2], 0.3),
        ([0.0, 0.1, 0.5], [0, 0.1, 0.5], 0.8),
        ([None, None], [0, 0.04], 0.08),
        ([0.1, 0.3, 0.2], [0, 0.04, 0.08], 0.12),
        ([0.2, 0.2], [0, 0.04], 0.08),
        ([7.0], [0], 0.04),
    ],
)
def test_time_stamps_are_believed_when_they_grow(stamps, times, end):
    found = timing.from_stamps(stamps, 25.0)
    np.testing.assert_allclose(found.times, times, atol=2e-3)
    assert found.end == pytest.approx(end, abs=0.06)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_timeline_of_a_changing_rate_is_in_seconds(tmp_path, suffix):
    path = films.write_timed(tmp_path / f"a.{suffix}", CHANGING, infrared=True)
    film = Film(path)
    np.testing.assert_allclose([s.time for s in film.shots()], CHANGING, atol=2e-3)
    assert film.seconds == pytest.approx(14.0, abs=0.1)
    settings = VideoSettings(trimmed=False, seconds=1.0, stride=8)
    result = prediction.predict(Reader(), path, settings)
    text = answers.as_json(result, Reader.class_names, 2)
    # The reader tells four stretches of 50 frames: 5 s, 5 s, 2 s, 2 s.
    for row, (start, end) in zip(text["segments"], [(0, 5), (5, 10), (10, 12), (12, 14)]):
        assert row["start_seconds"] == pytest.approx(start, abs=0.8)
        assert row["end_seconds"] == pytest.approx(end, abs=0.8)
        assert row["start_seconds"] == pytest.approx(CHANGING[row["start_frame"] - 1], abs=2e-3)
    lasting = [
        film.timing.ends()[stop - 1] - film.timing.times[start] for start, stop in result.spans
    ]
    length = 4 * 8 * 14 / 200 / 2  # Four segments, two of which are the stride.
    assert max(abs(seconds - length) for seconds in lasting) < 0.11
    reader = Reader()
    prediction.predict(reader, path, VideoSettings(trimmed=True))
    assert reader.seen == [[17, 52, 87, 156]]  # The middles of four times 3.5 s.
    assert answers.as_text(result, Reader.class_names, 2).splitlines()[0].endswith("14.0 s)")


def test_an_annotated_video_runs_as_long_as_its_source(tmp_path):
    from jax_irkd.deployment.annotate import annotate

    path = films.write_timed(tmp_path / "a.mkv", CHANGING[80:120], infrared=True)
    result = prediction.predict(Reader(), path, VideoSettings(trimmed=True))
    annotate(result, Reader.class_names, tmp_path / "seen.mp4")
    got, expected = (Film(p).timing for p in (tmp_path / "seen.mp4", path))
    np.testing.assert_allclose(got.times, expected.times, atol=2e-3)


@pytest.mark.parametrize("max_frames", [0, 8, 64])
def test_pairs_show_the_same_moments(tmp_path, max_frames):
    """RGB at an even rate, infrared at a changing one, both of 4 s."""
    slow = [0.2 * i for i in range(10)] + [2 + 0.05 * i for i in range(40)]
    rgb = films.write_timed(tmp_path / "rgb.mp4", [0.04 * i for i in range(100)])
    infrared = films.write_timed(tmp_path / "ir.mkv", slow, infrared=True)
    done, said = pair(rgb, infrared, max_frames=max_frames)
    assert not said
    first = np.array(shown(done, "rgb")) * 0.04
    second = np.array(slow)[shown(done, "infrared")]
    share = (np.arange(len(first)) + 0.5) / len(first), (np.arange(len(second)) + 0.5) / len(second)
    for moments, parts, step in ((first, share[0], 0.04), (second, share[1], 0.2)):
        late = parts * 4.0 - moments
        assert late.min() > -1e-3 and late.max() < step + 1e-3


def test_other_rates_of_one_length_and_other_lengths(tmp_path):
    rgb = write_video(tmp_path / "rgb.avi", 60, rate=30)
    thermal = write_video(tmp_path / "ir.avi", 18, infrared=True, rate=9)
    done, said = pair(rgb, thermal, max_frames=6)
    assert not said and shown(done, "rgb") == [5, 15, 25, 35, 45, 55]
    assert shown(done, "infrared") == [1, 4, 7, 10, 13, 16]
    short = write_video(tmp_path / "short.avi", 24, infrared=True, rate=30)
    done, said = pair(rgb, short, max_frames=6)
    assert said == [
        "lengths differ by more than 10%: 2.0 s of RGB, 0.8 s of infrared; each was read from "
        "beginning to end, at its own pace"
    ]
    longer = write_video(tmp_path / "longer.avi", 64, infrared=True, rate=30)
    done, said = pair(rgb, longer, max_frames=0)
    assert not said and shown(done, "infrared") == shown(done, "rgb") == list(range(60))


def test_a_header_that_promises_too_much_is_not_believed(tmp_path):
    rgb = write_video(tmp_path / "rgb.avi", 30)
    infrared = films.promise(write_video(tmp_path / "ir.avi", 30, infrared=True), 90)
    done, said = pair(rgb, infrared, max_frames=0)
    assert shown(done, "infrared") == shown(done, "rgb") == list(range(30))
    assert said == ["unusual film: it promises 90 frames in its header and has 30"]
    # PKU-MMD: the clock of a pair is that of the frames which are there.
    times = [Film(path).whole for path in (rgb, infrared)]
    assert on_own_clock([(3, 9)], *times) == [(3, 9)]
    result = prediction.predict(Reader(), infrared)
    assert result.frames == 30 and result.spans.tolist() == [[0, 30]]


def test_annotated_frames_move_by_time():
    rgb = timing.steady(90, 30.0)
    slow = timing.Timing(np.r_[np.arange(10) * 0.2, 2 + np.arange(20) * 0.05], 3.0)
    assert on_own_clock([(0, 30), (60, 90)], rgb, slow) == [(0, 5), (10, 30)]
    assert on_own_clock([(0, 30)], rgb, timing.steady(45, 30.0)) == [(0, 15)]
    assert on_own_clock([(70, 95)], rgb, timing.steady(88, 30.0)) == [(70, 95)]
    assert on_own_clock([(30, 60)], rgb, timing.steady(75, 25.0)) == [(25, 50)]


def test_a_second_video_stream_is_said(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("ffv1", rate=30) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(9):
            for stream in streams:
                image = np.zeros((48, 64, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    assert (
        "holds 2 video streams; the first was used" in prediction.predict(Reader(), path).warnings
    )


def test_streams_keep_the_source_s_time(tmp_path):
    times = [0.0, 0.05, 0.1, 0.3, 0.35, 0.4]
    path = films.write_timed(tmp_path / "a.mkv", times, infrared=True)
    with Stream(str(path), number_of) as stream:
        got = list(stream)
    moments = np.array([moment for moment, _ in got])
    assert [number for _, number in got] == list(range(6))
    np.testing.assert_allclose(moments - moments[0], times, atol=2e-3)
    # AVI with B-frames has no time stamps that grow: its frames are played one after the other.
    path = write_video(tmp_path / "b.avi", 12, codec="h264", infrared=True, rate=60)
    with Stream(str(path), number_of) as stream:
        assert [number for _, number in stream] == list(range(12))


def test_windows_of_an_even_rate_are_counted_in_frames():
    film = timing.steady(100, 25.0)
    assert [p[:2] for p in grid.plan(film, 2.0, 1.0, 4)] == [(0, 50), (25, 75), (50, 100)]
    assert [p[:2] for p in grid.plan(timing.steady(3, 25.0), 2.0, 1.0, 4)] == [(0, 3)]
    changing = timing.Timing(np.array([0.0, 5.0, 5.1, 5.2, 9.0]), 10.0)
    for start, stop, frames, _ in grid.plan(changing, 1.0, 0.5, 2):
        assert start <= min(frames) <= max(frames) < stop
        assert 0 <= start < stop <= 5 and stop - start >= 2


def test_what_is_cut_off_is_refused_in_a_build_and_used_in_a_prediction(tmp_path):
    """MP4 with its index in front, as the web has it: nothing but the packets tells."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(40):
            image = picture(number, (64, 48), infrared=True)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    truncate(path, 0.7)
    with pytest.raises(VideoError, match=r"is damaged: \d+ of 40 frames are readable"):
        list(Film(path).shots())
    result = prediction.predict(Reader(), path)
    assert 10 < result.frames < 40 and "is damaged" in result.warnings[0]


@pytest.mark.parametrize("layout", ["ntu", "pku"])
def test_pictures_stand_for_videos_in_every_layout(tmp_path, layout):
    name = {"ntu": "S001C001P001R001A001_ir", "pku": "0002-L-infrared"}[layout]
    films.write_stills(tmp_path / "IR" / name, 3)
    (film,) = find(tmp_path).films
    assert film_name(film.source) == name and len(Film(film.source).timing.times) == 3
    assert not Film(film.source).timing.timed

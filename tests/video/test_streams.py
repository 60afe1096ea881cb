"""Frames as they come: a ring of seconds, predictions in time, drops counted, sources lost."""

import contextlib
import functools
import http.server
import json
import signal
import subprocess
import sys
import threading
import time

import av
import numpy as np
import pytest
from PIL import Image

from jax_irkd import predict
from jax_irkd.data.spec import InputSpec
from jax_irkd.data.synthetic.raw_ntu import number_of, picture, write_video
from jax_irkd.deployment.recognizer import Recognizer
from jax_irkd.errors import UserError
from jax_irkd.video import streams
from jax_irkd.video.decoding import Film
from jax_irkd.video.playback import prepare_frame
from jax_irkd.video.streams import Stream
from tests.deployment.test_predict import Reader
from tests.helpers import ROOT


def push_all(recognizer, numbers, times=None):
    made = []
    for position, number in enumerate(numbers):
        moment = None if times is None else times[position]
        prediction = recognizer.push(picture(number, infrared=True), moment)
        if prediction:
            made.append((number, prediction))
    return made


def test_a_prediction_every_stride_frames_of_the_last_seconds():
    reader = Reader()
    recognizer = Recognizer(reader, seconds=0.8, stride=8, rate=10, warm_up=False)
    made = push_all(recognizer, range(80))
    assert [number for number, _ in made] == list(range(7, 80, 8))
    assert reader.seen[0] == [1, 3, 5, 7]  # The middles of four parts of frames 0 to 7.
    assert reader.seen[-1] == [73, 75, 77, 79]
    assert [prediction.label for _, prediction in made[-3:]] == ["sit"] * 3
    assert made[0][1].probability == pytest.approx(0.85)
    assert made[-1][1].time == pytest.approx(7.9)


def test_dropped_frames_do_not_distort_time():
    """Segments are spread over time: of a burst and a few late frames, both ends are seen."""
    reader = Reader()
    recognizer = Recognizer(reader, seconds=2.0, stride=12, warm_up=False)
    times = [0.1 * i for i in range(9)] + [1.2, 1.5, 1.8]
    push_all(recognizer, range(12), times)
    # A frame every 4/30 s: 0.2 to 1.8 s in three steps of 0.53 s; at 1.27 s the newest is 1.2 s.
    assert reader.seen[0] == [1, 7, 9, 11]


def test_the_first_prediction_waits_for_the_segments():
    made = push_all(Recognizer(Reader(), stride=1), range(6))
    assert [number for number, _ in made] == [3, 4, 5]


def test_a_source_that_begins_anew_is_another_scene():
    reader = Reader()
    recognizer = Recognizer(reader, seconds=0.4, stride=4, warm_up=False)
    push_all(recognizer, [1, 2, 3, 90, 91, 92, 93], [10.0, 10.1, 10.2, 0.0, 0.1, 0.2, 0.3])
    assert reader.seen == [[90, 91, 92, 93]]


def test_the_ring_is_bounded():
    recognizer = Recognizer(Reader(), seconds=1.0, stride=1000, rate=30)
    push_all(recognizer, range(200))
    assert len(recognizer._samples) == 4 * recognizer.grid.segments <= 30


def test_impossible_recognizers():
    with pytest.raises(
        UserError, match=r"stride=0, seconds=2\.0 and rate=30\.0 must all be positive"
    ):
        Recognizer(Reader(), stride=0)
    with pytest.raises(UserError, match="does not exist"):
        Recognizer("nowhere.irkd")


def test_a_file_is_played_in_real_time(tmp_path):
    path = write_video(tmp_path / "a.avi", 12, infrared=True, rate=20)
    with Stream(str(path), number_of) as stream:
        start = time.monotonic()
        frames = list(stream)
    assert [frame for _, frame in frames] == list(range(12))
    assert 0.45 < time.monotonic() - start < 3
    assert stream.received == 12 and stream.drop_rate == 0
    moments = np.array([moment for moment, _ in frames])
    assert np.all(np.diff(moments) > 0)


def test_frames_are_dropped_rather_than_queued(tmp_path):
    """A consumer four times too slow sees the newest frames and a bounded delay."""
    path = write_video(tmp_path / "a.avi", 40, infrared=True, rate=40)
    seen, delays = [], []
    with Stream(str(path), number_of, capacity=2) as stream:
        for moment, frame in stream:
            delays.append(time.monotonic() - moment)
            seen.append(frame)
            time.sleep(0.1)
    assert len(seen) < 25 and seen == sorted(seen) and seen[-1] == 39
    assert stream.dropped == 40 - len(seen) and 0.3 < stream.drop_rate < 1
    assert max(delays) < 0.5


def pace_of(hold: bool) -> streams._Pace:
    pace = streams._Pace()
    if hold:
        pace.hold(whole=False, longest=streams.JUMP)
    return pace


@contextlib.contextmanager
def served(folder, asked=lambda path: None):
    """The address of a server of the files in `folder`; `asked` hears of every request."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def write_film(path, format: str, frames: int = 40) -> None:
    """Twenty frames a second; as HLS in pieces of half a second."""
    options = {"hls_time": "0.5", "hls_list_size": "0"} if format == "hls" else {}
    with av.open(str(path), "w", format, options=options) as container:
        video = container.add_stream("libx264", rate=20, options={"g": "10", "bf": "0"})
        video.width, video.height = 64, 48
        for number in range(frames):
            image = picture(number, infrared=True)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))


@pytest.fixture
def patient(monkeypatch):
    """Other tests keep both cores busy: what is late is later."""
    monkeypatch.setattr(streams, "LAG", 2.0)


def played(address: str, last: int, capacity: int = 100) -> tuple[list[int], float, int]:
    """The frames of a stream up to `last`, how long they took, and how many were dropped."""
    with Stream(address, number_of, capacity=capacity, patience=3) as stream:
        start, numbers = time.monotonic(), []
        for _, number in stream:
            numbers.append(number)
            if number == last:
                break
        return numbers, time.monotonic() - start, stream.dropped


@pytest.mark.parametrize(("name", "format"), [("a.mp4", "mp4"), ("a.m3u8", "hls")])
def test_a_film_behind_an_address_is_played_in_real_time_and_ends(tmp_path, patient, name, format):
    write_film(tmp_path / name, format)
    with served(tmp_path) as address:
        numbers, took, dropped = played(f"{address}/{name}", last=-1)
    assert numbers == list(range(40)) and not dropped
    assert took > 0.9 * 39 / 20


def test_pieces_that_come_as_they_are_made_are_played_in_real_time(tmp_path, patient):
    """HLS brings frames by the piece, and all but the newest of each were late."""
    write_film(tmp_path / "whole.m3u8", "hls", 80)
    head, *pieces = (tmp_path / "whole.m3u8").read_text().split("#EXTINF")
    begun, stop = threading.Event(), threading.Event()

    def publish(count: int) -> None:
        (tmp_path / "new").write_text("#EXTINF".join([head, *pieces[:count]]))
        (tmp_path / "new").rename(tmp_path / "live.m3u8")

    def go_on() -> None:
        begun.wait(20)
        for count in range(4, len(pieces) + 1):
            stop.wait(float(pieces[count - 1].strip(":").split(",")[0]))
            publish(count)

    publish(3)
    maker = threading.Thread(target=go_on)
    maker.start()
    try:  # Who reads begins three pieces before the newest.
        with served(tmp_path, lambda path: path.endswith("0.ts") and begun.set()) as address:
            numbers, took, dropped = played(f"{address}/live.m3u8", 79)
    finally:
        stop.set()
        begun.set()
        maker.join()
    assert numbers == list(range(80)) and not dropped
    assert took > 0.9 * 79 / 20


@pytest.mark.parametrize("jump", [36_000.0, -3.0])
@pytest.mark.parametrize("hold", [False, True])
def test_a_clock_that_jumps_is_another_clock(monkeypatch, hold, jump):
    """A camera behind HLS that was started again: frames neither wait for hours nor rush by."""
    now, waits = [50.0], []

    class Stop:
        def wait(self, seconds):
            waits.append(seconds)
            now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, late, shown = pace_of(hold), [], []
    for number in range(240):
        delay, moment = pace.wait(100 + number / 30 + jump * (number >= 120), Stop())
        late.append(delay)
        shown.append(moment)
        now[0] += 0.001 if hold else 1 / 30
    assert max(late) < streams.LAG and not pace.slipped and np.all(np.diff(shown) > 0)
    assert shown[-1] - shown[0] == pytest.approx(239 / 30, abs=0.1)
    assert max(waits, default=0) < 0.1 and len(waits) >= 230 * hold


def test_a_clock_of_another_speed_makes_no_frame_late(monkeypatch):
    """A day of a camera whose clock is slow; then it falls behind for good, which is late."""
    now = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, stop, worst = streams._Pace(), threading.Event(), 0.0
    for minute in range(24 * 60):
        now[0] = 50 + 60 * minute
        worst = max(worst, pace.wait(60 * minute * (1 - 1e-4), stop)[0])
    assert worst < 0.1
    late, shown = pace.wait(60 * minute * (1 - 1e-4) + 0.01, stop)
    assert late < 0.1 and shown == pytest.approx(now[0], abs=0.1)
    now[0] += 2
    assert pace.wait(60 * minute * (1 - 1e-4) + 0.02, stop)[0] > streams.LAG


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize(("after", "speed"), [(5.0, 1.0), (0.0, 0.9)])
def test_a_source_behind_for_good_is_never_silent(monkeypatch, hold, after, speed):
    """A clock that slips by five seconds, and one that is a tenth too slow: frames go on."""
    now, stop = [50.0], threading.Event()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, late, shown = pace_of(hold), [], []
    for number in range(1800):
        now[0] = 50 + number / 30 / speed + after * (number >= 300)
        delay, moment = pace.wait(number / 30, stop)
        late.append(delay > streams.LAG)
        shown.append(moment)
    assert pace.slipped and np.all(np.diff(shown) > 0)
    runs = "".join("x" if one else " " for one in late).split()
    assert max(map(len, runs)) <= 30 * streams.SLIP + 1
    if speed == 1:  # it slips once, and no frame is late from then on
        assert len(runs) == 1 and not any(late[361:])


def test_a_backlog_that_is_caught_up_is_dropped(monkeypatch):
    """Ten seconds of silence, then their frames at once: those are late, the newest are not."""
    now, stop = [50.0], threading.Event()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace, late = streams._Pace(), []
    for number in range(900):
        held_back = 300 <= number < 600
        now[0] = 70 + (number - 300) / 1000 if held_back else 50 + number / 30
        late.append(pace.wait(number / 30, stop)[0] > streams.LAG)
    assert not pace.slipped and not any(late[:300]) and not any(late[600:])
    assert all(late[300:580])


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("odd", [None, 0.0, 0.1])
def test_time_never_steps_back(monkeypatch, hold, odd):
    """One frame without a time stamp, or with an old one, among frames that are a little late."""
    now, stop, shown = [50.0], threading.Event(), []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = pace_of(hold)
    for number in range(60):
        now[0] = 50 + number / 30 + 0.3 * (number > 3)
        late, moment = pace.wait(odd if number == 6 else number / 30, stop)
        shown.append(moment)
        assert late < streams.LAG and moment <= now[0]
    assert np.all(np.diff(shown) >= 0) and shown[-1] - shown[20] == pytest.approx(39 / 30, abs=0.1)


def test_a_slip_is_said_once(monkeypatch):
    now, said = [50.0], []

    def source(*_):
        for number in range(900):
            now[0] += 1 / 30 + 3 * (number in (200, 500))
            yield number / 30, lambda number=number: number

    monkeypatch.setattr(streams.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(streams, "_container", source)
    stream = Stream("rtsp://camera", lambda image: image, capacity=900, remark=said.append)
    stream._read_once()
    assert [line.split(",")[0] for line in said] == [
        "rtsp://camera stayed behind its own clock for 2 s"
    ]
    assert abs(stream.dropped - 2 * 60) <= 4 and stream._frames[-1][1] == 899


def test_pictures_without_times_are_shown_when_they_come(tmp_path):
    """Motion JPEG has no time stamps: FFmpeg's are made up, and frames would all be late."""
    path = tmp_path / "camera.mjpeg"
    with av.open(str(path), "w", format="mjpeg") as container:
        video = container.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuvj420p"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(picture(number, infrared=True), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    found = [(moment, number_of(image())) for moment, image in streams._container(str(path))]
    assert found == [(None, number) for number in range(5)]


@pytest.mark.parametrize("kind", ["file", "network"])
def test_a_film_of_ten_bits_has_the_same_pixels_as_a_stream(tmp_path, kind):
    """For infrared the luma as it was written, as a file has it; for RGB colours of eight bits."""
    path, luma = str(tmp_path / "deep.mkv"), np.arange(300, 300 + 64 * 48, dtype=np.uint16) % 1000
    luma = luma.reshape(48, 64)
    with av.open(path, "w") as container:
        video = container.add_stream("ffv1", rate=100)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p10le"
        for _ in range(3):
            frame = av.VideoFrame(64, 48, "yuv420p10le")
            for plane, values in zip(frame.planes, (luma, 512, 512), strict=True):
                rows = np.full((plane.height, plane.line_size // 2), 512, np.uint16)
                rows[:, : plane.width] = values
                plane.update(rows.tobytes())
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    opened = streams._film if kind == "file" else streams._container
    grey = [image() for _, image in opened(path, infrared=True)]
    assert len(grey) == 3 and all(np.array_equal(one, luma) for one in grey)
    as_file = next(Film(path).shots()).image(streams.SHORT_SIDE, grey=True)
    np.testing.assert_array_equal(grey[0], as_file)
    colours = [image() for _, image in opened(path)]
    assert {(one.shape, one.dtype.name) for one in colours} == {((48, 64, 3), "uint8")}
    if kind == "file":
        with Stream(path, lambda image: image, infrared=True) as stream:
            np.testing.assert_array_equal(next(iter(stream))[1], luma)


def source_of(plays, monkeypatch, kind="network"):
    """A stand-in for a source: each play is frames, or a fault to raise."""
    left = iter(plays)

    def opened(*_):
        play = next(left, OSError("gone"))
        if isinstance(play, Exception):
            raise play
        for number in play:
            yield None, lambda number=number: number

    monkeypatch.setattr(streams, "_container", opened)
    monkeypatch.setattr(streams, "FIRST_WAIT", 0.02)
    return "rtsp://camera"


def test_a_lost_source_is_reopened(monkeypatch):
    silent = av.error.ExitError(0, "Immediate exit requested")
    plays = ([1, 2], silent, OSError("refused"), [3], OSError("off"))
    source, said = source_of(plays, monkeypatch), []
    stream = Stream(source, lambda image: image, patience=0.4, notify=said.append)
    with stream, pytest.raises(UserError, match=r"no frame from rtsp://camera for 0 s \(gone\)"):
        seen = []
        for _, frame in stream:
            seen.append(frame)
    assert seen == [1, 2, 3] and stream.reopened == 2
    assert said[0] == "rtsp://camera was lost (it ended); trying again in 0.0 s"
    assert said[1].startswith("rtsp://camera was lost (nothing came for 5 s)")
    waits = [float(line.rsplit(" ", 2)[1]) for line in said]
    assert waits[:2] == [0.0, 0.0] and max(waits) <= 0.4  # Doubled after each attempt in vain.


@pytest.mark.parametrize("kind", ["network", "film"])
def test_frames_that_cannot_be_used_end_the_stream(tmp_path, monkeypatch, kind):
    """Temperatures in 32 bits: reopening the source would bring the same frames for ever."""
    said, heat = [], np.linspace(20, 30, 48 * 64, dtype=np.float32).reshape(48, 64)
    if kind == "film":
        source = str(tmp_path / "heat.tiff")
        pages = [Image.fromarray(heat)] * 4
        pages[0].save(source, save_all=True, append_images=pages[1:])
    else:
        source = source_of([[heat]] * 3, monkeypatch)
    prepare = functools.partial(prepare_frame, spec=InputSpec("infrared", 4, (48, 64)))
    with (
        Stream(source, prepare, patience=0.1, notify=said.append) as stream,
        pytest.raises(UserError, match=r"cannot be used \(a frame is uint8 .* not float32"),
    ):
        list(stream)
    assert stream.received == 1 and not said


def test_a_stream_that_never_comes(monkeypatch, capsys):
    source_of([], monkeypatch)
    monkeypatch.setattr("jax_irkd.deployment.recognizer.open_classifier", lambda *_: Reader())
    code = predict.main(["--run=any", "--stream=rtsp://camera", "--patience=0.1"])
    errors = capsys.readouterr().err.splitlines()
    assert code == 2
    assert errors[-1].startswith("error: no frame from rtsp://camera for 0 s (gone); check that it")


def test_sources_that_cannot_be(tmp_path, capsys):
    for source in ("nowhere.mp4", str(tmp_path)):
        assert predict.main(["--run=any", f"--stream={source}"]) == 2
        assert "is no file; give a camera's number (0), a device" in capsys.readouterr().err
    path = tmp_path / "text.mp4"
    path.write_text("no video")
    with (
        pytest.raises(UserError, match=r"text\.mp4: is not a readable video"),
        Stream(str(path), number_of) as stream,
    ):
        list(stream)


def test_the_command_prints_predictions_and_ends_with_the_file(tmp_path, monkeypatch, capsys):
    path = write_video(tmp_path / "a.avi", 30, infrared=True, rate=60)
    monkeypatch.setattr("jax_irkd.deployment.recognizer.open_classifier", lambda *_: Reader())
    code = predict.main(["--run=any", f"--stream={path}", "--stride=10", "--json", "--topk=1"])
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert code == 0 and 1 <= len(lines) <= 3
    assert lines[0]["predictions"][0]["class"] == "walk" and lines[0]["latency"] < 1
    assert "predictions from 30 frames" in captured.err.splitlines()[-1]
    assert "warning" not in captured.err
    colour = write_video(tmp_path / "colour.avi", 12, rate=60)
    assert predict.main(["--run=any", f"--stream={colour}", "--stride=4"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning: the stream is a colour video") == 1
    assert "walk" in captured.out and "dropped)" in captured.out


CONTROL_C = """
import sys
sys.path.insert(0, sys.argv[2])
import jax_irkd.deployment.recognizer
from tests.deployment import test_predict
from jax_irkd import predict
jax_irkd.deployment.recognizer.open_classifier = lambda *_: test_predict.Reader()
sys.exit(predict.main(["--run=any", "--stream=" + sys.argv[1], "--stride=4"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_control_c_ends_cleanly(tmp_path, number):
    path = write_video(tmp_path / "a.avi", 400, infrared=True, rate=20)
    process = subprocess.Popen(
        [sys.executable, "-c", CONTROL_C, str(path), str(ROOT)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    timer = threading.Timer(60, process.kill)
    timer.start()
    assert "walk" in process.stdout.readline()
    process.send_signal(number)
    _, errors = process.communicate()
    timer.cancel()
    assert process.returncode == 0
    assert "Traceback" not in errors and "predictions from" in errors.splitlines()[-1]


class Framewise(Reader):
    """`Reader` with a program for frames, that counts them: logits by the frame's number."""

    framewise = True

    def __init__(self, causal: bool):
        super().__init__()
        self.causal, self.frames = causal, []

    def frame_program(self):
        def step(frames, past):
            numbers = [number_of(frame) for frame in frames]
            self.frames += numbers
            seen = past["seen"] if self.causal else 0.0
            logits = []
            for number in numbers:
                seen = seen + number if self.causal else number
                logits.append([0.0, seen / 100, 1.0, 2.0])
            return np.array(logits, np.float32), {"seen": seen} if self.causal else {}

        return step, {"seen": 0.0} if self.causal else {}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("stride", "lanes", "cost"), [(16, 1, 1), (15, 1, 1), (8, 2, 1), (1, 15, 1), (24, 2, 3)]
)
def test_a_stream_looks_at_every_frame_once(causal, stride, lanes, cost):
    """At most so many frames for a prediction; the answer is that of the window's frames."""
    reader = Framewise(causal)
    recognizer = Recognizer(reader, stride=stride, warm_up=False)  # Of four segments.
    assert recognizer.grid.segments == lanes and recognizer.grid.cost == cost
    made = push_all(recognizer, range(200))
    assert len(made) == (200 // stride if stride > 3 else 197) and not reader.seen
    assert len(reader.frames) == len(set(reader.frames)) <= cost * 200 / stride
    apart = recognizer.grid.step * lanes
    for newest, prediction in made[-3:]:
        window = [newest - round(apart * back) for back in (3, 2, 1, 0)]
        assert set(window) <= set(reader.frames)
        values = window
        if causal:  # All frames so far of its lane, one every `apart`.
            lane = [f for f in reader.frames if (f - newest) % apart == 0]
            values = [sum(f for f in lane if f <= frame) for frame in window]
        logits = np.array([0.0, np.mean(values) / 100, 1.0, 2.0])
        shares = np.exp(logits - logits.max())
        np.testing.assert_allclose(prediction.probabilities, shares / shares.sum(), rtol=1e-4)


def test_windows_apart_look_only_at_their_own_frames():
    reader = Framewise(causal=False)
    push_all(Recognizer(reader, seconds=0.5, stride=100, warm_up=False), range(300))
    assert len(reader.frames) == 4 * 3


def test_what_changes_in_a_source_is_said():
    """Its size, its kind of picture, its colours, its rate: in a line, and it is another scene."""
    said, reader = [], Framewise(causal=True)
    recognizer = Recognizer(reader, seconds=4 / 30, stride=4, warm_up=False, notify=said.append)
    rng = np.random.default_rng(0)
    clock = 0.0
    pictures = [
        *([picture(1, infrared=True)] * 40),
        *([rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)] * 40),
        *([picture(2, (128, 96), infrared=True)] * 4),
        *([picture(2, (128, 96), infrared=True)[..., 0].astype(np.uint16)] * 4),
    ]
    for count, image in enumerate(pictures):
        clock += 1 / 30 if count < 35 else 1 / 10
        recognizer.push(image, clock)
    assert {line for line in said if "shows nothing" in line} == {
        "the source shows nothing: the picture stands still"
    }
    said = [line for line in said if "shows nothing" not in line]
    assert [line.split(",")[0].split(";")[0] for line in said] == [
        "the source has got colours",
        "the source now brings 10.0 frames per second",
        "the source changed from 64x48 RGB to 128x96 RGB",
        "the source changed from 128x96 RGB to 128x96 grey of uint16",
    ]
    assert all("\n" not in line for line in said)
    before = len(reader.frames)
    for _ in range(3):  # What was before the change does not count.
        assert recognizer.push(picture(9, infrared=True)) is None
    assert recognizer.push(picture(9, infrared=True)) and len(reader.frames) == before + 4


@pytest.mark.parametrize(("gap", "forgotten"), [(1.0, False), (3.0, True), (600.0, True)])
def test_nothing_is_carried_over_a_gap(gap, forgotten):
    """Neither frames nor a network's past, where nothing came for a window (about two seconds)."""
    said, reader = [], Framewise(causal=True)
    recognizer = Recognizer(reader, stride=16, warm_up=False, notify=said.append)
    push_all(recognizer, range(64), [number / 30 for number in range(64)])
    before = recognizer._lanes
    made = push_all(recognizer, range(64, 96), [gap + number / 30 for number in range(64, 96)])
    assert (recognizer._lanes is not before) == forgotten
    if forgotten:
        (first, told), *_ = made  # from one sample, by a network without a past
        assert first == 64 + 15
        shares = np.exp([0.0, first / 100, 1.0, 2.0])
        np.testing.assert_allclose(told.probabilities, shares / shares.sum(), rtol=1e-4)
    lines = [line for line in said if "brought nothing" in line]
    assert len(lines) == forgotten and all("a window (2.1 s); what came" in one for one in lines)


def test_a_source_slower_than_windows_says_so_once():
    said = []
    recognizer = Recognizer(Reader(), stride=1, warm_up=False, notify=said.append)
    assert not push_all(recognizer, range(9), [5.0 * number for number in range(9)])
    assert [line.split(",")[0] for line in said] == ["the source brought nothing for 5.0 s"]


def test_the_program_is_compiled_before_the_first_frame():
    reader, whole = Framewise(causal=False), Framewise(causal=False)
    Recognizer(reader)
    Recognizer(whole, windows="whole")
    assert (len(reader.frames), len(reader.seen)) == (1, 0)
    assert (len(whole.frames), len(whole.seen)) == (0, 1)
    with pytest.raises(UserError, match="windows is 'x'; choose one of auto, shared, whole"):
        Recognizer(reader, windows="x")

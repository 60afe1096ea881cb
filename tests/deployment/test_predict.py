"""Videos as users have them: any codec, turned, odd, damaged, none at all."""

import json
import shutil
import wave
import weakref
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from jax_irkd import predict
from jax_irkd.data.spec import InputSpec
from jax_irkd.data.synthetic.raw_ntu import number_of, picture, truncate, write_video
from jax_irkd.deployment import answers, prediction, videos
from jax_irkd.deployment.prediction import VideoSettings
from jax_irkd.detection.rows import read_rows
from jax_irkd.host import prefetch
from jax_irkd.video import grid, playback, timing
from jax_irkd.video.decoding import Film
from jax_irkd.video.pixels import resize
from jax_irkd.video.windows import Window
from jax_irkd.video.windows import windows as dataset_windows

WANTED = InputSpec("infrared", 4, (48, 64))


class Reader:
    """A classifier without a network: it reads the frame number, and knows four stretches."""

    class_names = ("walk", "sit", "clap", "wave")
    modality, num_segments, size = "infrared", 4, (48, 64)

    def __init__(self):
        self.batches, self.seen = [], []

    def __call__(self, clips):
        self.batches.append(len(clips))
        numbers = [[number_of(frame) for frame in clip] for clip in clips]
        self.seen += numbers
        probabilities = np.full((len(clips), 4), 0.05, np.float32)
        for row, middle in zip(probabilities, np.mean(numbers, axis=1)):
            row[min(int(middle) // 50, 3)] = 0.85
        return probabilities


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 and 200 frames of infrared, 20 of RGB."""
    root = tmp_path_factory.mktemp("videos")
    write_video(root / "short_ir.avi", 40, infrared=True)
    write_video(root / "long_ir.avi", 200, infrared=True, rate=10)
    write_video(root / "rgb.avi", 20, codec="h264")
    return root


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs predict with `Reader`; gives the exit code, the output's and the error's lines."""
    monkeypatch.setattr(videos, "open_classifier", lambda *_: Reader())
    monkeypatch.setattr(videos, "once", lambda text: None)  # a note in the first command only

    def run(*argv):
        code = predict.main(["--run=any", *map(str, argv)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


def test_a_clip_gets_its_segments_and_classes(folder):
    reader = Reader()
    result = prediction.predict(reader, folder / "short_ir.avi")
    assert reader.seen == [[5, 15, 25, 35]]
    assert result.trimmed and result.frames == 40 and result.spans.tolist() == [[0, 40]]
    assert result.warnings == []
    assert [label for label, _ in answers.top(result.probabilities[0], 2)] == [0, 1]


def test_a_long_video_gets_a_timeline(folder):
    reader = Reader()
    settings = VideoSettings(seconds=1.6, stride=8, batch=3)
    result = prediction.predict(reader, folder / "long_ir.avi", settings)  # 20 s at 10 frames/s
    assert not result.trimmed and set(reader.batches) == {3}
    assert result.spans[0].tolist() == [0, 16] and result.spans[-1].tolist() == [184, 200]
    assert len(result.probabilities) == len(result.spans) == 24
    assert sorted(row.label for row in result.rows) == [1, 2, 3, 4]
    for row in result.rows:
        assert abs(row.start - (50 * (row.label - 1) + 1)) <= 9
        assert abs(row.end - 50 * row.label) <= 9


@pytest.mark.parametrize("total", [3, 30, 47, 64])
def test_windows_are_those_of_the_data_set(tmp_path, total):
    """The walk that survives damage agrees with the strict one that evaluation uses."""
    path = write_video(tmp_path / "a.avi", total, infrared=True)
    film, sizes = Film(path), {"length": 16, "stride": 8}
    planned = grid.plan(film.timing, 16 / film.rate, 8 / film.rate, 4)
    ours = list(playback.windows(film, WANTED, planned))
    theirs = list(
        dataset_windows(path, infrared=True, size=(48, 64), num_segments=4, short_side=256, **sizes)
    )
    assert [w[:2] for w in ours] == [w[:2] for w in theirs]
    np.testing.assert_array_equal([w.frames for w in ours], [w.frames for w in theirs])


def test_shrinking_in_passing_gives_the_builders_picture(tmp_path):
    path = write_video(tmp_path / "large.avi", 2, size=(900, 700), infrared=True)
    shot = next(Film(path).shots())
    expected, got = resize(shot.image(), 256), shot.image(256)
    assert got.shape == expected.shape == (256, 329, 3)
    assert np.abs(got.astype(int) - expected).mean() < 1.5
    assert number_of(got) == 0 and shot.image(700).shape == (700, 900, 3)


def test_luma_alone_is_the_same_grey_picture(tmp_path):
    """Full and limited range: what colours would have given, but quicker."""
    kinds = (("h264", "yuv420p"), ("mjpeg", "yuvj420p"))
    for codec, pixels in kinds:
        path = tmp_path / f"{codec}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=30)
            stream.width, stream.height, stream.pix_fmt = 900, 700, pixels
            slope = np.linspace(0, 255, 900).astype(np.uint8)
            image = np.repeat(np.tile(slope, (700, 1))[..., None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        shot = next(Film(path).shots())
        grey = shot.image(256, grey=True)
        colours = cv2.cvtColor(shot.image(256), cv2.COLOR_RGB2GRAY)
        assert grey.shape == colours.shape and grey.min() < 4 and grey.max() > 251
        assert np.abs(grey.astype(int) - colours).max() <= 1


def test_no_more_frames_are_kept_than_a_window_needs(folder, monkeypatch):
    prepared, honest = [], playback.fitted

    def remember(image, spec):
        frame = honest(image, spec)
        prepared.append(weakref.ref(frame))
        return frame

    monkeypatch.setattr(playback, "fitted", remember)
    planned = grid.plan(timing.steady(200, 1.0), 16, 8, 4)
    windows = playback.windows(Film(folder / "long_ir.avi"), WANTED, planned)
    alive = [sum(frame() is not None for frame in prepared) for _ in windows]
    assert max(alive) <= 8 and len(alive) == 24


def test_json_and_text_of_a_batch(folder, command):
    code, lines, errors = command(folder, "--json", "--topk=2")
    found = {Path(line["video"]).name: line for line in map(json.loads, lines)}
    assert code == 0 and len(found) == 3
    clip = found["short_ir.avi"]
    assert clip["kind"] == "clip" and len(clip["predictions"]) == 2
    assert clip["predictions"][0] == {"label": 1, "class": "walk", "probability": 0.85}
    segment = found["long_ir.avi"]["segments"][0]
    assert segment["class"] == "walk" and segment["start_frame"] == 1
    assert segment["end_seconds"] == segment["end_frame"] / 10
    errors = [line for line in errors if "is not calibrated" not in line]
    assert len(errors) == 1 and "is a colour video" in errors[0] and "rgb.avi" in errors[0]
    code, lines, _ = command(folder / "short_ir.avi", folder / "long_ir.avi")
    assert "   85.0%  walk" in lines and any("0:00.0 - " in line for line in lines)


def test_what_decides_between_clip_and_timeline(folder, command):
    kinds = [
        json.loads(command(folder / name, flag, "--json")[1][0])["kind"]
        for name in ("short_ir.avi", "long_ir.avi")
        for flag in ("--trimmed", "--untrimmed")
    ]
    assert kinds == ["clip", "timeline"] * 2


@pytest.mark.slow
def test_files_for_programs_and_people(folder, command, tmp_path):
    out, seen = tmp_path / "out", tmp_path / "seen"
    code, _, _ = command(folder / "*_ir.avi", f"--out={out}", f"--annotate={seen}")
    assert code == 0
    assert {p.name for p in out.iterdir()} == {
        "short_ir.json",
        "long_ir.json",
        "long_ir.txt",
        "long_ir.png",
    }
    rows = read_rows(out / "long_ir.txt")
    segments = json.loads((out / "long_ir.json").read_text())["segments"]
    assert sorted(row.label for row in rows) == [s["label"] for s in segments]
    with av.open(str(seen / "long_ir_annotated.mp4")) as container:
        images = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(images) == 200 and images[0].shape == (48, 64, 3)
    # The timeline's colours: walk is orange at the left, wave green at the right of every frame.
    left, right = images[100][-3, 4].astype(int), images[100][-3, 56].astype(int)
    assert left[0] > left[2] + 60 and np.abs(left - right).sum() > 60


def test_numbered_pictures_are_annotated_again(tmp_path, command):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"walk_{number:04d}.png"), picture(number, infrared=True))
    target = tmp_path / "seen.mp4"
    for _ in range(2):
        code, _, errors = command(tmp_path / "walk_*.png", f"--annotate={target}")
        assert code == 0 and not any(line.startswith("error") for line in errors)
        assert target.exists()


def test_results_of_equal_names_do_not_meet(tmp_path):
    paths = [Path("/a/x.avi"), Path("/b/x.avi"), Path("/b/y.avi"), Path("/c/b/x.mp4")]
    names = list(answers.own_names(paths).values())
    assert names == ["a_x", "b_x", "y", "b_x_3"]


def _audio_only(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    return path


def _no_frames(path: Path) -> Path:
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


def test_unusable_files_are_named_and_the_others_done(folder, command, tmp_path):
    good = shutil.copy(folder / "short_ir.avi", tmp_path / "good.avi")
    (tmp_path / "text.mp4").write_text("this is no video, whatever its name is " * 40)
    (tmp_path / "empty.mp4").touch()
    _audio_only(tmp_path / "sound.avi")
    _no_frames(tmp_path / "none.avi")
    names = ("text.mp4", "empty.mp4", "sound.avi", "none.avi", "absent.avi")
    code, lines, errors = command(*(tmp_path / name for name in names), good, "--json")
    assert code == 1
    assert "predictions" in json.loads(lines[-1]) and len(lines) == 6
    for name, reason, line, error in zip(
        names,
        (
            "is not a readable video (Invalid data found when processing input); give a file that",
            "is empty (0 bytes); copy it again",
            "has no video stream, only audio; give a video file",
            "has no frames (0 video packets)",
            "does not exist; check the path",
        ),
        lines,
        errors,
    ):
        assert name in error and reason in error and error.startswith("error: ")
        assert reason in json.loads(line)["error"]
    assert errors[-1] == "5 of 6 videos could not be read"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "good.avi").symlink_to(good)
    (tmp_path / "folder" / "gone.avi").symlink_to("nowhere")
    code, lines, errors = command(tmp_path / "folder", "--json")
    assert code == 1 and errors[-1] == "1 of 2 videos could not be read"
    assert json.loads(lines[0])["video"].endswith("gone.avi")
    assert "predictions" in json.loads(lines[1]) and len(lines) == 2
    assert command(tmp_path / "text.mp4")[0] == 2


def test_a_cut_off_video_is_used_as_far_as_it_goes(folder, command, tmp_path):
    path = Path(shutil.copy(folder / "long_ir.avi", tmp_path / "cut.avi"))
    truncate(path, 0.5)
    code, lines, errors = command(path, "--trimmed", "--json")
    found = json.loads(lines[0])
    assert code == 0 and 60 < found["frames"] < 140
    assert "is truncated by" in errors[0] and "frames are readable and were used" in errors[0]
    reader = Reader()
    prediction.predict(reader, path, VideoSettings(trimmed=True))
    assert reader.seen[0][-1] < found["frames"]  # The segments lie in what is there.
    assert abs(reader.seen[0][0] - found["frames"] / 8) <= 1
    assert command(path, "--untrimmed")[0] == 0


def test_a_title_in_an_old_encoding_is_no_damage(folder, command, tmp_path):
    path, content = tmp_path / "titled.avi", (folder / "long_ir.avi").read_bytes()
    assert b"Lavf" in content
    path.write_bytes(content.replace(b"Lavf", b"L\xe9\xffv"))  # The writer's name, no UTF-8 now.
    code, _, errors = command(path, "--trimmed")
    assert code == 0 and not errors


def test_damage_in_the_middle_is_passed_over(folder, tmp_path):
    path = tmp_path / "hole.avi"
    content = bytearray((folder / "long_ir.avi").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(np.random.default_rng(0).bytes(3000))
    path.write_bytes(content)
    reader = Reader()
    result = prediction.predict(reader, path, VideoSettings(trimmed=True))
    assert 120 < result.frames < 200 and "is damaged" in result.warnings[0]
    assert reader.seen[0][-1] > 150  # What lies behind the hole was read, too.


def turned(path: Path, target: Path) -> Path:
    """A copy as MP4 whose header says: turn by 90 degrees."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    with av.open(str(target), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = frames[0].height, frames[0].width, "yuv420p"
        for frame in frames:
            image = np.rot90(frame.to_ndarray(format="rgb24"))
            new = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(new))
        container.mux(stream.encode(None))
    content = bytearray(target.read_bytes())
    place = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version 0: times, layer, volume
    clockwise = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4")
    content[place : place + 36] = clockwise.tobytes()
    target.write_bytes(content)
    return target


def test_a_turned_video_is_turned_back(folder, tmp_path):
    path = turned(folder / "short_ir.avi", tmp_path / "phone.mp4")
    reader = Reader()
    result = prediction.predict(reader, path)
    assert reader.seen == [[5, 15, 25, 35]]
    assert "is stored rotated; turned by" in result.warnings[0]


def test_few_frames_and_odd_sizes(tmp_path, command):
    short = write_video(tmp_path / "two.avi", 2, infrared=True)
    odd = write_video(tmp_path / "odd.avi", 9, size=(67, 51), codec="ffv1", infrared=True)
    code, _, errors = command(short, odd, f"--annotate={tmp_path / 'seen'}")
    assert code == 0
    assert "has 2 frames, fewer than the 4 segments; some repeat" in errors[0]
    with av.open(str(tmp_path / "seen" / "odd_annotated.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height) in ((66, 50), (68, 52), (68, 50), (66, 52))


def test_colour_and_its_absence_are_said():
    assert (
        playback.modality_warning(30.0, "rgb") == playback.modality_warning(1.0, "infrared") == []
    )
    assert "has no colour, the network expects RGB" in playback.modality_warning(0.0, "rgb")[0]


def test_frames_of_any_kind(folder):
    grey = np.random.default_rng(0).integers(0, 256, (96, 128), dtype=np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    expected = playback.prepare_frame(rgb, WANTED)
    assert expected.shape == (48, 64, 1)
    np.testing.assert_allclose(playback.prepare_frame(grey, WANTED), expected, atol=1)
    assert playback.prepare_frame(grey, WANTED._replace(modality="rgb")).shape == (48, 64, 3)
    for wrong in (grey.astype(np.float32), grey[None, None], grey[:0]):
        with pytest.raises(ValueError, match="a frame is uint8"):
            playback.prepare_frame(wrong, WANTED)
    with pytest.raises(ValueError, match="a frame has 1 or 3 channels, not 4"):
        playback.prepare_frame(np.zeros((8, 8, 4), np.uint8), WANTED)


def test_mistakes_on_the_command_line(folder, command, tmp_path):
    for flags, message in (
        ((), "give videos (files, folders, globs) or one --stream"),
        ((folder / "x*.avi",), "no file matches"),
        (("https://a.org/b.mp4?c=1",), "https://a.org/b.mp4?c=1 is an address, not a file; fetch"),
        ((tmp_path,), "no videos in the folder"),
        ((folder, f"--annotate={tmp_path / 'a.mp4'}"), "is one file for 3 videos; give a folder"),
        ((folder / "rgb.avi", f"--annotate={folder / 'rgb.avi'}"), "would overwrite the video"),
        ((folder / "rgb.avi", f"--annotate={tmp_path / 'no' / 'a.mp4'}"), "there is no folder"),
        (("--stream=0", f"--out={tmp_path}"), "--out is for video files"),
        ((folder, "--range=9,8"), "range is '9,8'; give auto, or the lowest and the highest"),
        ((folder, "--stride=0"), "--stride: 0 is not positive"),
    ):
        code, _, errors = command(*flags)
        assert code == 2 and len(errors) == 1 and message in errors[0]


def test_a_run_that_cannot_be_loaded(folder, tmp_path, capsys):
    assert predict.main([f"--run={tmp_path}", str(folder / "rgb.avi")]) == 2
    assert "holds no run (no checkpoints folder)" in capsys.readouterr().err
    assert predict.main([f"--run={tmp_path}/x.irkd", str(folder / "rgb.avi")]) == 2
    assert "x.irkd does not exist; give a run's folder" in capsys.readouterr().err


def test_decoding_ahead_passes_on_errors_and_stops():
    def broken():
        yield 1
        raise ValueError("a fault")

    items = prefetch.ahead(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="a fault"):
        next(items)
    made = []
    items = prefetch.ahead(made.append(i) or i for i in range(100))
    assert next(items) == 0
    items.close()
    assert len(made) < 6
    assert [w.stop for w in prefetch.ahead([Window(0, 1, np.zeros(1))])] == [1]


def test_what_changes_in_the_middle_of_a_film_is_said(tmp_path):
    """Its size, and from colours to grey as cameras do at night; every frame is used."""
    rng = np.random.default_rng(0)
    for number in range(40):
        day = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        image = day if number < 20 else picture(number, (128, 96), infrared=True)
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), image)
    (film,), _ = playback.find_videos([tmp_path])
    result = prediction.predict(Reader(), film, VideoSettings(trimmed=False, seconds=0.4, stride=4))
    said = [line for line in result.warnings if "without time stamps" not in line]
    assert result.frames == 40 and len(said) == 2
    assert "changes its size at frame 21 from 64x48 to 128x96; every frame is cut" in said[0]
    assert "is in colour in 4 and grey in 1 of 5 pictures looked at" in said[1]

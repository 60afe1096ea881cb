"""An answer counts, or nothing was recognised: in clips, timelines, streams, JSON and pictures."""

import json

import av
import numpy as np
import pytest

from jax_irkd import Recognizer, predict
from jax_irkd.deployment import annotate, answers, live, prediction, videos
from jax_irkd.deployment.exported import Exported
from jax_irkd.deployment.judgement import REASONS, Judge, Verdict, fault_of
from jax_irkd.deployment.prediction import VideoSettings
from jax_irkd.deployment.recording import Recorder
from jax_irkd.errors import UserError
from jax_irkd.metrics import calibration

CLASSES = ("walk", "sit", "clap")
SIZE = (48, 64)


def calibrated() -> dict:
    """As of a network whose logits are 4 for its class and 0 for others, and some noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 3
    logits = 4 * np.eye(3)[labels] + rng.normal(0, 1.3, (600, 3))
    half = slice(None, None, 2), slice(1, None, 2)
    return calibration.fit(
        logits[half[0]], labels[half[0]], logits[half[1]], labels[half[1]]
    ).as_json()


class Plain:
    """A classifier that gives the same logits whatever it sees; not calibrated."""

    class_names, modality, num_segments, size = CLASSES, "infrared", 4, SIZE
    calls = 0

    def __init__(self, *logits):
        self.logits = np.array(logits or (4.0, 0.0, 0.2))

    def __call__(self, clips):
        Plain.calls += 1
        return np.tile(calibration.softmax(self.logits), (len(clips), 1)).astype(np.float32)


class Calibrated(Plain):
    manifest = {"calibration": calibrated()}  # noqa: RUF012


STRANGE, DOUBTFUL = (30.0, 0.0, 0.0), (2.0, 1.8, 0.0)


def pictures(kind: str, count=4) -> np.ndarray:
    rng = np.random.default_rng(1)
    if kind == "still":
        return np.repeat(rng.integers(0, 200, (1, *SIZE), dtype=np.uint8), count, axis=0)
    low, high = {"black": (0, 6), "constant": (100, 106), "moving": (0, 200)}[kind]
    return rng.integers(low, high, (count, *SIZE), dtype=np.uint8)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Lossless films of 20 frames a second: twelve frames of each kind, and a long mixed one."""
    root = tmp_path_factory.mktemp("films")
    kinds = {kind: pictures(kind, 12) for kind in ("black", "constant", "still", "moving")}
    kinds["long"] = np.concatenate([pictures("moving", 60), pictures("black", 60)])
    for name, frames in kinds.items():
        with av.open(str(root / f"{name}.avi"), "w") as container:
            stream = container.add_stream("ffv1", rate=20)
            stream.height, stream.width, stream.pix_fmt = *SIZE, "gray"
            for frame in frames:
                shown = av.VideoFrame.from_ndarray(frame, format="gray")
                container.mux(stream.encode(shown))
            container.mux(stream.encode(None))
    return root


@pytest.mark.parametrize("kind", ["black", "constant", "still", "moving"])
def test_pictures_that_show_nothing(kind):
    assert fault_of(pictures(kind)[..., None]) == ("" if kind == "moving" else kind)
    assert fault_of(pictures("moving", 1)[..., None]) == ""  # one frame cannot stand still


@pytest.mark.parametrize(
    ("network", "threshold", "reason"),
    [
        (Plain(), None, ""),
        (Plain(*STRANGE), None, ""),
        (Plain(*DOUBTFUL), None, ""),
        (Plain(*DOUBTFUL), 0.9, "unsure"),
        (Calibrated(), None, ""),
        (Calibrated(*STRANGE), None, "unfamiliar"),
        (Calibrated(*STRANGE), 0.0, "unfamiliar"),
        (Calibrated(*DOUBTFUL), None, "unsure"),
        (Calibrated(), 0.9999, "unsure"),
    ],
)
def test_what_counts(network, threshold, reason):
    judge = Judge(network, threshold)
    probabilities = network(np.zeros(1))[0]
    verdict = judge(probabilities, pictures("moving")[..., None])
    assert verdict.reason == reason and verdict.recognised == (not reason)
    assert verdict.words == (f"nothing recognised: {REASONS[reason]}" if reason else "")
    expected = probabilities
    if judge.calibration:
        expected = calibration.softmax(network.logits / judge.calibration.temperature)
    np.testing.assert_allclose(verdict.probabilities, expected, rtol=1e-4, atol=1e-9)
    assert judge(probabilities, pictures("black")[..., None]).reason == "black"


def test_the_reader_that_travels_with_a_file_judges_alike():
    file = Exported.__new__(Exported)
    file.manifest, file.class_names = Calibrated.manifest, CLASSES
    given = np.concatenate([Calibrated(*z)([0]) for z in ((), STRANGE, DOUBTFUL)])
    probabilities, known = file.judge(given)
    verdicts = Judge(Calibrated()).of(given, [""] * 3)
    np.testing.assert_allclose(probabilities, [v.probabilities for v in verdicts], rtol=1e-5)
    assert known.tolist() == [v.recognised for v in verdicts] == [True, False, False]
    file.manifest = {}
    assert file.judge(given)[1].all()
    file.class_names = ("background", "sit", "clap")  # the likeliest class of all three
    assert not file.judge(given)[1].any()


def test_background_is_nothing(films, command):
    network = Plain(0.1, 4.0, 0.0)
    network.class_names = ("walk", "background", "clap")
    assert Judge(network)(network([0])[0], None).words.endswith("nothing of its classes happens")
    options = ("--untrimmed", "--seconds=1", "--stride=10", "--json")
    (line,), _ = command(network, films / "long.avi", *options)
    found = json.loads(line)
    assert found["segments"] == [] and set(found["unrecognised"]) == {"black", "background"}


def test_a_judge_refuses_what_cannot_be():
    with pytest.raises(UserError, match=r"threshold is 1\.5; it must be a number from 0 to 1"):
        Judge(Plain(), 1.5)
    broken = Plain()
    broken.manifest = {"calibration": {"temperature": "hot"}}
    with pytest.raises(UserError, match=r"no calibration .* export the run again"):
        Judge(broken)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs predict with a classifier; gives output lines and errors."""

    def run(network, *argv):
        for module in (videos, live.Recognizer.__init__.__globals__):
            opened = lambda *args, **options: network  # noqa: E731
            if isinstance(module, dict):
                monkeypatch.setitem(module, "open_classifier", opened)
            else:
                monkeypatch.setattr(module, "open_classifier", opened)
        assert predict.main(["--run=student", *map(str, argv)]) == 0
        captured = capsys.readouterr()
        return captured.out.splitlines(), captured.err

    return run


@pytest.mark.parametrize(
    ("film", "network", "reason"),
    [
        ("black", Plain(), "black"),
        ("still", Plain(), "still"),
        ("moving", Plain(), ""),
        ("moving", Calibrated(), ""),
        ("moving", Calibrated(*STRANGE), "unfamiliar"),
    ],
)
def test_a_clip_in_text_and_json(films, command, film, network, reason):
    path = films / f"{film}.avi"
    text, said = command(network, path)
    assert "is not calibrated" not in said or type(network) is Plain
    assert (f"  nothing recognised: {REASONS[reason]}" in text) if reason else ("walk" in text[1])
    (line,), said = command(network, path, "--json")
    found = json.loads(line)
    assert found["recognised"] == (not reason) and found.get("reason", "") == reason
    assert found["predictions"][0]["class"] == "walk"  # what it would have said
    if film == "still":
        assert "warning" in said and "stands still" in said


def test_a_timeline_has_no_segments_where_there_is_nothing(films, command, tmp_path):
    path = films / "long.avi"
    options = ("--untrimmed", "--seconds=1", "--stride=10")
    (line,), _ = command(Calibrated(), path, "--json", *options)
    found = json.loads(line)
    (segment,) = found["segments"]
    assert 50 <= segment["end_frame"] <= 75 and segment["start_frame"] == 1
    assert set(found["unrecognised"]) == {"black"} and 3 <= found["unrecognised"]["black"] <= 6
    text, _ = command(Calibrated(), path, *options, f"--annotate={tmp_path / 'seen.mp4'}")
    assert f"nothing recognised in {found['unrecognised']['black']} of" in text[-1]
    (line,), _ = command(Calibrated(*STRANGE), path, "--json", *options)
    assert json.loads(line)["segments"] == []


@pytest.mark.slow
def test_a_stream_says_nothing_too(films, command, tmp_path):
    record = tmp_path / "seen.mp4"
    options = ("--stride=20", "--seconds=1", f"--annotate={record}")
    lines, said = command(Calibrated(), f"--stream={films / 'long.avi'}", "--json", *options)
    reasons = [json.loads(line).get("reason", "") for line in lines]
    assert reasons[0] == "" and reasons[-1] == "black" and record.exists()
    assert said.count("the source shows nothing: the pictures are black") == 1


def test_a_recognizer_in_a_program(capsys):
    recognizer = Recognizer(Calibrated(), stride=4, windows="whole", rate=4)
    told = [recognizer.push(frame) for frame in pictures("moving", 8)][-1]
    assert told.label == "walk" and told.recognised and told.probability == told.probabilities.max()
    told = [recognizer.push(frame) for frame in pictures("still", 16)][-1]
    assert told.label == "" and told.reason == "still" and not told.recognised
    unsure = Recognizer(Plain(*DOUBTFUL), stride=4, windows="whole", threshold=0.9)
    assert [unsure.push(frame) for frame in pictures("moving", 8)][-1].reason == "unsure"
    # Colours where infrared is expected are said.
    grey = pictures("moving")
    coloured = np.stack([grey[0], grey[1], grey[1]], axis=-1)
    Recognizer(Plain(), windows="whole").push(coloured)
    assert "the source is a colour video" in capsys.readouterr().err


def test_what_is_drawn(tmp_path):
    scores = np.array([0.9, 0.1, 0.0])
    with Recorder(tmp_path / "seen.mp4", CLASSES):
        shown = [np.full((96, 128, 3), 90, np.uint8) for _ in range(2)]
        for image, verdict in zip(shown, (Verdict(scores), Verdict(scores, "unfamiliar"))):
            annotate.draw(image, verdict, CLASSES)
    bar = np.array(annotate.colour_of(0))
    coloured = [(image == bar).all(axis=-1).sum() for image in shown]
    assert coloured[0] > 100 and coloured[1] == 0


@pytest.mark.parametrize("network", [Plain, Calibrated])
@pytest.mark.parametrize("trimmed", [True, False])
def test_numbers_that_are_none_are_not_recognised(films, network, trimmed):
    """A network whose weights have become NaN: no answer, and JSON that parsers take."""
    broken = network(np.nan, np.nan, np.nan)
    result = prediction.predict(broken, films / "moving.avi", VideoSettings(trimmed=trimmed))
    assert not any(verdict.recognised for verdict in result.verdicts) and not result.rows
    told = json.dumps(answers.as_json(result, CLASSES, 2), allow_nan=False)
    assert ("null" in told) == trimmed
    assert "nothing recognised" in answers.as_text(result, CLASSES, 2) or not trimmed


def test_the_reader_of_a_file_takes_no_number_that_is_none():
    file = Exported.__new__(Exported)
    file.manifest, file.class_names = {}, CLASSES
    assert file.judge(np.array([[0.2, 0.7, 0.1], [np.nan] * 3]))[1].tolist() == [True, False]

"""Films of which some packets give no frame: what is said of them, and that the others are done."""

import json
from fractions import Fraction

import av
import pytest

from jax_irkd.deployment import answers, prediction
from jax_irkd.deployment.annotate import annotate
from jax_irkd.video.decoding import Film
from jax_irkd.video.faults import VideoError
from tests.deployment.test_predict import Reader, command  # noqa: F401 (a fixture)
from tests.helpers.damage import punched, with_placeholders

UNREADABLE = "is damaged: none of the frames that are looked at can be read"


@pytest.mark.parametrize("trimmed", [False, True])
def test_a_film_without_a_readable_window_is_named(tmp_path, trimmed):
    path = punched(tmp_path / "a.avi", 120, range(3, 120))
    settings = prediction.VideoSettings(trimmed=trimmed)
    with pytest.raises(VideoError, match=f"a.avi: {UNREADABLE}"):
        prediction.predict(Reader(), path, settings)


def test_the_films_beside_it_are_done(tmp_path, command):  # noqa: F811
    paths = [punched(tmp_path / f"{name}.avi", 20, []) for name in "ac"]
    bad = punched(tmp_path / "b.avi", 120, range(3, 120))
    code, lines, errors = command(paths[0], bad, paths[1], "--json")
    assert code == 1 and [("error" in json.loads(line)) for line in lines] == [False, True, False]
    assert f"error: {bad}: {UNREADABLE}; copy it again" in errors
    assert command(bad)[0] == 2


@pytest.mark.parametrize("tail", [0, 1, 2, 5, 40])
def test_placeholders_at_the_end_are_no_frames(tmp_path, tail):
    """As XVID writes them in NTU's and PKU-MMD's films: spans and segments end with the film."""
    path = with_placeholders(tmp_path / "a.avi", 200, tail)
    settings = prediction.VideoSettings(trimmed=False, seconds=0.5, stride=4)
    result = prediction.predict(Reader(), path, settings)
    with av.open(str(path)) as container:  # FFmpeg may show the last frame once more
        total = sum(1 for _ in container.decode(video=0))
    assert 200 <= total <= 201
    assert result.frames == len(result.timing.times) == result.spans[-1, 1] == total
    assert (result.spans[:, 0] < result.spans[:, 1]).all()
    found = answers.as_json(result, Reader.class_names, 1)["segments"]
    assert max(row["end_frame"] for row in found) == total
    assert {row["class"] for row in found} == set(Reader.class_names)
    assert max(row["end_seconds"] for row in found) == pytest.approx(result.timing.end, abs=1e-3)


def test_what_cannot_be_read_is_not_recognised(tmp_path):
    """From frame 50 to 150 of 200 nothing is readable: windows there have no answer."""
    path = punched(tmp_path / "a.avi", 200, range(50, 150), rate=10)
    reader = Reader()
    settings = prediction.VideoSettings(trimmed=False, seconds=1.6, stride=4)
    result = prediction.predict(reader, path, settings)
    for (start, stop), verdict in zip(result.spans, result.verdicts, strict=True):
        # Of four frames, in the middle of four each, one may lie up to a segment inside.
        inside = min(stop, 150) - max(start, 50)
        if inside <= 4:
            assert verdict.recognised
        if inside >= 9:
            assert verdict.reason == "unreadable" and not verdict.recognised
    assert all(row.end <= 50 + 8 or row.start > 150 - 8 for row in result.rows)
    found = answers.as_json(result, Reader.class_names, 1)
    assert found["unrecognised"]["unreadable"] > 20
    text = answers.as_text(result, Reader.class_names, 1)
    assert f"of {found['windows']} windows: too few of the frames can be read" in text


@pytest.mark.parametrize(
    ("total", "broken", "reason"),
    [
        (40, (), ""),
        (40, range(12, 18), ""),  # frame 15, of 5, 15, 25 and 35
        (40, range(10, 40), "unreadable"),  # frame 5 alone
        (40, range(7, 33), ""),  # two frames, each for its neighbour
        (40, range(17, 40), "unreadable"),  # frame 15 for 35, too
        (3, (), ""),  # fewer frames than segments, all of them there
    ],
)
def test_a_clip_of_too_few_readable_frames(tmp_path, total, broken, reason):
    path = punched(tmp_path / "a.avi", total, broken)
    result = prediction.predict(Reader(), path, prediction.VideoSettings(trimmed=True))
    assert result.verdicts[0].reason == reason


@pytest.mark.parametrize(
    ("broken", "rate", "name", "expected"),
    [
        ((), 10, "seen.mp4", 6.0),
        (range(20, 40), 10, "seen.mp4", 6.0),  # the gap stays a gap
        (range(20, 40), 10, "seen.avi", 4.0),  # which cannot have one
        ((), Fraction(1, 2), "seen.mp4", 120.0),
    ],
)
def test_an_annotated_film_lasts_as_long_as_its_source(tmp_path, broken, rate, name, expected):
    path = punched(tmp_path / "a.mkv", 60, broken, rate=rate)
    result = prediction.predict(Reader(), path, prediction.VideoSettings(trimmed=True))
    annotate(result, Reader.class_names, tmp_path / name)
    assert Film(tmp_path / name).seconds == pytest.approx(expected, rel=0.02)

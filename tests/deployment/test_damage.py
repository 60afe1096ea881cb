"""Films of which some packets give no frame: what is said of them, and that the others are done."""

import json

import av
import pytest

from jax_irkd.deployment import answers, prediction
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

"""Films of which some packets give no frame: what is said of them, and that the others are done."""

import json

import pytest

from jax_irkd.deployment import prediction
from jax_irkd.video.faults import VideoError
from tests.deployment.test_predict import Reader, command  # noqa: F401 (a fixture)
from tests.helpers.damage import punched

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

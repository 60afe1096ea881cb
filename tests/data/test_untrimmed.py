"""Generated untrimmed films: what happens when, bodies that do not jump, PKU-MMD's files."""

import itertools

import numpy as np
import pytest

from jax_irkd.data.synthetic import actors, performances, stories, untrimmed
from jax_irkd.data.synthetic.stories import NOTHING, SIT_DOWN, STAND_UP, Piece
from jax_irkd.detection.rows import Row
from jax_irkd.pku_mmd import annotations
from jax_irkd.pku_mmd.untrimmed import pku_videos
from tests.helpers.films import iterate_frames


@pytest.mark.parametrize("seed", range(4))
def test_every_action_once_and_nothing_between(seed):
    pieces = stories.plot(1.0, np.random.default_rng(seed))
    actions = [piece.action for piece in pieces]
    assert actions[::2] == [NOTHING] * 11 and sorted(actions[1::2]) == list(range(1, 11))
    assert all(one.end == other.begin for one, other in itertools.pairwise(pieces))
    down, up = actions.index(SIT_DOWN), actions.index(STAND_UP)
    assert all(piece.seated == (down < place <= up) for place, piece in enumerate(pieces))
    assert set(actions[down + 1 : up]) <= {NOTHING, *stories.SEATED}
    seconds = np.arange(0, pieces[-1].end, 0.1)
    weights = stories.weights(pieces, seconds)
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    for piece, weight in zip(pieces, weights):
        inside = (seconds >= piece.begin) & (seconds <= piece.end)
        assert piece.action == NOTHING or (weight[inside] == 1).all()
    rows = [Row(*row) for row in performances.rows(pieces)]
    assert annotations.CLASSES[rows[actions[1::2].index(SIT_DOWN)].label - 1] == "sitting down"
    # Long enough for the builder to find stretches of background.
    assert len(annotations.background([annotations.Instance(r[0] - 1, r[1] - 1, r[2], 2)
                                       for r in performances.rows(pieces)])) == 2  # fmt: skip


def test_a_body_does_not_jump_from_one_piece_to_the_next():
    """In a thirtieth of a second no part of it moves further than a thrown hand does."""
    rng = np.random.default_rng(0)
    look = actors.subject(rng)
    pieces = [Piece(NOTHING, 0, 2, False), Piece(SIT_DOWN, 2, 4, False), Piece(NOTHING, 4, 6, True),
              Piece(STAND_UP, 6, 8, True), Piece(NOTHING, 8, 10, False), Piece(7, 10, 12, False),
              Piece(NOTHING, 12, 14, False)]  # fmt: skip
    solids = stories.scene(look, pieces, np.arange(0, 14, 1 / 30), 0, 1)
    body = solids[: len(actors.person(look, _standing(look)))]
    steps = [np.abs(np.diff(solid.centres, axis=0)).max() for solid in body]
    assert 0.02 < max(steps) < 0.25


def _standing(look):
    return stories.act(look, Piece(NOTHING, 0, 1, False), np.zeros(1), np.random.default_rng(0))


@pytest.mark.slow
def test_the_files_are_pku_mmds(tmp_path, monkeypatch, capsys):
    short = [Piece(NOTHING, 0, 0.2, False), Piece(10, 0.2, 0.6, False)]
    short.append(Piece(NOTHING, 0.6, 0.8, False))
    monkeypatch.setattr(stories, "plot", lambda tempo, rng: short)
    argv = [f"--out={tmp_path}", "--train=1", "--test=1", "--views=LM", "--workers=1"]
    assert untrimmed.main(argv) == 0
    assert "4 films of 2 people" in capsys.readouterr().out
    [first, second] = pku_videos(tmp_path, "cross_subject")
    assert (first.name, second.name) == ("5000-L", "5000-M") and first.rows == [(6, 7, 18, 2)]
    assert [video.name for video in pku_videos(tmp_path, "cross_view")] == ["0001-M", "5000-M"]
    assert sum(1 for _ in iterate_frames(first.infrared)) == 24
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.avi")}
    assert untrimmed.main(argv) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.avi")}
    assert untrimmed.main([*argv, "--seed=3"]) == 2
    assert "holds films made with" in capsys.readouterr().err

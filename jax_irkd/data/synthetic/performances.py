"""Untrimmed films of generated people, their annotations and splits, in PKU-MMD's layout."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_irkd.data.synthetic import actors, raw_pku, recording, rooms, staging, stories
from jax_irkd.data.synthetic.filming import VERSION, claim, in_parallel, shown
from jax_irkd.errors import UserError

RATE = 30  # frames per second of both cameras, as PKU-MMD's
# Labels of PKU-MMD (from 1) of drink, eat, brush teeth, brush hair, drop, pick up, throw, sit down,
# stand up and clap.
LABELS = (8, 10, 3, 2, 9, 22, 41, 33, 34, 6)
VIEWS = {"L": -45.0, "M": 0.0, "R": 45.0}  # degrees
ROOMS = 6
MOST = 4999  # recordings that train, and as many that test: numbers have four digits
TESTS_FROM = 5000


class Recording(NamedTuple):
    """One film: the number of the performance, from `TESTS_FROM` on one that tests, and the view.

    `name` is that of PKU-MMD's files.
    """

    number: int
    view: str

    @property
    def name(self) -> str:
        return f"{self.number:04d}-{self.view}"


def film(recording: Recording, seed: int) -> tuple[np.ndarray, np.ndarray, raw_pku.Rows]:
    """RGB frames `t h w 3`, infrared frames `t h w`, and the annotation's rows."""
    number, view = recording
    key = (number, ord(view))
    look = actors.subject(staging.generator(seed, staging.SUBJECT, 2000 + number))
    story = staging.generator(seed, stories.PLOT, number)
    pieces = stories.plot(look.tempo, story)
    seconds = np.arange(0.0, pieces[-1].end, 1 / RATE)
    turn, spot = np.deg2rad(story.uniform(-15, 15)), story.uniform(-0.08, 0.08, 3) * [1, 0, 1]
    solids = stories.scene(look, pieces, seconds, seed, number)
    solids = staging.placed(solids, turn, spot)
    panels = rooms.room(staging.generator(seed, staging.ROOM, 2000 + number % ROOMS))
    stand, moment, noise = (
        staging.generator(seed, purpose, *key)
        for purpose in (staging.STAND, staging.LAMP, staging.NOISE)
    )
    scenes = {"rgb": solids, "infrared": solids}
    rgb, infrared = staging.shoot(
        scenes, panels, look.body.height, VIEWS[view], stand, moment, noise
    )
    return rgb, infrared, rows(pieces)


def rows(pieces: Sequence[stories.Piece]) -> raw_pku.Rows:
    """The annotation: label, first and last frame from 1, and a confidence of 2 for all."""
    return [
        (LABELS[p.action - 1], int(np.ceil(p.begin * RATE)) + 1, int(np.floor(p.end * RATE)), 2)
        for p in pieces
        if p.action != stories.NOTHING
    ]


def make(root: Path, seed: int, recording_: Recording) -> int:
    """Writes one film, the annotation last; the number of frames."""
    rgb, infrared, found = film(recording_, seed)
    name = recording_.name
    recording.write_rgb(raw_pku.video_path(root, name, "rgb"), rgb, RATE, "h264")
    recording.write_infrared(raw_pku.video_path(root, name, "infrared"), infrared, RATE)
    raw_pku.write_rows(raw_pku.label_path(root, name), found)
    return len(rgb)


def generate(
    out: str | Path,
    *,
    train: int = 20,
    test: int = 20,
    views: str = "LMR",
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> list[Recording]:
    """Writes the films that `out` does not hold yet, and both split files; all its films.

    Raises UserError for numbers that PKU-MMD's names do not have and for a folder that holds
    anything else.
    """
    if not (1 <= train <= MOST and 1 <= test <= MOST) or seed < 0:
        raise UserError(f"train and test must be 1 to {MOST}, seed 0 or more")
    if not views or set(views) - set(VIEWS):
        raise UserError(f"views={views!r} must be some of {''.join(VIEWS)}")
    root = Path(out)
    numbers = [*range(1, train + 1), *range(TESTS_FROM, TESTS_FROM + test)]
    films = [Recording(number, view) for number in numbers for view in sorted(set(views))]
    folders = {raw_pku.video_path(root, "0001-L", kind).parent for kind in raw_pku.FOLDERS}
    folders.add(raw_pku.label_path(root, "0001-L").parent)
    claim(root, {"of": "untrimmed", "version": VERSION, "seed": seed}, folders)
    missing = [one for one in films if not raw_pku.label_path(root, one.name).exists()]
    try:
        done = in_parallel(functools.partial(make, root, seed), missing, workers, chunk=1)
        for _ in shown(done, len(missing), progress, "films"):
            pass
        _write_splits(root, films)
    except OSError as error:
        raise UserError(f"cannot write the films to {root}: {error}") from error
    return films


def _write_splits(root: Path, films: Sequence[Recording]) -> None:
    sides = {
        "cross-subject": [one.number >= TESTS_FROM for one in films],
        "cross-view": [one.view == "M" for one in films],
    }
    for name, tests in sides.items():
        train = [one.name for one, own in zip(films, tests) if not own]
        test = [one.name for one, own in zip(films, tests) if own]
        raw_pku.write_split(root / "Split" / f"{name}.txt", train, test)

"""One clip: the cast, the room, the cameras, and what both cameras record of it.

Every part draws from its own generator, named by what it depends on: the room by the setup, the
person by the subject, the performance by the take (three cameras see the same one), lamps and
noise by the clip.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jax_irkd.data.synthetic import actors, motions, rendering, rooms, things
from jax_irkd.data.synthetic.actors import Look, Solid

RGB_SIZE, RGB_RATE, RGB_VIEW = (240, 136), 15, np.deg2rad(84.1)
INFRARED_SIZE, INFRARED_RATE, INFRARED_VIEW = (160, 132), 12, np.deg2rad(70.6)
AZIMUTHS = {1: -45.0, 2: 0.0, 3: 45.0}  # degrees
DURATION = (1.7, 2.5)  # seconds, before the subject's tempo

# What a generator is for; part of its seed, so that no two uses share numbers.
ROOM, SUBJECT, TAKE, MOTION, FURNITURE, STAND, LAMP, NOISE = range(8)


class ClipNumbers(NamedTuple):
    """The five numbers of a clip's name."""

    setup: int
    camera: int
    subject: int
    repetition: int
    action: int

    @property
    def name(self) -> str:
        return "S{:03d}C{:03d}P{:03d}R{:03d}A{:03d}".format(*self)


def generator(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """A counter-based generator for one purpose and key; equal arguments, equal numbers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose, *key])))


def film(
    clip: ClipNumbers, seed: int, people: bool = True
) -> tuple[UInt8[np.ndarray, "t h w 3"], UInt8[np.ndarray, "u h w"]]:
    """The RGB frames and the infrared frames of one clip.

    The infrared recording starts a little later or earlier and has another frame rate, as the two
    sensors of a Kinect are not triggered together. Without `people` the same cameras film the
    same room with a chair in it, and nobody.
    """
    look = actors.subject(generator(seed, SUBJECT, clip.subject))
    take = generator(seed, TAKE, *clip[2:])
    duration = take.uniform(*DURATION) / look.tempo
    turn = np.deg2rad((10 if clip.repetition % 2 else -10) + take.uniform(-8, 8))
    spot = np.array([take.uniform(-0.08, 0.08), 0.0, take.uniform(-0.08, 0.08)])
    moment = generator(seed, LAMP, *clip)
    begin, end = moment.uniform(0.0, 0.12, 2)
    instants = {
        "rgb": np.arange(0.0, duration, 1 / RGB_RATE),
        "infrared": np.arange(begin, duration - end, 1 / INFRARED_RATE),
    }
    scenes = {
        kind: _scene(clip, look, seconds, duration, seed, turn, spot) if people
        else _left_alone(clip, len(seconds), seed, turn)
        for kind, seconds in instants.items()
    }  # fmt: skip
    panels = rooms.room(generator(seed, ROOM, clip.setup))
    stand, noise = generator(seed, STAND, *clip), generator(seed, NOISE, *clip)
    return shoot(scenes, panels, look.body.height, AZIMUTHS[clip.camera], stand, moment, noise)


def shoot(
    scenes: dict[str, list[Solid]], panels: list[rooms.Panel], tall: float, azimuth: float,
    stand: np.random.Generator, moment: np.random.Generator, noise: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "t h w 3"], UInt8[np.ndarray, "u h w"]]:  # fmt: skip
    """What both cameras record of `scenes` ("rgb" and "infrared") with a person so `tall`.

    They stand near `azimuth` (degrees) where `stand` puts them; `moment` draws the lamp and the
    grain of colours, `noise` the infrared sensor.
    """
    around = np.deg2rad(azimuth + stand.uniform(-5, 5))
    distance = stand.uniform(1.2, 1.3) * tall  # people fill the frame alike
    height = stand.uniform(1.0, 1.3)
    target = np.array([stand.uniform(-0.08, 0.08), tall * stand.uniform(0.52, 0.56), 0.1])
    place = (around, distance, height, target)
    colour = rendering.camera(*place, RGB_VIEW, RGB_SIZE)
    infrared = rendering.camera(*place, INFRARED_VIEW, INFRARED_SIZE, aside=0.06)
    lamp = moment.uniform(0.92, 1.06) * (1 + moment.normal(0, 0.015, 3))
    still = rooms.backdrop(panels, colour, moment, lamp=lamp)
    rgb = rendering.film_rgb(scenes["rgb"], colour, still, lamp, moment)
    faults = rendering.sensor(INFRARED_SIZE, noise)
    still = rooms.backdrop(panels, infrared, noise, lamp=None)
    grey = rendering.film_infrared(scenes["infrared"], infrared, still, faults, noise)
    return rgb, grey


def _scene(
    clip: ClipNumbers, look: Look, seconds: np.ndarray, duration: float, seed: int, turn: float,
    spot: np.ndarray,
) -> list[Solid]:  # fmt: skip
    """Everything that stands in the room at `seconds`, turned and moved to its place."""
    key = clip[2:]
    acted = motions.perform(
        clip.action, seconds, duration, look.body, look.side, generator(seed, MOTION, *key)
    )
    furniture = generator(seed, FURNITURE, *key)
    solids = actors.person(look, acted)
    for thing in acted.props:
        solids += things.prop(thing, furniture)
    if acted.chair:
        solids += things.chair(*acted.chair, len(seconds), furniture)
    return placed(solids, turn, spot)


def _left_alone(clip: ClipNumbers, frames: int, seed: int, turn: float) -> list[Solid]:
    """A chair somewhere in the room."""
    furniture = generator(seed, FURNITURE, *clip)
    spot = np.array([furniture.uniform(-1, 1), 0.0, furniture.uniform(-1, 0.3)])
    return placed(things.chair(0.0, 0.0, frames, furniture), turn, spot)


def placed(solids: list[Solid], turn: float, spot: np.ndarray) -> list[Solid]:
    cos, sin = np.cos(turn), np.sin(turn)
    about_y = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
    return [solid._replace(centres=solid.centres @ about_y.T + spot) for solid in solids]

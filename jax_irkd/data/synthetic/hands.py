"""Raw films of hand gestures in one's own classes' layout: generated, and nothing like the people.

Writes OUT/{train,test}/{rgb,infrared}/GESTURE/PERSON__TAKE.avi for the builder folder_ir; every
second person tests. The cameras are those of the people's films, a hand's breadth away from a hand
six times life-size. As there, every number comes from the seed and the clip's own name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from jax_irkd.data.synthetic import actors, filming, recording, rendering, rooms, staging
from jax_irkd.data.synthetic.actors import Look, Solid
from jax_irkd.errors import UserError

VERSION = 1  # raise it when the pictures change, as in `filming`
SIZE = 6.0  # times life
# Thumb to little finger: knuckle (right, up; metres from the palm's centre), direction in degrees
# from up, and length.
FINGERS = (
    ((-0.040, -0.010), -50.0, 0.060),
    ((-0.030, 0.045), -9.0, 0.072),
    ((-0.010, 0.050), -2.0, 0.080),
    ((0.011, 0.047), 5.0, 0.074),
    ((0.030, 0.038), 13.0, 0.058),
)
GESTURE, PLACE, LIGHT = range(100, 103)  # purposes of generators beside those of `staging`


class Pose(NamedTuple):
    """A hand over time: where, turned by how much (radians, clockwise), and each finger's curl."""

    right: Float[np.ndarray, " t"]  # metres, before `SIZE`
    up: Float[np.ndarray, " t"]
    turn: Float[np.ndarray, " t"]
    curl: Float[np.ndarray, "t 5"]  # 0 straight, 1 folded onto the palm


def _held(phase: np.ndarray, *curl: float) -> np.ndarray:
    return np.broadcast_to(np.array(curl, float), (len(phase), 5)).copy()


def _still(phase: np.ndarray, rng: np.random.Generator, *curl: float) -> Pose:
    sway = 0.006 * np.sin(2 * np.pi * (rng.uniform(0.5, 1.0) * phase + rng.uniform()))
    return Pose(sway, sway[::-1], rng.uniform(-0.2, 0.2) + 2 * sway, _held(phase, *curl))


def _wave_of(phase: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    return np.sin(2 * np.pi * (rng.uniform(low, high) * phase + rng.uniform()))


def circle(phase, rng):
    """The pointing finger draws circles."""
    pose, angle = _still(phase, rng, 0.9, 0, 1, 1, 1), 2 * np.pi * (rng.uniform(1.5, 2.5) * phase)
    reach, start = rng.uniform(0.03, 0.05), rng.uniform(0, 2 * np.pi)
    return pose._replace(
        right=reach * np.cos(angle + start), up=reach * np.sin(angle + start), turn=0.3 * pose.turn
    )


def fist(phase, rng):
    """Opens and closes."""
    pose, beat = _still(phase, rng, 0, 0, 0, 0, 0), 0.5 + 0.5 * _wave_of(phase, rng, 1.5, 2.5)
    return pose._replace(curl=np.repeat(beat[:, None], 5, axis=1))


def pinch(phase, rng):
    """Thumb and forefinger meet, the others stay straight."""
    pose, beat = _still(phase, rng, 0, 0, 0, 0, 0), 0.5 + 0.5 * _wave_of(phase, rng, 1.5, 2.5)
    pose.curl[:, :2] = (0.7 * beat)[:, None]
    return pose


def point(phase, rng):
    """The forefinger points and pokes upwards."""
    pose = _still(phase, rng, 0.9, 0, 1, 1, 1)
    return pose._replace(up=pose.up + 0.03 * _wave_of(phase, rng, 1.5, 2.5))


def swipe(phase, rng):
    """The open hand goes from one side to the other."""
    pose, way = _still(phase, rng, 0, 0, 0, 0, 0), rng.choice([-1, 1])
    return pose._replace(right=way * 0.08 * np.tanh(6 * (phase - rng.uniform(0.4, 0.6))))


def thumb_up(phase, rng):
    """A fist on its side, the thumb up."""
    pose = _still(phase, rng, 0, 1, 1, 1, 1)
    return pose._replace(turn=pose.turn + 0.85)


def two(phase, rng):
    """Two fingers up."""
    return _still(phase, rng, 0.9, 0, 0, 1, 1)


def wave(phase, rng):
    """The open hand turns about the wrist."""
    pose = _still(phase, rng, 0, 0, 0, 0, 0)
    return pose._replace(turn=rng.uniform(0.35, 0.6) * _wave_of(phase, rng, 1.5, 2.5))


GESTURES: dict[str, Callable[[np.ndarray, np.random.Generator], Pose]] = {
    gesture.__name__: gesture
    for gesture in (circle, fist, pinch, point, swipe, thumb_up, two, wave)
}


def hand(look: Look, pose: Pose) -> list[Solid]:
    """Forearm, palm and five fingers of two parts, before the camera at height 1.2 metres."""
    cos, sin = np.cos(pose.turn), np.sin(pose.turn)

    def place(right, up, near):
        """Palm coordinates (metres) to world: turned about the wrist, moved and enlarged."""
        right, up = -look.side * right + 0 * cos, up + 0.06 + 0 * cos
        x = cos * right + sin * up + pose.right
        y = cos * up - sin * right - 0.06 + pose.up
        return SIZE * np.stack([x, y + 0.2, near + 0 * cos], axis=-1)

    def solid(points, radii, color, part, nearer=0.0):
        centres = np.stack([place(*point) for point in points], axis=1)
        return Solid(centres, SIZE * np.array(radii), color, look.infrared[part], nearer=nearer)

    corners = [(-0.022, -0.04, 0), (0.022, -0.04, 0), (-0.026, 0.03, 0), (0.026, 0.028, 0)]
    made = [
        solid([(0, -0.07, -0.01), (0, -0.3, -0.03)], (0.03, 0.042), look.shirt, "shirt", -0.1),
        solid(corners, (0.02, 0.02, 0.018, 0.018), look.skin, "skin"),
    ]
    shade = tuple(0.86 * part for part in look.skin)  # fingers stand out from the palm
    for (x, y), degrees, length, curl in zip(*zip(*FINGERS), pose.curl.T):
        across, along = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
        middle, end = length * (0.55 - 0.2 * curl), length * (1.0 - 0.95 * curl)
        near = 0.03 * curl
        joints = [(x, y, 0), (x + across * middle, y + along * middle, near),
                  (x + across * end, y + along * end, 1.2 * near)]  # fmt: skip
        for first in (0, 1):
            made.append(solid(joints[first : first + 2], (0.011, 0.0095), shade, "skin", 0.1))
    return made


def film(
    name: str, person: int, take: int, seed: int
) -> tuple[UInt8[np.ndarray, "t h w 3"], UInt8[np.ndarray, "u h w"]]:
    """RGB and infrared frames of one gesture. Raises KeyError for an unknown one."""
    number = list(GESTURES).index(name)
    key = (person, take, number)
    look = actors.subject(staging.generator(seed, staging.SUBJECT, 1000 + person))
    place = staging.generator(seed, PLACE, *key)
    duration = place.uniform(1.6, 2.4)
    panels = rooms.room(staging.generator(seed, staging.ROOM, 1000 + person % 5))
    stand = (
        np.deg2rad(place.uniform(-25, 25)), place.uniform(1.7, 2.1), place.uniform(1.0, 1.5),
        np.array([place.uniform(-0.15, 0.15), 1.25 + place.uniform(-0.1, 0.1), 0.0]),
    )  # fmt: skip
    colour = rendering.camera(*stand, staging.RGB_VIEW, staging.RGB_SIZE)
    infrared = rendering.camera(*stand, staging.INFRARED_VIEW, staging.INFRARED_SIZE, aside=0.06)

    def solids(rate):
        phase = np.arange(0.0, duration, 1 / rate) / duration
        return hand(look, GESTURES[name](phase, staging.generator(seed, GESTURE, *key)))

    light = staging.generator(seed, LIGHT, *key)
    lamp = light.uniform(0.92, 1.06) * (1 + light.normal(0, 0.015, 3))
    still = rooms.backdrop(panels, colour, light, lamp=lamp)
    rgb = rendering.film_rgb(solids(staging.RGB_RATE), colour, still, lamp, light)
    faults = rendering.sensor(staging.INFRARED_SIZE, light)
    still = rooms.backdrop(panels, infrared, light, lamp=None)
    scene = solids(staging.INFRARED_RATE)
    return rgb, rendering.film_infrared(scene, infrared, still, faults, light)


def generate(out: str | Path, *, people: int = 40, takes: int = 3, seed: int = 0) -> int:
    """Writes the films that `out` does not hold yet; the number of pairs it then holds.

    Raises UserError for numbers below 1, a folder that cannot be written and one that holds
    anything else: gestures of another seed, too.
    """
    if people < 2 or takes < 1 or seed < 0:
        raise UserError(
            f"people must be 2 or more, takes 1 or more, seed 0 or more, not {people}, {takes} "
            f"and {seed}"
        )
    pairs, settings = 0, {"of": "hands", "version": VERSION, "seed": seed}
    filming.claim(Path(out), settings, [Path(out)])
    for person in range(1, people + 1):
        for take in range(1, takes + 1):
            for name in GESTURES:
                _write(Path(out), name, person, take, seed)
                pairs += 1
    return pairs


def _write(root: Path, name: str, person: int, take: int, seed: int) -> None:
    split = "test" if person % 2 == 0 else "train"
    paths = [
        root / split / kind / name / f"P{person:03d}__T{take}.avi" for kind in ("rgb", "infrared")
    ]
    if all(path.exists() for path in paths):
        return
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        rgb, infrared = film(name, person, take, seed)
        recording.write_rgb(paths[0], rgb, staging.RGB_RATE, "h264")
        recording.write_infrared(paths[1], infrared, staging.INFRARED_RATE)
    except OSError as error:
        raise UserError(f"cannot write the gestures to {root}: {error}") from error

"""Furniture and held objects as solids."""

import colorsys

import numpy as np

from jax_irkd.data.actors import Solid
from jax_irkd.data.motions import Prop
from jax_irkd.data.skeleton import SEAT

# Colours of each kind of thing (hue, saturation, value); one is drawn per take.
COLORS = {
    "cup": ((0.60, 0.85, 0.95), (0.56, 0.7, 1.0), (0.0, 0.0, 1.0)),
    "bottle": ((0.55, 0.6, 1.0), (0.60, 0.75, 0.95)),
    "apple": ((0.0, 0.9, 0.85), (0.30, 0.8, 0.75)),
    "bread": ((0.09, 0.65, 0.90), (0.11, 0.55, 0.95)),
    "bowl": ((0.0, 0.0, 0.95), (0.12, 0.25, 0.95)),
    "toothbrush": ((0.45, 0.9, 0.95), (0.48, 0.8, 1.0), (0.90, 0.7, 1.0)),
    "hairbrush": ((0.80, 0.85, 0.65), (0.83, 0.7, 0.8)),
    "ball": ((0.17, 0.95, 1.0), (0.05, 0.95, 1.0)),
    "box": ((0.05, 0.95, 1.0), (0.15, 0.95, 1.0)),
}
FADING = 0.85  # how far the infrared reflectance of small things goes towards that of skin


def prop(thing: Prop, skin: float, rng: np.random.Generator) -> list[Solid]:
    """A held object. In infrared it has nearly the reflectance of the hand that holds it."""
    hue, saturation, value = COLORS[thing.kind][int(rng.integers(len(COLORS[thing.kind])))]
    color = colorsys.hsv_to_rgb((hue + rng.uniform(-0.015, 0.015)) % 1.0, saturation, value)
    infrared = FADING * skin + (1 - FADING) * rng.uniform(0.1, 0.9)
    return [
        Solid(
            thing.position[:, None] + np.array(offsets)[None, :, None] * thing.axis[:, None],
            np.array(radii), tuple(shade * part for part in color), infrared, nearer=nearer,
        )
        for offsets, radii, shade, nearer in SHAPES[thing.kind]
    ]  # fmt: skip


# Kind to parts: places along the axis, radii there (metres), shade of the colour, nearness.
# A little larger than life: at 96 pixels a real toothbrush would be half a pixel thick.
SHAPES = {
    "cup": [((-0.05, 0.06), (0.042, 0.055), 1.0, 0.14)],
    "bottle": [((-0.08, 0.06), (0.044, 0.044), 1.0, 0.14), ((0.06, 0.16), (0.03, 0.02), 0.8, 0.14)],
    "apple": [((0.0,), (0.062,), 1.0, 0.14)],
    "bread": [((-0.04, 0.05), (0.062, 0.058), 1.0, 0.14)],
    "bowl": [((-0.01, 0.03), (0.07, 0.1), 1.0, 0.1)],
    "toothbrush": [
        ((-0.1, 0.1), (0.018, 0.018), 1.0, 0.16), ((0.08, 0.12), (0.026, 0.026), 0.9, 0.17),
    ],
    "hairbrush": [
        ((-0.1, 0.0), (0.026, 0.026), 0.7, 0.14), ((0.0, 0.12), (0.055, 0.055), 1.0, 0.15),
    ],
    "ball": [((0.0,), (0.085,), 1.0, 0.12)],
    "box": [((-0.06, 0.06), (0.07, 0.07), 1.0, 0.12)],
}  # fmt: skip


def chair(x: float, z: float, frames: int, rng: np.random.Generator) -> list[Solid]:
    """A chair that faces +z, the centre of its seat at `x`, `z`."""
    color = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.6))
    infrared, half = rng.uniform(0.2, 0.6), 0.2

    def solid(points, radius, shade=1.0, nearer=0.0):
        centres = np.broadcast_to(np.add(points, [x, 0.0, z]), (frames, len(points), 3))
        paint = tuple(shade * part for part in color)
        return Solid(centres, np.full(len(points), radius), paint, infrared, False, nearer)

    corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    legs = [solid([(a, 0.02, b), (a, SEAT - 0.03, b)], 0.018, 0.7) for a, b in corners]
    seat = solid([(a, SEAT - 0.02, b) for a, b in corners], 0.022, nearer=-0.1)
    back = solid(
        [(a, y, -half) for a in (-half, half) for y in (SEAT + 0.15, SEAT + 0.45)], 0.02, 0.85
    )
    return [*legs, seat, back]

"""Furniture and held objects as solids."""

import colorsys

import numpy as np

from jax_irkd.data.synthetic.acting import Prop
from jax_irkd.data.synthetic.actors import Solid
from jax_irkd.data.synthetic.skeleton import SEAT

# Reflectance near 850 nm of small things, whatever they are: most differ from the hand that holds
# them and the cloth behind, so that infrared shows them too, if less clearly than colour does.
INFRARED = (0.1, 0.7)


def prop(thing: Prop, rng: np.random.Generator) -> list[Solid]:
    """A held object, in a colour and with a reflectance that say nothing of what it is."""
    color = _paint(rng)
    reflectance = rng.uniform(*INFRARED)
    if thing.kind == "bowl":
        return _bowl(thing, color, reflectance, rng)
    return [
        Solid(
            thing.position[:, None] + np.array(offsets)[None, :, None] * thing.axis[:, None],
            np.array(radii), tuple(shade * part for part in color), reflectance, nearer=nearer,
        )
        for offsets, radii, shade, nearer in SHAPES[thing.kind]
    ]  # fmt: skip


def _paint(rng: np.random.Generator) -> tuple[float, float, float]:
    """Any hue, vivid and bright: clothes are neither, so that things stand out in colour."""
    return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.5, 0.95), rng.uniform(0.75, 1.0))


def _bowl(
    thing: Prop, color: tuple[float, float, float], reflectance: float, rng: np.random.Generator
) -> list[Solid]:
    """A dish wider at the rim than at the foot, and what is left of the meal."""
    angle = np.arange(8) * np.pi / 4
    ring = np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=-1)
    outline = np.concatenate([0.07 * ring, 0.14 * ring + [0, 0.1, 0]])
    dish = thing.position[:, None] + outline
    meal = thing.position[:, None] + 0.08 * ring + [0, 0.1, 0]
    food = _paint(rng)
    return [
        Solid(dish, np.full(16, 0.015), color, reflectance, nearer=0.1),
        Solid(meal, np.full(8, 0.03), food, reflectance, nearer=0.12),
    ]


# Kind to parts: places along the axis, radii there (metres), shade of the colour, nearness.
# A little larger than life: at 96 pixels a real toothbrush would be half a pixel thick.
SHAPES = {
    "cup": [((-0.06, 0.09), (0.055, 0.072), 1.0, 0.14)],
    "bottle": [((-0.1, 0.08), (0.058, 0.058), 1.0, 0.14), ((0.08, 0.19), (0.04, 0.026), 0.8, 0.14)],
    "apple": [((0.0,), (0.08,), 1.0, 0.14)],
    "bread": [((-0.05, 0.06), (0.075, 0.07), 1.0, 0.14)],
    "toothbrush": [
        ((-0.13, 0.12), (0.024, 0.024), 1.0, 0.16), ((0.09, 0.14), (0.034, 0.034), 0.9, 0.17),
    ],
    "tumbler": [((-0.06, 0.09), (0.05, 0.06), 1.0, 0.14)],
    "towel": [((-0.17, 0.17), (0.055, 0.055), 1.0, 0.16)],
    "hairbrush": [
        ((-0.13, 0.0), (0.032, 0.032), 0.8, 0.14), ((0.0, 0.14), (0.07, 0.07), 1.0, 0.15),
    ],
    "mirror": [((-0.1, 0.0), (0.025, 0.025), 0.8, 0.12), ((0.1, 0.12), (0.09, 0.09), 1.0, 0.13)],
    "ball": [((0.0,), (0.11,), 1.0, 0.12)],
    "box": [((-0.07, 0.07), (0.09, 0.09), 1.0, 0.12)],
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

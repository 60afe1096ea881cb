"""Bodies, clothes and things as solids: what a camera can draw.

A `Solid` is the hull of a few spheres. Its colour is what the RGB camera sees; `infrared` is its
reflectance near 850 nm, which for cloth has nothing to do with the colour.
"""

import colorsys
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jax_irkd.data.synthetic.acting import Performance
from jax_irkd.data.synthetic.skeleton import Body, Points

SKIN_TONES = ((0.94, 0.78, 0.68), (0.86, 0.66, 0.53), (0.76, 0.55, 0.41), (0.52, 0.35, 0.25))
HAIR_TONES = ((0.10, 0.08, 0.07), (0.20, 0.13, 0.08), (0.42, 0.28, 0.15), (0.62, 0.50, 0.30))


class Solid(NamedTuple):
    """The hull of `n` spheres moving over time."""

    centres: Float[np.ndarray, "t n 3"]
    radii: Float[np.ndarray, " n"]
    color: tuple[float, float, float]  # 0 to 1
    infrared: float  # 0 to 1
    round: bool = True  # shaded as a rounded thing
    nearer: float = 0.0  # metres by which it is taken to be nearer, to lie on another solid


class Look(NamedTuple):
    """One subject."""

    body: Body
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    shirt: tuple[float, float, float]
    stripe: tuple[float, float, float]
    trousers: tuple[float, float, float]
    shoes: tuple[float, float, float]
    infrared: dict[str, float]  # reflectance of skin, hair, shirt, stripe, trousers, shoes
    sleeves: str  # "long" or "short"
    pattern: str  # "plain", "stripes" or "print"
    long_hair: bool
    side: int  # -1 right-handed, 1 left-handed
    tempo: float


def subject(rng: np.random.Generator) -> Look:
    """Draws a person: size, clothes, hair, handedness and tempo."""

    def pick(options):
        return options[int(rng.integers(len(options)))]

    def cloth(low, high):
        saturation = rng.uniform(0.0, 0.3)
        return colorsys.hsv_to_rgb(rng.uniform(), saturation, rng.uniform(low, high))

    height = rng.uniform(1.56, 1.86)
    body = Body(
        height,
        height * rng.uniform(0.105, 0.125),
        height * rng.uniform(0.050, 0.060),
        rng.uniform(0.88, 1.18),
    )
    names = ("skin", "hair", "shirt", "stripe", "trousers", "shoes")
    bounds = ((0.5, 0.65), (0.2, 0.5), (0.2, 0.6), (0.2, 0.6), (0.2, 0.6), (0.2, 0.6))
    return Look(
        body=body,
        skin=pick(SKIN_TONES),
        hair=pick(HAIR_TONES),
        shirt=(shirt := cloth(0.2, 0.6)),
        stripe=tuple(min(1.0, rng.uniform(1.15, 1.35) * part) for part in shirt),
        trousers=cloth(0.12, 0.45),
        shoes=cloth(0.1, 0.9),
        infrared={name: rng.uniform(*bound) for name, bound in zip(names, bounds)},
        sleeves=pick(("long", "short")),
        pattern=pick(("plain", "stripes", "print")),
        long_hair=bool(rng.uniform() < 0.4),
        side=1 if rng.uniform() < 0.15 else -1,
        tempo=rng.uniform(0.8, 1.25),
    )


def person(look: Look, performance: Performance) -> list[Solid]:
    """The clothed body around the joints."""
    joints, girth = performance.joints, look.body.girth
    solids = [_torso(look, joints), *_pattern(look, performance), *_head(look, performance)]

    def limb(names, thick, color, part, nearer=0.0):
        centres = np.stack([joints[name] for name in names], axis=1)
        radii = np.array(thick) * girth
        solids.append(Solid(centres, radii, color, look.infrared[part], nearer=nearer))

    forearm = (look.shirt, "shirt") if look.sleeves == "long" else (look.skin, "skin")
    sleeve = tuple(0.78 * value for value in look.shirt)  # an arm stands out from the chest
    for side in ("left", "right"):
        limb([f"{side}_hip", f"{side}_knee"], (0.088, 0.062), look.trousers, "trousers", -0.07)
        limb([f"{side}_knee", f"{side}_ankle"], (0.060, 0.046), look.trousers, "trousers")
        limb([f"{side}_ankle", f"{side}_toe"], (0.045, 0.036), look.shoes, "shoes", 0.02)
        limb([f"{side}_shoulder", f"{side}_elbow"], (0.058, 0.046), sleeve, "shirt", 0.04)
        limb([f"{side}_elbow", f"{side}_wrist"], (0.043, 0.034), *forearm, 0.06)
        limb([f"{side}_wrist", f"{side}_hand"], (0.034, 0.047), look.skin, "skin", 0.08)
    return solids


def _torso(look: Look, joints: dict[str, Points]) -> Solid:
    names = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    centres = np.stack([joints[name] for name in names], axis=1)
    middle = centres.mean(axis=1, keepdims=True)
    centres[:, :2] += 0.13 * (middle - centres[:, :2])
    radii = np.array([0.078, 0.078, 0.095, 0.095]) * look.body.girth
    return Solid(centres, radii, look.shirt, look.infrared["shirt"])


def _pattern(look: Look, performance: Performance) -> list[Solid]:
    """Stripes or a print on the chest: seen by the RGB camera, all but lost in infrared."""
    joints = performance.joints
    left, right = joints["left_shoulder"], joints["right_shoulder"]
    low_left, low_right = joints["left_hip"], joints["right_hip"]
    across = left - right
    front = np.cross(across, 0.5 * (left + right - low_left - low_right))
    front = front / np.maximum(np.linalg.norm(front, axis=-1, keepdims=True), 1e-6)
    bands = {"plain": (), "stripes": (0.25, 0.45, 0.65, 0.85), "print": (0.3,)}[look.pattern]
    shirt, stripe = look.infrared["shirt"], look.infrared["stripe"]
    solids = []
    for level in bands:
        start = left + (low_left - left) * level - 0.08 * across
        end = right + (low_right - right) * level + 0.08 * across
        centres = np.stack([start, end], axis=1) + 0.07 * look.body.girth * front[:, None]
        radius = 0.016
        if look.pattern == "print":
            centres = centres.mean(axis=1, keepdims=True) + 0.25 * (
                centres - centres.mean(axis=1, keepdims=True)
            )
            radius = 0.055
        solids.append(
            Solid(centres, np.full(2, radius), look.stripe, 0.8 * shirt + 0.2 * stripe, False, 0.03)
        )
    return solids


def _head(look: Look, performance: Performance) -> list[Solid]:
    joints, forward = performance.joints, performance.face
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    head, neck, size = joints["head"], joints["neck"], 0.066 * look.body.height
    up = head - neck
    up = up / np.linalg.norm(up, axis=-1, keepdims=True)
    side = np.cross(up, forward)

    def at(x, y, z):
        return head + size * (x * side + y * up + z * forward)

    hair, skin = look.infrared["hair"], look.infrared["skin"]
    fringe = np.stack([at(-0.4, 0.74, 0.42), at(0.4, 0.74, 0.42)], 1)
    solids = [
        Solid(np.stack([neck, at(0, -0.4, 0)], 1), np.array([0.05, 0.045]), look.skin, skin),
        Solid(np.stack([at(0, 0.08, 0.2), at(0, -0.55, 0.25)], 1), np.array([0.88, 0.66]) * size,
              look.skin, skin, nearer=0.02),
        Solid(np.stack([at(0, 0.42, -0.1), at(0, 0.0, -0.38)], 1), np.array([0.98, 0.8]) * size,
              look.hair, hair),
        Solid(fringe, np.full(2, 0.36) * size, look.hair, hair, nearer=0.03),
    ]  # fmt: skip
    if look.long_hair:
        back = np.stack([at(0, 0.2, -0.55), at(0, -1.5, -0.6)], 1)
        solids.append(Solid(back, np.array([0.75, 0.6]) * size, look.hair, hair))
    dark, red = (0.13, 0.10, 0.10), tuple(0.75 * c for c in (look.skin[0], 0.45, 0.42))
    for x in (-0.36, 0.36):
        eye = at(x, 0.12, 1.0)[:, None]
        solids.append(Solid(eye, np.array([0.013]), dark, 0.9 * skin, False, 0.03))
    mouth = np.stack([at(-0.25, -0.62, 0.92), at(0.25, -0.62, 0.92)], 1)
    solids.append(Solid(mouth, np.array([0.011, 0.011]), red, skin, False, 0.03))
    return solids

"""Rooms: the still background that both cameras look at."""

import colorsys
from typing import NamedTuple

import cv2
import numpy as np

from jax_irkd.data.synthetic.rendering import LAMP_RANGE, NEAR, SUPERSAMPLING, Camera


class Panel(NamedTuple):
    """A flat polygon in the world."""

    corners: np.ndarray  # n 3
    color: tuple[float, float, float]
    infrared: float


def room(rng: np.random.Generator) -> list[Panel]:
    """Floor, three walls, and a few posters, doors and shelves, far ones first."""
    back, wide, high = rng.uniform(1.5, 2.4), rng.uniform(2.0, 3.0), 2.8
    hue = rng.uniform()

    def paint(saturation, dark, bright):
        return colorsys.hsv_to_rgb(
            (hue + rng.normal(0, 0.06)) % 1,
            rng.uniform(0.02, saturation),
            rng.uniform(dark, bright),
        )

    wall, floor = paint(0.05, 0.76, 0.88), paint(0.10, 0.45, 0.6)
    wall_infrared, floor_infrared = rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.6)

    def upright(start, end, low, top, color, infrared):
        corners = [(*start, low), (*end, low), (*end, top), (*start, top)]
        return Panel(np.array([(x, y, z) for x, z, y in corners]), color, infrared)

    corners = [(-wide, 4.5), (-wide, -back), (wide, -back), (wide, 4.5)]
    panels = [Panel(np.array([(x, 0.0, z) for x, z in corners]), floor, floor_infrared)]
    ceiling = tuple(min(1.0, 1.08 * part) for part in wall)
    panels.append(Panel(np.array([(x, high, z) for x, z in corners]), ceiling, 0.5 * wall_infrared))
    for i, shade in enumerate((0.86, 1.0, 0.93)):
        (x0, z0), (x1, z1) = np.array(corners[i]), np.array(corners[i + 1])
        color = tuple(shade * part for part in wall)
        panels.append(upright((x0, z0), (x1, z1), 0.0, high, color, wall_infrared))
        skirting = tuple(0.6 * part for part in wall)
        panels.append(upright((x0, z0), (x1, z1), 0.0, 0.1, skirting, 0.8 * wall_infrared))
        for _ in range(int(rng.integers(1, 4))):
            at, width = rng.uniform(0.1, 0.8), rng.uniform(0.08, 0.25)
            low = rng.choice([0.0, rng.uniform(0.7, 1.5)])
            top = low + rng.uniform(0.4, 1.1) + (1.2 if low == 0 else 0)
            ends = [(x0 + (x1 - x0) * a, z0 + (z1 - z0) * a) for a in (at, at + width)]
            paper = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.2), rng.uniform(0.5, 0.95))
            infrared = 0.6 * wall_infrared + 0.4 * rng.uniform(0.2, 1.0)
            panels.append(upright(*ends, low, top, paper, infrared))
    return panels


def backdrop(
    panels: list[Panel], view: Camera, rng: np.random.Generator, *, lamp: np.ndarray | None
) -> np.ndarray:
    """The empty room at twice the camera's size: `H W 3`, or `H W` for infrared (`lamp` None)."""
    width, height = (SUPERSAMPLING * side for side in view.size)
    large = view._replace(focal=SUPERSAMPLING * view.focal, size=(width, height))
    image = np.zeros((height, width, 3) if lamp is not None else (height, width), np.uint8)
    for panel in panels:
        seen = _clip((panel.corners - view.position) @ view.axes.T)
        if len(seen) < 3:
            continue
        pixels = seen[:, :2] / seen[:, 2:] * large.focal + [width / 2, height / 2]
        if lamp is not None:
            color = tuple(np.minimum(255 * np.array(panel.color) * lamp, 255).tolist())
        else:
            far = np.linalg.norm(panel.corners.mean(axis=0)[[0, 2]] - view.position[[0, 2]])
            color = (min(255.0, 215 * panel.infrared * (LAMP_RANGE / far) ** 2),)
        cv2.fillPoly(image, [np.rint(pixels * 8).astype(np.int32)], color, cv2.LINE_AA, 3)
    return _mottle(_shadow(image, large), rng, 0.04 if lamp is not None else 0.10)


def _clip(points: np.ndarray) -> np.ndarray:
    """The part of a polygon (camera axes) in front of the near plane."""
    kept = []
    for start, end in zip(points, np.roll(points, -1, axis=0)):
        if start[2] > NEAR:
            kept.append(start)
        if (start[2] > NEAR) != (end[2] > NEAR):
            kept.append(start + (end - start) * (NEAR - start[2]) / (end[2] - start[2]))
    return np.array(kept)


def _shadow(image: np.ndarray, view: Camera) -> np.ndarray:
    """A soft shadow on the floor where the person stands."""
    angle = np.arange(24) * np.pi / 12
    ring = np.stack([0.38 * np.cos(angle), 0 * angle, 0.3 * np.sin(angle)], axis=-1)
    pixels, _ = view.project(ring)
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.rint(pixels).astype(np.int32)], (90,))
    mask = cv2.GaussianBlur(mask, (0, 0), view.size[1] / 50)
    weight = 1 - mask.astype(np.float32) / 255
    weight = weight if image.ndim == 2 else weight[..., None]
    return (image * weight).astype(np.uint8)


def _mottle(image: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Uneven light and surfaces: smooth random brightness at two scales."""
    height, width = image.shape[:2]
    field = np.ones((height, width), np.float32)
    for cells, part in ((4, 1.0), (24, 0.5)):
        coarse = rng.normal(0, part * strength, (cells, cells)).astype(np.float32)
        field += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    field = field if image.ndim == 2 else field[..., None]
    return np.clip(image * field, 0, 255).astype(np.uint8)

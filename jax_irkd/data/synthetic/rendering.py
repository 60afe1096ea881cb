"""Two cameras that look at the same solids: a clean RGB camera and a night-vision infrared one.

Everything is drawn at twice the size and reduced, which gives smooth edges. The RGB camera sees
colour under a lamp from above; the infrared one sees what its own weak lamp beside the lens gets
back: reflectance over squared distance, through vignetting, hot spots, blur and noise.
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from jax_irkd.data.synthetic.actors import Solid

SUPERSAMPLING = 2
FRACTION_BITS = 3  # of pixel coordinates handed to OpenCV
CIRCLE = np.stack([np.cos(t := np.arange(12) * np.pi / 6), np.sin(t)], axis=-1)
NEAR = 0.35  # metres; nothing nearer is drawn
LAMP_RANGE = 2.2  # metres at which the infrared lamp gives full light


class Camera(NamedTuple):
    """A pinhole camera that stands `position` and looks along the third row of `axes`."""

    position: Float[np.ndarray, " 3"]
    axes: Float[np.ndarray, "3 3"]  # rows: right, down, forward
    focal: float  # pixels
    size: tuple[int, int]  # width, height

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels `... 2` and depth `...` (metres, at least NEAR) of world points `... 3`."""
        seen = (points - self.position) @ self.axes.T
        depth = np.maximum(seen[..., 2], NEAR)
        centre = 0.5 * np.array(self.size)
        return seen[..., :2] / depth[..., None] * self.focal + centre, depth


def camera(
    azimuth: float, distance: float, height: float, target: np.ndarray, view: float,
    size: tuple[int, int], aside: float = 0.0,
) -> Camera:  # fmt: skip
    """A camera at `azimuth` (radians from +z) that looks at `target`.

    `view` is the horizontal field of view in radians, `aside` a shift to the right in metres.
    """
    position = np.array([np.sin(azimuth) * distance, height, np.cos(azimuth) * distance])
    forward = target - position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right = right / np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])
    return Camera(position + aside * right, axes, size[0] / 2 / np.tan(view / 2), size)


class _Shape(NamedTuple):
    """A solid as one camera sees it."""

    outline: np.ndarray  # t p 2, fixed-point pixels
    inner: np.ndarray | None  # the part that faces the light
    depth: np.ndarray  # t
    visible: np.ndarray  # t
    solid: Solid


def render(solids: list[Solid], view: Camera, backdrop: np.ndarray, paint) -> list[np.ndarray]:
    """Draws the solids, far ones first, over `backdrop`; one image per instant.

    `paint(solid, depth)` gives the two colours of a solid: in shade and in the light.
    """
    large = view._replace(
        focal=view.focal * SUPERSAMPLING,
        size=(view.size[0] * SUPERSAMPLING, view.size[1] * SUPERSAMPLING),
    )
    shapes = [_shape(solid, large) for solid in solids]
    depths = np.stack([shape.depth for shape in shapes], axis=1)
    frames = []
    for t, order in enumerate(np.argsort(-depths, axis=1, kind="stable")):
        image = backdrop.copy()
        for shape in (shapes[i] for i in order):
            if shape.visible[t]:
                shade, light = paint(shape.solid, shape.depth[t])
                _fill(image, shape.outline[t], shade if shape.inner is not None else light)
                if shape.inner is not None:
                    _fill(image, shape.inner[t], light)
        frames.append(cv2.resize(image, view.size, interpolation=cv2.INTER_AREA))
    return frames


def _shape(solid: Solid, view: Camera) -> _Shape:
    pixels, depth = view.project(solid.centres)
    radii = solid.radii * view.focal / depth
    scale = 1 << FRACTION_BITS

    def outline(part, shift):
        disc = part * CIRCLE + shift
        points = pixels[:, :, None] + radii[:, :, None, None] * disc
        return np.rint(points.reshape(len(points), -1, 2) * scale).astype(np.int32)

    inner = outline(0.68, np.array([-0.15, -0.18])) if solid.round else None
    ordered = depth.mean(axis=1) - solid.nearer
    return _Shape(outline(1.0, 0.0), inner, ordered, depth.min(axis=1) > NEAR + 0.1, solid)


def _fill(image: np.ndarray, points: np.ndarray, color) -> None:
    cv2.fillConvexPoly(image, cv2.convexHull(points), color, cv2.LINE_8, FRACTION_BITS)


# ---------------------------------------------------------------- the RGB camera


def film_rgb(
    solids: list[Solid], view: Camera, backdrop: UInt8[np.ndarray, "H W 3"], lamp: np.ndarray,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "t h w 3"]:  # fmt: skip
    """Frames of the RGB camera. `lamp` is the colour of the light, near (1, 1, 1)."""

    red, green, blue = (255 * float(part) for part in lamp)

    def paint(solid: Solid, depth: float):
        color = red * solid.color[0], green * solid.color[1], blue * solid.color[2]
        return tuple(0.74 * part for part in color), color

    grain = np.rint(rng.normal(0.0, 1.6, (view.size[1], view.size[0], 1))).astype(np.int16)
    frames = np.stack(render(solids, view, backdrop, paint))
    return np.clip(frames + grain, 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- the infrared camera


class Sensor(NamedTuple):
    """The faults of one infrared camera on one day; maps are `h w`."""

    gain: np.ndarray  # vignetting and the lamp's pattern
    glare: np.ndarray  # hot spots, in units of full scale
    pattern: np.ndarray  # fixed-pattern noise
    exposure: float
    noise: float
    blur: float
    flicker: float


def sensor(size: tuple[int, int], rng: np.random.Generator) -> Sensor:
    """Draws the faults of an infrared camera of `size` (width, height)."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (x - width / 2) / width, (y - height / 2) / width
    off_x, off_y = rng.uniform(-0.12, 0.12, 2)
    radius = (x - off_x) ** 2 + (y - off_y) ** 2
    gain = 1 / (1 + rng.uniform(1.0, 2.5) * radius) ** 2
    glare = np.zeros_like(gain)
    for _ in range(int(rng.integers(0, 2))):
        cx, cy, spread = rng.uniform(-0.5, 0.5), rng.uniform(-0.4, 0.4), rng.uniform(0.02, 0.09)
        glare += rng.uniform(0.1, 0.4) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / spread**2)
    pattern = rng.normal(0, 0.012, (1, width)) + rng.normal(0, 0.008, (height, width))
    return Sensor(
        gain.astype(np.float32), glare.astype(np.float32), pattern.astype(np.float32),
        rng.uniform(0.95, 1.3), rng.uniform(0.06, 0.10), rng.uniform(1.7, 2.3),
        rng.uniform(0.0, 0.05),
    )  # fmt: skip


def film_infrared(
    solids: list[Solid], view: Camera, backdrop: UInt8[np.ndarray, "H W"], faults: Sensor,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "t h w"]:  # fmt: skip
    """Frames of the infrared camera, one channel."""

    def paint(solid: Solid, depth: float):
        light = min(255.0, 235 * solid.infrared * (LAMP_RANGE / max(depth, 0.8)) ** 2)
        return (0.82 * light,), (light,)

    frames = []
    for image in render(solids, view, backdrop, paint):
        light = image.astype(np.float32) * (1 / 255) * faults.gain
        light = cv2.GaussianBlur(light + faults.glare, (0, 0), faults.blur)
        light *= faults.exposure * (1 + faults.flicker * rng.standard_normal(dtype=np.float32))
        noise = rng.standard_normal(light.shape, dtype=np.float32)
        light += faults.noise * np.sqrt(0.3 + light) * noise + faults.pattern
        frames.append(np.clip(255 * (0.18 + 0.5 * light), 0, 255).astype(np.uint8))
    return np.stack(frames)

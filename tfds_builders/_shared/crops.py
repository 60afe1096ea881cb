"""The crop file: where the infrared field of view lies in the RGB picture, camera by camera.

JSON, for example with an affine transform fitted to a few points seen in both pictures:

    {"infrared_size": [512, 424], "rgb_size": [1920, 1080],
     "cameras": {"1": [[3.0, 0.0, 192.0], [0.0, 3.0, -96.0]], "2": …, "3": …}}

(x_rgb, y_rgb) = M (x_infrared, y_infrared, 1). PKU-MMD's cameras are called L, M and R.
"""

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared.encoding import CameraCrop


def crops_digest(path: str) -> str:
    """Changes when the file's content does. Raises UserError when it cannot be read."""
    return hashlib.sha256(_read(path)).hexdigest()[:16]


def crop_for(path: str, camera: int | str) -> CameraCrop | None:
    """The crop of one camera; None without a file. Raises UserError for a file that is not one."""
    if not path:
        return None
    crops = load_crops(path)
    if str(camera) not in crops:
        raise UserError(f"{path} has no camera {camera}; it has {sorted(crops)}")
    return crops[str(camera)]


def require_crops(path: str, cameras: Iterable[int | str]) -> None:
    """Raises UserError unless the crop file, if there is one, has all these cameras."""
    for camera in sorted({str(camera) for camera in cameras}):
        crop_for(path, camera)


@functools.lru_cache
def load_crops(path: str) -> dict[str, CameraCrop]:
    """All cameras of a crop file. Raises UserError that names the field at fault."""
    try:
        content = json.loads(_read(path))
        sizes = [_size(content[name]) for name in ("infrared_size", "rgb_size")]
        matrices = {str(k): np.array(v, np.float64) for k, v in content["cameras"].items()}
    except KeyError as error:
        raise UserError(
            f"{path} has no field {error}; it needs infrared_size, rgb_size and cameras"
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a crop file ({error})") from error
    for camera, matrix in matrices.items():
        good = matrix.shape == (2, 3) and np.isfinite(matrix).all()
        if not good or abs(np.linalg.det(matrix[:, :2])) < 1e-6:
            raise UserError(
                f"{path}: camera {camera} has {matrix.tolist()}; it needs an invertible 2x3 matrix"
            )
    return {camera: CameraCrop(matrix, *sizes) for camera, matrix in matrices.items()}


def _size(value: list) -> tuple[int, int]:
    width, height = (int(side) for side in value)
    if width < 1 or height < 1:
        raise ValueError(f"size {value} is not positive")
    return width, height


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the crop file {path}: {error.strerror}") from error

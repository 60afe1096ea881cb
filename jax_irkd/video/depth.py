"""Pictures of more than eight bits to the 256 grey levels that are stored and learned from.

Thermal and scientific cameras deliver 10 to 16 bits, of which a scene fills a small part: counts of
7300 to 7700 would be one or two of 256 levels. The rule is `--range`:

- `auto` (default): the 0.5th to the 99.5th percentile of a clip's pixels become 0 to 255;
- `MIN,MAX`: these values of the file become 0 to 255, the same for all clips, so that a grey level
  is a temperature.

What lies outside is cut off. Pictures of eight bits are taken as they are.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num, UInt8

from jax_irkd.errors import UserError

AUTO = "auto"
LOWEST, HIGHEST = 0.5, 99.5  # percentiles
FLAT = 8.0  # grey levels between the 1st and the 99th percentile, below which nothing is to be seen
SAMPLES = 1 << 18  # pixels that percentiles are taken from


class Range(NamedTuple):
    """`limits` (lowest, highest value), or None for each clip's own percentiles."""

    limits: tuple[float, float] | None = None

    def __str__(self) -> str:
        return AUTO if self.limits is None else ",".join(f"{value:g}" for value in self.limits)

    def is_fixed(self, pictures: Iterable[np.ndarray]) -> bool:
        """Whether each picture becomes the same levels in whatever clip it is."""
        return self.limits is not None or all(picture.dtype == np.uint8 for picture in pictures)

    def of(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The pictures of a clip, which may be of different sizes, as 0 to 255."""
        if not self.is_fixed(pictures):
            values = np.concatenate([picture.reshape(-1) for picture in pictures])
            return Range(percentiles(values, LOWEST, HIGHEST)).of(pictures)
        return [self.levels(picture) for picture in pictures]

    def levels(self, pictures: Num[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
        """The pictures of a clip as 0 to 255; those of eight bits unchanged."""
        if pictures.dtype == np.uint8:
            return pictures
        low, high = self.limits or percentiles(pictures, LOWEST, HIGHEST)
        scale = 255.0 / (high - low) if high > low else 0.0
        scaled = (pictures.astype(np.float32) - np.float32(low)) * np.float32(scale)
        return np.clip(np.nan_to_num(scaled) + 0.5, 0, 255).astype(np.uint8)


def parse_range(text: str) -> Range:
    """`auto` or `MIN,MAX`. Raises UserError for anything else."""
    if str(text).strip().lower() == AUTO:
        return Range()
    try:
        low, high = (float(part) for part in str(text).split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(
            f"range is {text!r}; give auto, or the lowest and the highest value as MIN,MAX, for "
            "example 7000,8000"
        )
    return Range((low, high))


def percentiles(pictures: np.ndarray, *shares: float) -> tuple[float, ...]:
    """Percentiles of the finite values, of at most `SAMPLES`; zeros when there is none."""
    values = pictures.reshape(-1)
    values = values[:: max(1, len(values) // SAMPLES)]
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if not len(values):
        return (0.0,) * len(shares)
    if values.dtype == np.uint8:  # counted, not sorted
        at_most = np.bincount(values, minlength=256).cumsum()
        places = [share / 100 * (len(values) - 1) for share in shares]
        below = [int(np.searchsorted(at_most, int(place), "right")) for place in places]
        above = [int(np.searchsorted(at_most, math.ceil(place), "right")) for place in places]
        return tuple(b + (a - b) * (p % 1) for b, a, p in zip(below, above, places))
    return tuple(float(value) for value in np.percentile(values, shares))


def contrast(pictures: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, ""]:
    """Grey levels between the 1st and the 99th percentile."""
    low, high = percentiles(pictures, 1.0, 99.0)
    return np.float64(high - low)


def flat_warning(pictures: np.ndarray, levels: UInt8[np.ndarray, "*shape"]) -> str:
    """What is wrong with pictures in which nothing can be seen, or an empty text.

    `pictures` are as the file holds them, `levels` what became of them.
    """
    deep = pictures.dtype != np.uint8
    low, high = percentiles(pictures, 1.0, 99.0) if deep else (0.0, 255.0)
    if high - low < FLAT / 2:
        return f"its pictures are nearly constant: values {low:g} to {high:g}"
    seen = contrast(levels)
    if seen >= FLAT:
        return ""
    if float(levels.mean()) < FLAT:
        return f"its pictures are black (mean grey level {levels.mean():.1f})"
    if deep:
        return f"its pictures are nearly constant: values {low:g} to {high:g} in the given range"
    return f"its pictures are nearly constant ({seen:.0f} grey levels)"

"""Curves in a line of text."""

from collections.abc import Sequence

import numpy as np

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int = 48) -> str:
    """`values` from left to right as blocks from their smallest to their largest.

    More values than `width` are averaged in equal parts; what is not a number is a gap.
    """
    numbers = np.array([np.nan if v is None else v for v in values], float)
    numbers[~np.isfinite(numbers)] = np.nan
    if len(numbers) > width:
        parts = np.array_split(numbers, width)
        numbers = np.array(
            [p[~np.isnan(p)].mean() if (~np.isnan(p)).any() else np.nan for p in parts]
        )
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return ""
    low, high = known.min(), known.max()
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if np.isnan(v) else BLOCKS[round((v - low) * scale)] for v in numbers)

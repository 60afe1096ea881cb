"""How methods, figures and settings are worded."""

from collections.abc import Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as sorted (dotted name, value) pairs."""
    rows = []
    for key in sorted(tree):
        value = tree[key]
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "" if value is None else str(value)))
    return rows


def duration(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 12 min 5 s, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def metric_name(metric: str) -> str:
    return {"top1": "top-1"}.get(metric, metric)


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def signed(share: float) -> str:
    """A difference of shares in points, with its sign, but no minus before a zero."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"

"""Differences with their intervals, one line each: what a study found, at a glance."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from jax_irkd.reporting import charts

LEFT, RIGHT, ROW, TOP, BOTTOM = 136, 22, 20, 6, 34
LETTER = 7  # of a name in capitals, on average


class Estimate(NamedTuple):
    """What to call it, its value, the ends of its interval, and what stands behind it."""

    name: str
    value: float
    low: float
    high: float
    note: str = ""


def interval_chart(rows: Sequence[Estimate], *, unit: str, label: str) -> Markup:
    """A line from `low` to `high` and a dot at `value` for each row; a rule stands at zero.

    An interval that leaves out zero has the student's colour, or that of what is worse; another the
    baseline's.
    """
    low, high = min(0.0, *(row.low for row in rows)), max(0.0, *(row.high for row in rows))
    pad = 0.06 * (high - low) or 1.0
    low, high = low - pad, high + pad
    height = TOP + ROW * len(rows) + BOTTOM

    names = [charts.clip_text(row.name, 20) for row in rows]
    left = max(LEFT, LETTER * max(map(len, names)) + 8)
    right = max(RIGHT, LETTER * max(len(row.note) for row in rows) + 4)

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (charts.WIDTH - left - right)

    parts = [charts.draw_frame(charts.WIDTH, height, label)]
    bottom = height - BOTTOM
    for tick in charts.ticks(low, high, 4):
        x, points = place(tick), f"{tick:+g}" if tick else "0"
        parts.append(charts.draw_line(x, TOP, x, bottom, "rule"))
        parts.append(charts.draw_text(x, bottom + 14, points, "tick middle"))
    parts.append(charts.draw_line(place(0.0), TOP, place(0.0), bottom, "ideal"))
    parts.append(charts.draw_text(charts.WIDTH / 2, height - 4, unit, "tick middle"))
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = TOP + ROW * (index + 0.5)
        unsure = row.low <= 0 <= row.high
        sure = "baseline" if unsure else "student" if row.value > 0 else "worse"
        said = f"{row.name}: {row.value:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
        parts.append(charts.draw_text(left - 8, y + 3.5, name, "tick end"))
        if row.note:
            parts.append(charts.draw_text(charts.WIDTH - 2, y + 3.5, row.note, "tick end"))
        width = place(row.high) - place(row.low)
        parts.append(charts.draw_bar(place(row.low), y - 1.25, width, 2.5, sure, said))
        parts.append(charts.draw_dot(place(row.value), y, sure, said))
    return Markup("").join([*parts, Markup("</svg>")])

"""Charts as SVG: the one drawing for the page, for PNG files and for TensorBoard.

Drawn by hand and not by matplotlib so that a chart takes its colours from the page (light or
dark), stays sharp, is small and quickly made; `pictures` turns it into pixels. Colours are the
classes `teacher`, `baseline`, `student` and those of `comparison.other_colour`; every mark carries
a `<title>` that browsers show on hover.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from jax_irkd.metrics.classification import Reliability

WIDTH = 360  # of a chart, in its own units: about a phone's width, so that text keeps its size


class Series(NamedTuple):
    """One line of a chart: what to call it, its colour class, its points (nan breaks the line).

    `dots` marks every point, for few and exact values; without it a line of many noisy points is
    drawn faintly, with a moving average on top.
    """

    name: str
    colour: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    dots: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    unit: str = "",
    across: str = "training step",
    height: int = 212,
) -> Markup:
    """Lines over training steps, or over what `across` says.

    `label` says what is seen to those who cannot see it, `unit` is that of the values, written
    above their axis.
    """
    left, right, top, bottom = 46, 16, 20, 38
    smooth = [s if s.dots else s._replace(y=moving_average(s.y)) for s in series]
    x_low, x_high = _extent([s.x for s in series])
    y_low, y_high = _extent([s.y for s in smooth])
    pad = 0.06 * (y_high - y_low) or 0.5 * abs(y_high) or 1.0
    y_low = 0.0 if 0 <= y_low < 0.35 * y_high else y_low - pad
    y_high += pad

    def place_x(value):
        return left + (value - x_low) / ((x_high - x_low) or 1.0) * (WIDTH - left - right)

    def place_y(value):
        inside = np.clip(value, y_low, y_high)
        return height - bottom - (inside - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = [draw_frame(WIDTH, height, label)]
    for tick in ticks(y_low, y_high, 4):
        y = place_y(tick)
        parts.append(draw_line(left, y, WIDTH - right, y, "rule"))
        parts.append(draw_text(left - 6, y + 3.5, short(tick), "tick end"))
    for tick in (t for t in ticks(x_low, x_high, 4) if t == round(t)):
        parts.append(draw_text(place_x(tick), height - bottom + 15, short(tick), "tick middle"))
    middle = (left + WIDTH - right) / 2
    parts.append(draw_text(middle, height - 6, across, "tick middle"))
    parts.append(draw_text(0, 10, unit, "tick"))
    for raw, line in zip(series, smooth):
        if not raw.dots and len(raw.x) > 8 and raw.colour == "student":
            parts.append(_path(place_x(raw.x), place_y(raw.y), f"curve faint {raw.colour}", ""))
        final = line.y[np.isfinite(line.y)]
        title = f"{line.name}: {short(final[-1])} {unit} at the end" if len(final) else line.name
        x, y = _thin(line.x, line.y)
        parts.append(_path(place_x(x), place_y(y), f"curve {line.colour}", title))
        if raw.dots:
            parts += [
                draw_dot(
                    place_x(a), place_y(b), raw.colour, f"{raw.name}: {short(b)} at step {a:g}"
                )
                for a, b in zip(x, y)
                if np.isfinite(b)
            ]
    return Markup("").join([*parts, Markup("</svg>")])


def confusion_chart(
    shares: Float[np.ndarray, "k k"], class_names: Sequence[str], *, colour: str, label: str
) -> Markup:
    """Row-normalised confusion matrix: percentages for few classes, shades for many."""
    classes = len(class_names)
    named, written = classes <= 30, classes <= 14
    left, top, right = (110, 92, 30) if named else (24, 34, 4)
    cell = (WIDTH - left - right) / classes
    parts = [draw_frame(WIDTH, top + cell * classes + 1, label)]
    parts.append(
        Markup('<rect x="{}" y="{}" width="{}" height="{}" class="field"/>').format(
            left, top, plain(cell * classes), plain(cell * classes)
        )
    )
    for index, name in enumerate(class_names):
        middle = (index + 0.5) * cell
        if named:
            size = Markup(' style="font-size:{}px"').format(plain(min(10.5, cell * 0.95)))
            text = clip_text(name, 18)
            parts.append(draw_text(left - 5, top + middle + 3.5, text, "tick end", size))
            x, y = plain(left + middle + 3), top - 6
            turn = Markup(' transform="rotate(-55 {} {})"').format(x, y) + size
            parts.append(draw_text(x, y, clip_text(name, 15), "tick", turn))
        elif index % 10 == 0:
            parts.append(draw_text(left - 4, top + middle + 3.5, str(index + 1), "tick end"))
            parts.append(draw_text(left + middle, top - 5, str(index + 1), "tick middle"))
    parts.append(draw_text(0, 10, "rows: true class, columns: prediction, % of row", "tick"))
    for row, column in np.argwhere(np.nan_to_num(shares) >= 0.0005):
        share = shares[row, column]
        x, y = left + column * cell, top + row * cell
        title = f"{class_names[row]} taken for {class_names[column]}: {100 * share:.1f} %"
        parts.append(
            Markup(
                '<rect x="{}" y="{}" width="{}" height="{}" class="fill {}" fill-opacity="{}">'
                "<title>{}</title></rect>"
            ).format(
                plain(x),
                plain(y),
                plain(cell),
                plain(cell),
                colour,
                plain(0.06 + 0.94 * share),
                title,
            )
        )
        if written and share >= 0.005:
            tone = "cell high" if share > 0.55 else "cell"
            parts.append(draw_text(x + cell / 2, y + cell / 2 + 3, f"{100 * share:.0f}", tone))
    return Markup("").join([*parts, Markup("</svg>")])


def reliability_chart(table: Reliability, *, colour: str, label: str) -> Markup:
    """Accuracy by confidence; the diagonal is perfect calibration, the feet count the clips."""
    left, top, size, feet = 34, 20, 232, 34
    parts = [draw_frame(left + size + 14, top + size + feet + 38, label)]
    parts.append(draw_text(0, 10, "% right", "tick"))
    parts.append(
        draw_text(left + size / 2, top + size + feet + 33, "% sure (clips below)", "tick middle")
    )
    bottom = top + size
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share * size
        parts.append(draw_line(left, y, left + size, y, "rule"))
        parts.append(draw_text(left - 5, y + 3.5, f"{100 * share:.0f}", "tick end"))
        text = draw_text(
            left + share * size, bottom + feet + 16, f"{100 * share:.0f}", "tick middle"
        )
        parts.append(text)
    total = max(table.clips.max(), 1)
    for low, high, count, confidence, accuracy in zip(table.edges, table.edges[1:], *table[1:]):
        if not count:
            continue
        title = (
            f"{count} clips between {100 * low:.0f} and {100 * high:.0f} % sure: "
            f"{100 * accuracy:.1f} % right at {100 * confidence:.1f} % mean confidence"
        )
        x, width = left + low * size + 0.75, (high - low) * size - 1.5
        parts.append(draw_bar(x, bottom - accuracy * size, width, accuracy * size, colour, title))
        foot = max(count / total * (feet - 6), 0.8)
        parts.append(draw_bar(x, bottom + 4, width, foot, "muted", title))
    parts.append(draw_line(left, bottom, left + size, top, "ideal"))
    return Markup("").join([*parts, Markup("</svg>")])


def key_chart(names: Sequence[tuple[str, str]]) -> Markup:
    """Names beside their colours (classes of the page), for a sheet of several charts."""
    parts = [draw_frame(WIDTH, 18 * len(names), "colours")]
    for row, (name, colour) in enumerate(names):
        y = 18 * row + 9
        parts.append(draw_dot(6, y, colour, name))
        parts.append(draw_text(16, y + 4, clip_text(name, 60), "tick"))
    return Markup("").join([*parts, Markup("</svg>")])


def sheet(panels: Sequence[tuple[str, Markup]], *, columns: int = 1, label: str) -> Markup:
    """Several charts as one, each under its title, for a picture of its own."""
    gap, head = 16, 22
    columns = min(columns, len(panels))
    parts, y = [], 0.0
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        sizes = [tuple(map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups()))
                 for _, svg in row]  # fmt: skip
        for place, ((title, svg), (width, height)) in enumerate(zip(row, sizes)):
            x = gap + place * (WIDTH + gap)
            parts.append(draw_text(x, y + head - 4, clip_text(title, 58), "title"))
            frame = Markup('<svg x="{}" y="{}" width="{}" height="{}" ').format(
                plain(x), plain(y + head), plain(width), plain(height)
            )
            parts.append(Markup(str(svg).replace("<svg ", frame, 1)))
        y += head + max(height for _, height in sizes) + gap
    opened = draw_frame(gap + columns * (WIDTH + gap), y, label)
    return Markup("").join([opened, *parts, Markup("</svg>")])


def moving_average(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Mean over a window of a twentieth of the curve, five points at least; nan stays out.

    Before the middle of the first window and behind that of the last stands the straight line that
    fits the window best, so that the ends are no single points. Fewer than ten stay as they are.
    """
    if len(values) < 10:
        return values
    half = max(len(values) // 40, 2)
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    width = 2 * half + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = (total[width:] - total[:-width]) / (count[width:] - count[:-width])
    first, last = (_line(part) for part in (values[:width], values[-width:]))
    return np.concatenate([first[:half], inside, last[-half:]])


def _line(values: np.ndarray) -> np.ndarray:
    """The straight line nearest to the points that are known; nan where they are too few."""
    x = np.arange(len(values))
    known = np.isfinite(values)
    if known.sum() < 2:
        return np.full(len(values), np.nan)
    return np.polyval(np.polyfit(x[known], values[known], 1), x)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between low and high, about `count` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - rough))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number in few characters: 0.25, 1.5k, 2e-05."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.4g}k"
    if 0 < size < 1e-3:
        return f"{value:.2g}"
    return f"{value:.4g}" if size >= 1 else f"{value:.3g}"


def clip_text(text: str, length: int) -> str:
    """`text`, cut to `length` characters with an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _extent(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([np.asarray(a, float) for a in arrays])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)


def _thin(x: np.ndarray, y: np.ndarray, points: int = 160) -> tuple[np.ndarray, np.ndarray]:
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), points)).round().astype(int))
    return x[keep], y[keep]


def plain(value: float) -> str:
    """A coordinate with two digits at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def draw_frame(width: float, height: float, label: str) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        plain(width), plain(height), label
    )


def draw_line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
        plain(x1), plain(y1), plain(x2), plain(y2), kind
    )


def draw_text(x: float, y: float, text: str, kind: str, more: str = "") -> Markup:
    x, y = (plain(x) if not isinstance(x, str) else x), plain(y)
    return Markup('<text x="{}" y="{}" class="{}"{}>{}</text>').format(x, y, kind, more, text)


def draw_bar(x: float, y: float, width: float, height: float, colour: str, title: str) -> Markup:
    return Markup(
        '<rect x="{}" y="{}" width="{}" height="{}" class="bar {}"><title>{}</title></rect>'
    ).format(plain(x), plain(y), plain(width), plain(height), colour, title)


def draw_dot(x: float, y: float, colour: str, title: str) -> Markup:
    return Markup('<circle cx="{}" cy="{}" r="3" class="dot {}"><title>{}</title></circle>').format(
        plain(x), plain(y), colour, title
    )


def _path(x: np.ndarray, y: np.ndarray, kind: str, title: str) -> Markup:
    x, y = _thin(x, y, 320)
    steps, pen = [], "M"
    for a, b in zip(x, y):
        if not np.isfinite(b):
            pen = "M"
            continue
        steps.append(f"{pen}{plain(a)} {plain(b)}")
        pen = "L"
    path = Markup('<path d="{}" class="{}">').format("".join(steps), kind)
    return path + Markup("<title>{}</title></path>").format(title)

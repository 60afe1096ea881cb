"""Attention between the stages of two networks, drawn: a map for every pair, one scale for all."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from jax_irkd.reporting.charts import WIDTH, draw_frame, draw_line, draw_text, plain

Stages = tuple[str, str]  # of the student and of the teacher


def attention_chart(
    attention: Mapping[Stages, Float[np.ndarray, "b b"]],
    span: tuple[float, float],
    uniform: float,
    *,
    label: str,
) -> Markup:
    """A heat map for every pair of stages: a row a student's stage, a column a teacher's.

    `span` holds the least and the largest weight, the ends of the scale below; a mark stands at
    `uniform`, the weight that attends to nothing in particular.
    """
    rows, columns = (sorted({pair[side] for pair in attention}) for side in (0, 1))
    left, top, gap = 58, 30, 8
    side = (WIDTH - left) / max(len(columns), 2) - gap
    height = top + len(rows) * (side + gap) + 56
    parts = [draw_frame(WIDTH, height, label)]
    parts.append(draw_text(0, 10, "student", "tick"))
    parts.append(draw_text(left, 10, "teacher", "tick"))
    for column, stage in enumerate(columns):
        x = left + column * (side + gap) + side / 2
        parts.append(draw_text(x, top - 6, stage, "tick middle"))
    for row, stage in enumerate(rows):
        y = top + row * (side + gap)
        parts.append(draw_text(left - 5, y + side / 2 + 4, stage, "tick end"))
        for column, other in enumerate(columns):
            if (stage, other) in attention:
                x = left + column * (side + gap)
                parts += _cells(np.asarray(attention[stage, other]), x, y, side, side, span)
    return Markup("").join(
        [*parts, *_scale(left, top + len(rows) * (side + gap) + 6, span, uniform), Markup("</svg>")]
    )


def _scale(x: float, y: float, span: tuple[float, float], uniform: float) -> list[Markup]:
    """From the least weight to the largest, with the uniform one marked."""
    (low, high), width = span, WIDTH - x - 50
    parts = _cells(np.linspace(low, high, 24)[None], x, y, width, 10, span)
    parts.append(draw_text(x, y + 23, f"{low:.3g}", "tick"))
    parts.append(draw_text(x + width, y + 23, f"{high:.3g}", "tick end"))
    if low < uniform < high:
        at = x + width * (uniform - low) / (high - low)
        parts.append(draw_line(at, y - 3, at, y + 13, "ideal"))
        if 0.2 < (at - x) / width < 0.8:
            parts.append(draw_text(at, y + 23, f"uniform {uniform:.3g}", "tick middle"))
    parts.append(draw_text(x + width / 2, y + 40, "attention weight", "tick middle"))
    return parts


def _cells(
    values: Float[np.ndarray, "r c"],
    x: float,
    y: float,
    width: float,
    height: float,
    span: tuple[float, float],
) -> list[Markup]:
    """Rectangles shaded from the low to the high end of `span`."""
    rows, columns = values.shape
    wide, tall, (low, high) = width / columns, height / rows, span
    return [
        Markup(
            '<rect x="{}" y="{}" width="{}" height="{}" class="fill student" '
            'fill-opacity="{}"><title>{}</title></rect>'
        ).format(
            plain(x + column * wide),
            plain(y + row * tall),
            plain(wide * 1.02),
            plain(tall * 1.02),
            plain(0.05 + 0.95 * np.clip((value - low) / ((high - low) or 1.0), 0, 1)),
            f"{value:.4f}",
        )
        for (row, column), value in np.ndenumerate(values)
    ]

"""Pictures as files and as data URIs. Matplotlib draws on its own canvas, never through pyplot."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from jax_irkd.metrics.classification import Reliability, row_shares
from jax_irkd.reporting.charts import clip_text


def write_confusion_matrix(
    path: str | Path, matrix: Int[np.ndarray, "k k"], class_names: Sequence[str], title: str = ""
) -> None:
    """`confusion_picture` as a PNG."""
    Image.fromarray(confusion_picture(matrix, class_names, title)).save(path)


def confusion_picture(
    matrix: Int[np.ndarray, "k k"], class_names: Sequence[str], title: str = ""
) -> UInt8[np.ndarray, "h w 3"]:
    """The row-normalised confusion matrix in percent, as in the paper's Fig. 4.

    Numbers are written for at most 20 classes, names for at most 60.
    """
    classes = len(class_names)
    side = float(np.clip(2.2 + 0.52 * classes, 5.0, 14.0))
    figure = Figure(figsize=(side, side), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    percent = 100 * np.nan_to_num(row_shares(matrix))
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="predicted class, percent of the true one", ylabel="true class")
    axes.set_title(title, fontsize=11, parse_math=False)
    if classes <= 60:
        size = 9 if classes <= 20 else 5.5
        names = [clip_text(str(name), 32) for name in class_names]
        axes.set_xticks(range(classes), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), names)
        axes.tick_params(labelsize=size, length=0)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_parse_math(False)
    for row, column in np.argwhere(percent >= 0.5) if classes <= 20 else ():
        colour = "white" if percent[row, column] > 55 else "black"
        text = f"{percent[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    return _drawn(figure)


def reliability_picture(table: Reliability, title: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """Accuracy by confidence, in percent, over how many clips lie in each bin."""
    figure = Figure(figsize=(4.6, 5.2), layout="constrained", dpi=120)
    axes, feet = figure.subplots(2, 1, height_ratios=(5, 1), sharex=True)
    low, width = 100 * table.edges[:-1], 100 * np.diff(table.edges)
    axes.bar(low, 100 * np.nan_to_num(table.accuracy), width, align="edge", edgecolor="white")
    axes.plot((0, 100), (0, 100), color="0.2", linestyle="--", linewidth=1)
    axes.set(xlim=(0, 100), ylim=(0, 100), ylabel="percent right")
    axes.set_title(title, fontsize=11, parse_math=False)
    feet.bar(low, table.count, width, align="edge", color="0.6", edgecolor="white")
    feet.set(xlabel="percent sure", ylabel="clips")
    return _drawn(figure)


def attention_picture(
    attention: Mapping[tuple[int, int], Float[np.ndarray, "b b"]],
) -> UInt8[np.ndarray, "h w 3"]:
    """A heat map for every pair of student stage (row) and teacher stage (column), one scale."""
    rows, columns = (sorted({pair[side] for pair in attention}) for side in (0, 1))
    size = 0.8 + 1.7 * len(columns), 0.6 + 1.7 * len(rows)
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    values = np.stack(list(attention.values()))
    for (row, column), axes in np.ndenumerate(grid):
        pair = rows[row], columns[column]
        axes.set_axis_off()
        if pair in attention:
            axes.set_title(f"student {pair[0]}, teacher {pair[1]}", fontsize=7)
            shades = axes.imshow(attention[pair], "Blues", vmin=values.min(), vmax=values.max())
    figure.colorbar(shades, ax=grid, shrink=0.6)
    return _drawn(figure)


def _drawn(figure: Figure) -> UInt8[np.ndarray, "h w 3"]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def data_uri(picture: UInt8[np.ndarray, "h w c"], quality: int = 85) -> str:
    """A picture of one or three channels as a JPEG inside a `data:` address."""
    picture = picture[..., 0] if picture.shape[-1] == 1 else picture
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(stream, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def image(picture: UInt8[np.ndarray, "h w c"], description: str) -> Markup:
    """An `<img>` that holds its picture, with `description` for those who cannot see it."""
    height, width = picture.shape[:2]
    return Markup('<img src="{}" width="{}" height="{}" alt="{}">').format(
        data_uri(picture), width, height, description
    )


def strip(frames: UInt8[np.ndarray, "t h w c"], height: int = 96) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Frames side by side, scaled to `height` pixels, with a thin gap between them."""
    cells = []
    for frame in frames:
        picture = Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)
        width = max(round(picture.width * height / picture.height), 1)
        cell = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
        cells += [
            cell.reshape(height, width, -1),
            np.full((height, 2, frames.shape[-1]), 128, np.uint8),
        ]
    return np.concatenate(cells[:-1], axis=1)

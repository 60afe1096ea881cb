"""Pictures as files and as data URIs. Matplotlib draws on its own canvas, never through pyplot."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from jax_irkd.metrics import row_shares
from jax_irkd.reporting.charts import clip_text


def write_confusion_matrix(
    path: str | Path, matrix: Int[np.ndarray, "k k"], class_names: Sequence[str], title: str = ""
) -> None:
    """A PNG of the row-normalised confusion matrix in percent, as in the paper's Fig. 4.

    Numbers are written for at most 20 classes, names for at most 60.
    """
    classes = len(class_names)
    side = float(np.clip(2.2 + 0.52 * classes, 5.0, 14.0))
    figure = Figure(figsize=(side, side), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    percent = 100 * np.nan_to_num(row_shares(matrix))
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="predicted class", ylabel="true class")
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
    figure.savefig(path)


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

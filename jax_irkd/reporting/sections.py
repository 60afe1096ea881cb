"""Further sections of a report: frame strips, Grad-CAM, attention matrices, tables.

Each function turns arrays into a `Section` that `report.write_report` places on a page.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup
from matplotlib import colormaps
from PIL import Image

from jax_irkd.reporting import charts, pictures
from jax_irkd.reporting.wording import percent


class Section(NamedTuple):
    """A titled part of the page: `html` is trusted, `lead` a sentence of plain text before it.

    `pictures` are what it shows as (name, uint8 `h w c`), for TensorBoard.
    """

    title: str
    html: Markup
    lead: str = ""
    pictures: tuple[tuple[str, np.ndarray], ...] = ()


class ShownClip(NamedTuple):
    """A test clip and what was said of it; frames uint8 as they went into the network, or None."""

    clip_id: str
    label: str
    predicted: str
    confidence: float
    infrared: UInt8[np.ndarray, "t h w 1"] | None
    rgb: UInt8[np.ndarray, "t h w 3"] | None


def mistakes_section(clips: Sequence[ShownClip]) -> Section:
    """The student's most confident mistakes, infrared beside RGB, in the order given."""
    if not clips:
        return Section("Most confident mistakes", _sentence("The student made no mistake."))
    parts, shown = [], []
    for number, clip in enumerate(clips, 1):
        films = [("infrared", clip.infrared), ("RGB", clip.rgb)]
        strips = [(name, pictures.strip(f)) for name, f in films if f is not None]
        parts.append(_filmstrips(_caption(clip), strips))
        said = f"mistake {number}, {clip.label} taken for {clip.predicted}"
        shown += [(f"{said}, {name}", strip) for name, strip in strips]
    lead = "Clips the student got wrong and was surest about. It sees the infrared strip only."
    return Section("Most confident mistakes", Markup("").join(parts), lead, tuple(shown))


def gradcam_section(
    clips: Sequence[ShownClip],
    before: Sequence[Float[np.ndarray, "t h w"]],
    after: Sequence[Float[np.ndarray, "t h w"]],
) -> Section:
    """Grad-CAM maps on the infrared frames: infrared-only student above, distilled one below.

    Maps as `gradcam.grad_cam` returns them, one entry per clip, any size; each clip's two maps are
    scaled to their own maximum.
    """
    parts, shown = [], []
    for number, (clip, first, second) in enumerate(zip(clips, before, after, strict=True), 1):
        strips = [
            ("before: infrared only", pictures.strip(overlay(clip.infrared, first))),
            ("after: distilled", pictures.strip(overlay(clip.infrared, second))),
        ]
        parts.append(_filmstrips(_caption(clip), strips))
        said = f"Grad-CAM {number}, {clip.label}"
        shown += [(f"{said}, {name}", strip) for name, strip in strips]
    lead = (
        "Grad-CAM of the true class: bright where the frame speaks for it, before and after "
        "distillation. The colours of a strip span its own range: compare places, not brightness."
    )
    return Section("Where the student looks", Markup("").join(parts), lead, tuple(shown))


def attention_section(attention: Mapping[tuple[int, int], Float[np.ndarray, "b b"]]) -> Section:
    """MGCAM's attention matrices of one batch, by student stage and teacher stage (from 1).

    Of more than 16 clips or frames the first 16 are drawn; the figures are of all.
    """
    values = np.concatenate([np.ravel(matrix) for matrix in attention.values()])
    low, high = float(values.min()), float(values.max())
    batch = next(iter(attention.values())).shape[-1]
    lead = (
        f"Rows are the student's clips, columns the teacher's. Weights run from {low:.4f} (faint) "
        f"to {high:.4f} (strong), a factor of {high / max(low, 1e-12):.3f}; uniform would be "
        f"{1 / batch:.4f}."
    )
    drawn = charts.attention_chart(
        {pair: matrix[:16, :16] for pair, matrix in attention.items()},
        label="attention between stages of student and teacher",
    )
    html = Markup('<figure class="wide">{}</figure>').format(drawn)
    picture = pictures.pixels(drawn)
    return Section("What MGCAM attends to", html, lead, (("attention of MGCAM", picture),))


def table_section(
    title: str, headers: Sequence[str], rows: Sequence[Sequence[object]], lead: str = ""
) -> Section:
    """A table, its first column text and the others numbers; everything is escaped."""
    return Section(title, table(headers, rows), lead)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """An HTML table in its own scrolling container; the first column is the row's name."""
    cell = Markup("<td>{}</td>")
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(h) for h in headers)
    body = [
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            row[0], Markup("").join(cell.format(value) for value in row[1:])
        )
        for row in rows
    ]
    return Markup(
        '<div class="scroll" tabindex="0"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(head, Markup("").join(body))


def overlay(
    frames: UInt8[np.ndarray, "t h w 1"], maps: Float[np.ndarray, "t h2 w2"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Grey frames with the maps, scaled to [0, 1] over the clip, laid over them in colour."""
    maps = np.asarray(maps, np.float32) / max(float(np.max(maps)), 1e-12)
    shown = []
    for frame, heat in zip(frames, maps, strict=True):
        size = (frame.shape[1], frame.shape[0])
        heat = np.clip(Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC), 0, 1)
        colour = 255 * colormaps["inferno"](heat)[..., :3]
        share = (0.15 + 0.55 * heat)[..., None]
        shown.append((1 - share) * frame + share * colour)
    return np.round(shown).astype(np.uint8)


def _caption(clip: ShownClip) -> Markup:
    if clip.label == clip.predicted:
        said = Markup("<b>{}</b>, recognised").format(clip.label)
    else:
        said = Markup("<b>{}</b> taken for <b>{}</b>").format(clip.label, clip.predicted)
    return said + Markup(" <span>{} sure · <code>{}</code></span>").format(
        percent(clip.confidence, 0), clip.clip_id
    )


def _filmstrips(caption: Markup, strips: Sequence[tuple[str, np.ndarray]]) -> Markup:
    rows = Markup("").join(
        Markup("<div><small>{}</small>{}</div>").format(name, pictures.image(strip, name))
        for name, strip in strips
    )
    return Markup(
        '<figure class="film"><figcaption>{}</figcaption>'
        '<div class="scroll" tabindex="0">{}</div></figure>'
    ).format(caption, rows)


def _sentence(text: str) -> Markup:
    return Markup("<p>{}</p>").format(text)

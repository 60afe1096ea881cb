"""Further sections of a report: frame strips, Grad-CAM, attention matrices, tables.

Each function turns arrays into a `Section` that `report.write_report` places on a page.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup
from PIL import Image

from jax_irkd.errors import plural
from jax_irkd.reporting import pictures
from jax_irkd.reporting.attention import Stages, attention_chart
from jax_irkd.reporting.wording import percent

PHONE = 5.2  # width over height of a strip that fits beside nothing on a phone


class Section(NamedTuple):
    """A titled part of the page: `html` is trusted, `lead` a sentence of plain text before it.

    `pictures` are what it shows as (name, uint8 `h w c`), for TensorBoard.
    """

    title: str
    html: Markup
    lead: str = ""
    pictures: tuple[tuple[str, np.ndarray], ...] = ()


class ShownClip(NamedTuple):
    """A test clip and what was said of it; frames uint8 as they went into the network, or None.

    `note` tells how many clips share its fate, or whether it was won or lost.
    """

    clip_id: str
    label: str
    predicted: str
    confidence: float
    infrared: UInt8[np.ndarray, "t h w 1"] | None
    rgb: UInt8[np.ndarray, "t h w 3"] | None
    note: str = ""


def mistakes_section(clips: Sequence[ShownClip], mistakes: int) -> Section:
    """The student's most confident of so many mistakes, infrared beside RGB, in the order given."""
    if not clips:
        return Section("Most confident mistakes", _sentence("The student made no mistake."))
    parts, shown = [], []
    for number, clip in enumerate(clips, 1):
        films = [("infrared", clip.infrared), ("RGB", clip.rgb)]
        strips = [(name, pictures.strip(f)) for name, f in films if f is not None]
        parts.append(_filmstrips(_caption(clip), strips))
        said = f"mistake {number}, {clip.label} taken for {clip.predicted}"
        shown += [(f"{said}, {name}", strip) for name, strip in strips]
    lead = (
        f"Of {plural(mistakes, 'mistake')} on the test clips those that the student was surest "
        "about, the surest first, the same confusion as often as it comes. It sees the infrared "
        "strip only."
    )
    return Section("Most confident mistakes", Markup("").join(parts), lead, tuple(shown))


def gradcam_section(
    clips: Sequence[ShownClip],
    before: Sequence[Float[np.ndarray, "t h w"]],
    after: Sequence[Float[np.ndarray, "t h w"]],
    *,
    counts: Mapping[str, int],
    seed: int,
) -> Section:
    """Grad-CAM maps on the infrared frames: infrared-only student above, distilled one below.

    Maps as `gradcam.grad_cam` returns them, one entry per clip, any size; each clip's two maps are
    scaled to their own maximum. `counts` holds how many clips were won and lost, of which `seed`
    drew these.
    """
    parts, shown = [], []
    for number, (clip, first, second) in enumerate(zip(clips, before, after, strict=True), 1):
        strips = [
            ("infrared only", pictures.strip(overlay(clip.infrared, first))),
            ("this student", pictures.strip(overlay(clip.infrared, second))),
        ]
        parts.append(_filmstrips(_caption(clip), strips))
        said = f"Grad-CAM {number}, {clip.note} {clip.label}"
        shown += [(f"{said}, {name}", strip) for name, strip in strips]
    lead = (
        f"Of the {counts['won']} clips that only this student gets right (won) and the "
        f"{counts['lost']} that only infrared only does (lost) as many of each as there are, two "
        f"at most, drawn by lot with the seed {seed}; where there are none of one kind, of the "
        "other alone. Grad-CAM of the true class: bright where the frame speaks for it. The "
        "colours of a strip span its own range: compare places, not brightness."
    )
    return Section("Where the student looks", Markup("").join(parts), lead, tuple(shown))


def nothing_won_or_lost() -> Section:
    """In place of Grad-CAM where student and baseline are right on the same clips."""
    text = "This student and infrared only are right on the same clips: there is none to compare."
    return Section("Where the student looks", _sentence(text))


def attention_section(attention: Mapping[Stages, Float[np.ndarray, "b b"]]) -> Section:
    """MGCAM's attention matrices of one batch, by stage of student and of teacher.

    Of more than 16 clips or frames the first 16 are drawn; the figures are of all.
    """
    values = np.concatenate([np.ravel(matrix) for matrix in attention.values()])
    low, high = float(values.min()), float(values.max())
    batch = next(iter(attention.values())).shape[-1]
    shown = "" if batch <= 16 else f" The first 16 of {batch} are drawn."
    lead = (
        f"A map for each pair of stages: rows are the student's clips, columns the teacher's. "
        f"Weights run from {low:.4f} (faint) to {high:.4f} (strong), a factor of "
        f"{high / max(low, 1e-12):.3f}; uniform would be {1 / batch:.4f}.{shown}"
    )
    drawn = attention_chart(
        {pair: matrix[:16, :16] for pair, matrix in attention.items()},
        (low, high),
        1 / batch,
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


_FIGURE = re.compile(r"(?<=[±,\d]) (?=[±%+\-\d])")  # within 90.4 ± 0.8 %, within [-1.5, +3.2]


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """An HTML table; the first column is the row's name. On a phone each row becomes a list.

    Cells of more than nine columns may take several lines, so that they fit a desktop.
    """
    many = len(headers) > 9
    if many:
        rows = [
            [row[0], *(_FIGURE.sub("\N{NO-BREAK SPACE}", str(c)) for c in row[1:])] for row in rows
        ]
    cell = Markup('<td data-label="{}">{}</td>')
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(h) for h in headers)
    body = [
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            row[0], Markup("").join(map(cell.format, headers[1:], row[1:]))
        )
        for row in rows
    ]
    kind = Markup(' class="many"') if many else ""
    return Markup(
        '<div class="scroll" tabindex="0"><table{}><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(kind, head, Markup("").join(body))


def overlay(
    frames: UInt8[np.ndarray, "t h w 1"], maps: Float[np.ndarray, "t h2 w2"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Grey frames with the maps, scaled to [0, 1] over the clip, laid over them in colour."""
    from matplotlib import colormaps  # not at the top: every run and study would wait for it

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
    note = f" · {clip.note}" if clip.note else ""
    return said + Markup(" <span>{} sure{} · <code>{}</code></span>").format(
        percent(clip.confidence, 0), note, clip.clip_id
    )


def _filmstrips(caption: Markup, strips: Sequence[tuple[str, np.ndarray]]) -> Markup:
    rows = Markup("").join(
        Markup("<div><small>{}</small>{}</div>").format(name, pictures.image(strip, name))
        for name, strip in strips
    )
    widest = max((strip.shape[1] / strip.shape[0] for _, strip in strips), default=0.0)
    hint = Markup('<small class="hint">scrolls sideways</small>') if widest > PHONE else ""
    return Markup(
        '<figure class="film"><figcaption>{}</figcaption>{}'
        '<div class="scroll" tabindex="0">{}</div></figure>'
    ).format(caption, hint, rows)


def _sentence(text: str) -> Markup:
    return Markup("<p>{}</p>").format(text)

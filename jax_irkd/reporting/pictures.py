"""Pictures as files and as data URIs: photographs, and the page's charts as pixels."""

import base64
import functools
import html
import io
import re
from importlib import resources

import numpy as np
import resvg_py
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from jax_irkd.host import lettering

LONGEST = 15  # letters of a label that is written in codes
_TEXT = re.compile(r">([^<>]*)</text>")
_VARIABLE = re.compile(r"var\(--(\w+)\)")


def png(chart: Markup, zoom: float = 2.5) -> bytes:
    """A chart of `charts` as a PNG, in the colours that the page has by daylight."""
    svg = str(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    svg, fonts = written(svg)
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg,
            zoom=zoom,
            background="white",
            style_sheet=_style(),
            font_files=fonts,
            skip_system_fonts=True,  # reading them takes most of the time
            font_family="DejaVu Sans",
        )
    )


def pixels(chart: Markup, zoom: float = 2.5) -> UInt8[np.ndarray, "h w 3"]:
    """A chart of `charts` as an RGB image."""
    return np.asarray(Image.open(io.BytesIO(png(chart, zoom))).convert("RGB"))


@functools.cache
def _style() -> str:
    """The rules of report.css for what is drawn, its variables put in: SVG viewers know none."""
    css = (resources.files("jax_irkd.reporting") / "templates" / "report.css").read_text("utf-8")
    variables = dict(re.findall(r"--(\w+): (#\w+)", css.partition("@media")[0]))
    roles = dict(re.findall(r"\.(\w+) \{ --c: var\(--(\w+)\); \}", css))
    found = []
    for selectors, body in re.findall(r"svg ((?:\.|text)[^{}]*?) ?\{([^}]*)\}", css):
        names = [name.strip().removeprefix("svg ") for name in selectors.split(",")]
        if "var(--c)" in body:
            for role, colour in roles.items():
                said = body.replace("var(--c)", variables[colour])
                found += [f"{name}.{role} {{{said}}}" for name in names]
        else:
            said = _VARIABLE.sub(lambda match: variables[match[1]], body)
            found += [f"{name} {{{said}}}" for name in names]
    return "\n".join(found)


def written(svg: str) -> tuple[str, list[str]]:
    """A drawing with codes for letters that no font has, and the fonts that it needs."""
    texts = _TEXT.findall(svg)
    fonts, missing = lettering.fonts_for("".join(map(html.unescape, texts)))
    if missing:
        svg = _TEXT.sub(lambda match: f">{_coded(match[1], missing)}</text>", svg)
    return svg, fonts


def _coded(text: str, missing: set[str]) -> str:
    coded = lettering.spelled(text, missing)
    return coded if coded == text or len(coded) <= LONGEST else coded[: LONGEST - 1] + "…"


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

"""What was found, drawn: a video with labels and a timeline, and a timeline as a picture."""

import functools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jax_irkd.deployment.judgement import Verdict
from jax_irkd.detection.rows import Row
from jax_irkd.errors import UserError
from jax_irkd.host import lettering
from jax_irkd.video.decoding import Film
from jax_irkd.video.depth import Range
from jax_irkd.video.timing import Timing

LONGEST_SIDE = 1280  # of an annotated video
TICK = Fraction(1, 60000)  # of its clock, where the frame rate changes
# Distinct on dark and light, also for most colour-blind people (Okabe and Ito).
COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167), (153, 153, 153),
)  # fmt: skip


def colour_of(label: int) -> tuple[int, int, int]:
    """RGB of a class, counted from 0."""
    return COLOURS[label % len(COLOURS)]


def annotate(result: Any, names: Sequence[str], target: Path) -> None:
    """Write the video with the label, a confidence bar and, when untrimmed, the timeline.

    `result` is what `predict` returned. Reads the video a second time; memory does not grow with
    it. Raises UserError when the target cannot be written.
    """
    film = Film(result.source, threads=0, tolerant=True)
    centres = result.spans.sum(axis=1) / 2
    nearest = (centres[1:] + centres[:-1]) / 2  # Frame i belongs to the window nearest to it.
    # Frames that could not be read leave gaps, which an AVI has no place for.
    whole = result.frames == len(result.timing.times) or target.suffix.lower() == ".avi"
    writer, complete = None, False
    try:
        for shot in film.shots():
            image = sized(in_colour(shot.image()))
            if writer is None:
                timing = film.timing
                steady = timing.steady and whole
                writer = FilmWriter(target, image.shape, timing.rate, steady=steady)
            draw(image, result.verdicts[np.searchsorted(nearest, shot.index)], names)
            if not result.trimmed:
                draw_timeline(image, result.rows, result.timing, shot.time)
            writer.add(image, shot.time)
        complete = True
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {target} ({reason}); give a name such as out.mp4") from error
    finally:
        if writer:
            writer.close()
        if not complete:
            target.unlink(missing_ok=True)


def draw(image: np.ndarray, verdict: Verdict, names: Sequence[str]) -> None:
    """The most probable class and a bar of its probability, onto the top of RGB `h w 3`.

    An answer that does not count is a word without a bar.
    """
    height, width = image.shape[:2]
    scores = verdict.probabilities
    best = int(scores.argmax())
    strip = max(height // 12, 14)
    image[:strip] //= 3
    share = float(scores[best]) if verdict.recognised else 0.0
    bar = image[strip - max(strip // 5, 2) : strip, : round(width * share)]
    bar[:] = colour_of(best)
    said = f"{share:4.0%} {names[best]}" if verdict.recognised else verdict.words
    path, text = lettering.lettered(said)
    font = _font(path, strip // 2)
    if font.getlength(text) > width - 8:
        font = _font(path, max(6, int(strip // 2 * (width - 8) / font.getlength(text))))
    label = Image.fromarray(image[:strip])
    place = (4, round(strip * 0.4))
    ImageDraw.Draw(label).text(place, text, fill="white", font=font, anchor="lm")
    image[:strip] = np.asarray(label)


@functools.lru_cache(maxsize=64)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def draw_timeline(image: np.ndarray, rows: Sequence, timing: Timing, moment: float) -> None:
    """All segments as coloured stretches along the bottom, and where `moment` is."""
    height, width = image.shape[:2]
    strip = max(height // 24, 6)
    image[-strip:] //= 3
    for row in sorted(rows, key=lambda row: row.confidence):
        left, right = (round(time / timing.end * width) for time in row_times(row, timing))
        image[-strip:, left : max(right, left + 1)] = colour_of(row.label - 1)
    place = min(round(moment / timing.end * width), width - 2)
    image[-strip:, place : place + 2] = 255


def row_times(row: Row, timing: Timing) -> tuple[float, float]:
    """From when to when a row lasts, in seconds."""
    return float(timing.times[int(row.start) - 1]), float(timing.ends()[int(row.end) - 1])


def in_colour(image: np.ndarray) -> np.ndarray:
    """RGB uint8 `h w 3` of whatever a film holds; deep ones by their own range."""
    image = Range().levels(image)
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def sized(image: np.ndarray) -> np.ndarray:
    """Not larger than codecs like, and of even sides, as yuv420p needs."""
    height, width = image.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = tuple(max(2, round(side * scale) // 2 * 2) for side in (width, height))
    if size == (width, height):
        return image.copy()
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


class FilmWriter:
    """H.264, or MPEG-4 where FFmpeg lacks it; frames are shown as long as those they come from.

    `live` writes what can be played although the end is missing, and takes little time a frame.
    Raises OSError.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], rate: float, *, steady: bool, live: bool = False
    ):
        options = {"flush_packets": "1"} if live else {}
        if live and path.suffix.lower() in (".mp4", ".m4v", ".mov"):
            options["movflags"] = "frag_keyframe+empty_moov"
        self._container = av.open(str(path), "w", options=options)
        try:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            rate = Fraction(min(max(rate, 1e-3), 240)).limit_denominator(1001)
            quick = (
                {"preset": "veryfast", "tune": "zerolatency"} if live and codec == "libx264" else {}
            )
            self._stream = self._container.add_stream(codec, rate=rate, options=quick)
            self._stream.height, self._stream.width = shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._steady, self._last = steady, -1
            if live:
                self._stream.codec_context.gop_size = 60
            if not self._steady:
                if path.suffix.lower() == ".avi":
                    raise OSError("AVI cannot hold a changing frame rate")
                self._stream.codec_context.time_base = TICK
        except (av.FFmpegError, ValueError, OSError) as error:
            self._container.close()
            raise OSError(str(error)) from error

    def add(self, image: np.ndarray, moment: float) -> None:
        """The next RGB frame, shown from `moment` on (seconds; used where the rate changes)."""
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        if not self._steady:
            self._last = max(round(moment / TICK), self._last + 1)
            frame.pts, frame.time_base = self._last, TICK
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


def timeline_picture(result: Any, names: Sequence[str], path: Path) -> None:
    """A PNG: one row per class that occurs, its segments over time and its probability."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    found = sorted({row.label - 1 for row in result.rows})
    shown = found or [int(result.probabilities.max(axis=0).argmax())]
    figure = Figure(figsize=(10, 1.2 + 0.45 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    middles = result.spans.mean(axis=1)
    times = np.interp(middles, np.arange(len(result.timing.times)), result.timing.times)
    for level, label in enumerate(shown):
        colour = tuple(value / 255 for value in colour_of(label))
        track = result.probabilities[:, label]
        axes.plot(times, level + 0.4 - 0.8 * track, color="0.2", linewidth=1)
        spans = [row_times(row, result.timing) for row in result.rows if row.label - 1 == label]
        bars = [(start, end - start) for start, end in spans]
        axes.broken_barh(bars, (level - 0.4, 0.8), facecolor=colour, alpha=0.75)
    axes.set_yticks(range(len(shown)), [lettering.lettered(names[label])[1] for label in shown])
    for tick, label in zip(axes.get_yticklabels(), shown):
        tick.set_fontproperties(FontProperties(fname=lettering.lettered(names[label])[0]))
        tick.set_parse_math(False)  # a name with dollar signs is no formula
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, result.timing.end)
    axes.set_xlabel("seconds")
    title = result.path.name if found else f"{result.path.name}: nothing reached"
    path_of_font, title = lettering.lettered(title)
    axes.set_title(
        title, loc="left", fontproperties=FontProperties(fname=path_of_font), parse_math=False
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)

"""What happens in one video: a clip's classes, or a timeline of windows."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_irkd.deployment.classifier import Classifier, shared_frames
from jax_irkd.deployment.judgement import Judge, Verdict, fault_of
from jax_irkd.deployment.recognizer import range_of, spec_of
from jax_irkd.detection import consensus
from jax_irkd.detection.proposals import segments
from jax_irkd.detection.rows import Row
from jax_irkd.errors import plural
from jax_irkd.host import prefetch
from jax_irkd.video import grid, playback
from jax_irkd.video.archives import Source, name_of
from jax_irkd.video.decoding import Film
from jax_irkd.video.depth import parse_range
from jax_irkd.video.playback import Pictures
from jax_irkd.video.timing import Timing
from jax_irkd.video.windows import Window

# The longest clip of NTU RGB+D lasts 10 seconds; PKU-MMD's videos last minutes.
TRIMMED_SECONDS = 15.0
SEGMENTS = 0.5  # least probability of a timeline's segment, unless another is asked for


class VideoSettings(NamedTuple):
    """How videos are looked at; times in seconds, `stride` in frames."""

    topk: int = 5
    trimmed: bool | None = None  # None: by the video's length
    seconds: float = 2.0
    stride: int = 16
    threshold: float | None = None  # None: 0.5 for segments, a clip's by calibration
    batch: int = 1
    range: str = ""  # of more than eight bits: auto, MIN,MAX, or empty for the network's own
    windows: str = "auto"  # shared: each frame is computed once; whole: in every window anew


DEFAULTS = VideoSettings()


class VideoResult(NamedTuple):
    """What was found in one video.

    A trimmed clip has one span and no rows; a timeline has the calibrated probabilities `w k` of
    its windows with their `spans` (frames [start, stop) from 0), and `rows` in PKU-MMD's format,
    none where a window's answer does not count (`verdicts`). `timing` says when frames are shown.
    """

    source: Source
    trimmed: bool
    frames: int
    timing: Timing
    probabilities: np.ndarray
    spans: np.ndarray
    rows: list[Row]
    warnings: list[str]
    verdicts: list[Verdict]

    @property
    def path(self) -> Path:
        return Path(name_of(self.source))

    @property
    def rate(self) -> float:
        """Frames per second, on average."""
        return self.timing.rate


def predict(
    classifier: Classifier, path: Source, settings: VideoSettings = DEFAULTS
) -> VideoResult:
    """Classify one video. Raises VideoError (a UserError) when it cannot be read."""
    judge, faults = Judge(classifier, settings.threshold), []
    film, pictures = Film(path, threads=0, tolerant=True), Pictures()
    spec = spec_of(classifier)
    levels = parse_range(settings.range or range_of(classifier))
    trimmed = settings.trimmed
    if trimmed is None:
        trimmed = film.seconds <= TRIMMED_SECONDS
    if trimmed:
        found = [playback.whole_clip(film, spec, levels, pictures)]
        spans = np.array([found[0][:2]])
        faults.append(_fault_of(found[0]))
        scores = classifier(np.stack([found[0].frames]))
    else:
        stride = settings.stride / film.timing.rate
        planned = grid.plan(film.timing, settings.seconds, stride, spec.num_segments)
        found = playback.windows(film, spec, planned, levels, pictures)
        scores, spans = consensus.scores(
            prefetch.ahead(_looked_at(found, faults)),  # decoding runs beside the network
            classifier,
            shared_frames(classifier, settings.windows),
            batch_size=settings.batch,
            frames_at_once=settings.batch * spec.num_segments,
        )
        # Only the walk tells which packets at the end have no frame of their own.
        spans = np.minimum(spans, len(film.timing.times))
    verdicts = judge.of(scores, faults)
    rows = [] if trimmed else _rows(verdicts, spans, settings)
    rows = [row for row in rows if row.label - 1 != judge.background]
    still = trimmed and verdicts[0].reason == "still"
    warnings = film.remarks + playback.untimed_warning(film.timing)
    warnings += pictures.warnings(spec.modality, levels)
    warnings += ["stands still: all the pictures looked at are the same"] if still else []
    if film.read < spec.num_segments:
        warnings.append(
            f"has {plural(film.read, 'frame')}, fewer than the {spec.num_segments} segments; "
            "some repeat"
        )
    scores = np.stack([verdict.probabilities for verdict in verdicts])
    return VideoResult(
        path, trimmed, film.read, film.timing, scores, spans, rows, warnings, verdicts
    )


def _looked_at(windows: Iterable[Window], faults: list[str]) -> Iterator[Window]:
    """`windows`, what is wrong with the pictures of each being noted in `faults`."""
    for window in windows:
        faults.append(_fault_of(window))
        yield window


def _fault_of(window: Window) -> str:
    """`unreadable`, where frames far away or a single one stand for the window's own; else
    `fault_of` its frames, each once: a film of few frames repeats some."""
    _, distinct = np.unique(window.indices, return_index=True)
    alone = len(distinct) == 1 and window.stop - window.start >= len(window.indices) > 1
    if alone or window.apart > 1:
        return "unreadable"
    return fault_of(window.frames[distinct] if len(distinct) else window.frames)


def _rows(verdicts: list[Verdict], spans: np.ndarray, settings: VideoSettings) -> list[Row]:
    """Segments, of windows that show something familiar."""
    return segments(
        np.stack([verdict.probabilities for verdict in verdicts]),
        spans,
        counts=np.array([_counts(verdict) for verdict in verdicts]),
        thresholds=(SEGMENTS if settings.threshold is None else settings.threshold,),
        max_gap=settings.stride,
        min_frames=min(8, int(spans[-1, 1])),
    )


def _counts(verdict: Verdict) -> bool:
    """Whether a window shows something familiar, by a network that gives probabilities at all."""
    return verdict.reason in ("", "unsure") and bool(np.isfinite(verdict.probabilities).all())

"""Untrimmed videos of PKU-MMD as the network of a run sees them, window by window."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from jax_irkd.data.spec import BACKGROUND, background_of
from jax_irkd.detection.scoring import make_watch
from jax_irkd.host.terminal import console
from jax_irkd.metrics.calibration import Calibration
from jax_irkd.pku_mmd import annotations, untrimmed
from jax_irkd.training.evaluation import Network
from jax_irkd.training.setup import frame_sizes
from jax_irkd.video import windows
from jax_irkd.video.depth import AUTO, Range, parse_range
from jax_irkd.video.faults import VideoError


class Watched(NamedTuple):
    """A video, its windows (frames of the modality watched, from 0, half-open), and their
    probabilities of PKU-MMD's 51 actions and of nothing, None without such a class. `scores` are
    those of the network's own classes, before they were calibrated."""

    video: untrimmed.UntrimmedVideo
    spans: Int[np.ndarray, "w 2"]
    actions: Float[np.ndarray, "w 51"]
    nothing: Float[np.ndarray, " w"] | None
    scores: Float[np.ndarray, "w k"]

    @property
    def renormalised(self) -> Float[np.ndarray, "w 51"]:
        """The actions' probabilities where they are all there is: they sum to one."""
        total = self.actions.sum(axis=1, keepdims=True)
        return self.actions / np.maximum(total, np.finfo(np.float32).tiny)

    @property
    def happening(self) -> Float[np.ndarray, " w"]:
        """Whether something happens: 1 - p(background); without that class the largest p."""
        if self.nothing is None:
            return self.actions.max(axis=1, initial=0.0)
        return 1 - self.nothing


def watched(
    network: Network,
    config: ConfigDict,
    meta: Mapping[str, Any],
    videos: Sequence[untrimmed.UntrimmedVideo],
    faults: dict[str, str],
) -> Iterator[Watched]:
    """The windows of every video as the network of a run sees them.

    `meta` is that of the run: modality, class names, range of pixels, and its calibration where it
    has one: probabilities are calibrated then, as everywhere else. What is wrong with a video is
    added to `faults`.
    """
    watch = make_watch(network, config, meta["modality"])
    levels, names = parse_range(meta.get("range", AUTO)), list(meta["class_names"])
    known = [name for name in names if name != BACKGROUND]  # some may have been left out
    places = [annotations.CLASSES.index(name) for name in known]
    columns, silent = [names.index(name) for name in known], background_of(names)
    held = meta.get("calibration")
    calibrated = Calibration.from_json(held).probabilities if held else np.asarray
    for video in videos:
        found = _windows(video, config, meta["modality"], levels)
        scores, spans = watch(_until_fault(found, video.name, faults))
        actions = np.zeros((len(scores), len(annotations.CLASSES)))
        if not len(scores):
            yield Watched(video, spans, actions, None if silent is None else actions[:, 0], scores)
            continue
        shares = calibrated(scores)
        actions[:, places] = shares[:, columns]
        nothing = None if silent is None else shares[:, silent]
        yield Watched(video, spans, actions, nothing, scores)


class SameClock(NamedTuple):
    """Where one of the films cannot be read: frame for frame, as many a second as PKU-MMD's."""

    rate: float = 30.0

    def __call__(self, spans: list) -> list:
        return spans


def clock_of(
    video: untrimmed.UntrimmedVideo, modality: str, faults: dict[str, str]
) -> untrimmed.AnnotatedClock | SameClock:
    """What turns frames of `modality` into annotated ones, by the same rule as the builder's."""
    try:
        return untrimmed.AnnotatedClock(video, modality)
    except VideoError as error:
        faults.setdefault(video.name, f"taken to have as many RGB as infrared frames: {error}")
        return SameClock()


def _windows(
    video: untrimmed.UntrimmedVideo, config: ConfigDict, modality: str, levels: Range
) -> Iterator[windows.Window]:
    return windows.windows(
        getattr(video, modality),
        infrared=modality == "infrared",
        size=frame_sizes(config)[modality],
        length=config.eval.window,
        stride=config.eval.stride,
        num_segments=config.input.num_segments,
        threads=config.input.threads,
        levels=levels,
    )


def _until_fault(
    windows: Iterator[windows.Window], name: str, faults: dict[str, str]
) -> Iterator[windows.Window]:
    try:
        yield from windows
    except VideoError as error:
        faults[name] = str(error)
        console.print(f"{name} counts as far as it can be read: {error}", highlight=False)

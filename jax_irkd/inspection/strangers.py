"""How well a calibrated run tells what it never learned from the actions it knows.

Shown are films without people, noise, black and grey pictures, all of them generated, the test
clips of classes that were left out (`dataset.leave_out`), and films that somebody brings.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.data.spec import BACKGROUND, InputSpec
from jax_irkd.data.synthetic import staging
from jax_irkd.deployment.classifier import RunClassifier
from jax_irkd.deployment.clips import staged
from jax_irkd.deployment.judgement import Judge, fault_of
from jax_irkd.deployment.recognizer import spec_of
from jax_irkd.errors import UserError, once
from jax_irkd.metrics.calibration import auroc, softmax
from jax_irkd.reporting.sections import Section, table_section
from jax_irkd.reporting.wording import percent
from jax_irkd.runs.results import read_scores
from jax_irkd.training.setup import make_reader
from jax_irkd.video import grid, playback
from jax_irkd.video.decoding import Film

TITLE = "What it does not know"
HEADERS = ("shown", "clips", "AUROC", "by probability", "rejected")
COUNT = 60  # generated clips of a kind
SEED = 17  # of generated rooms: none of the demo's
SECONDS, STRIDE = 2.0, 2.0  # of the windows of films that somebody brings
Clips = Iterator[UInt8[np.ndarray, "t h w c"]]


class Told(NamedTuple):
    """How one kind of clips was told from the test clips."""

    kind: str
    clips: int
    familiarity: float | None  # AUROC; None for the test clips themselves
    probability: float | None
    unrecognised: float


def measure(folder: Path, films: Sequence[str] = ()) -> list[Told]:
    """Every kind of clips that can be had, the test clips first.

    Raises UserError for a run that is not calibrated or has no scores, and for a film that cannot
    be read.
    """
    network = RunClassifier(folder)
    judge, spec = Judge(network), spec_of(network)
    if judge.calibration is None:
        raise UserError(
            f"{folder} is not calibrated; train with validation subjects, "
            "--config.input.validation=0.1, in another --workdir"
        )
    held = read_scores(folder)
    known, acts = softmax(held.logits), held.labels != judge.background
    config = ConfigDict(network.meta["config"])
    familiar, sure = judge.calibration.familiarity(known), _sure(judge, known)
    unknown = np.array([not verdict.recognised for verdict in judge.of(known, [""] * len(known))])
    found = [Told("true actions, test clips", int(acts.sum()), None, None, _mean(unknown[acts]))]
    if not acts.all():
        areas = (auroc(score[acts], score[~acts]) for score in (familiar, sure))
        kind = f"{BACKGROUND}, test clips"
        found.append(Told(kind, int((~acts).sum()), *areas, _mean(unknown[~acts])))
    familiar, sure = familiar[acts], sure[acts]
    kinds = generated(spec) | left_out(config, spec) | brought(films, spec)
    for kind, clips in kinds.items():
        faults, scores = [], []
        for batch in _batches(clips, config.input.eval_batch_size):
            faults += [fault_of(clip) for clip in batch]
            scores.append(network(np.stack(batch)))
        answers = np.concatenate(scores)
        verdicts = judge.of(answers, faults)
        found.append(
            Told(
                kind,
                len(answers),
                auroc(familiar, judge.calibration.familiarity(answers)),
                auroc(sure, _sure(judge, answers)),
                _mean([not verdict.recognised for verdict in verdicts]),
            )
        )
    return found


def _sure(judge: Judge, probabilities: np.ndarray) -> np.ndarray:
    """The largest probability of a class that is one."""
    calibrated = judge.calibration.probabilities(probabilities)
    kept = np.arange(calibrated.shape[1]) != judge.background
    return calibrated[:, kept].max(axis=1)


def _mean(values: Sequence[bool] | np.ndarray) -> float:
    return float(np.mean(values))


def _batches(clips: Clips, size: int) -> Iterator[list[np.ndarray]]:
    clips = iter(clips)
    while batch := list(itertools.islice(clips, size)):
        yield batch


def generated(spec: InputSpec) -> dict[str, Clips]:
    """Kinds of clips on which nobody acts; every number comes from one seed."""
    rng = np.random.default_rng(SEED)
    shape = spec.shape

    def black():
        return np.clip(rng.normal(3, 2, shape), 0, 255)

    def grey():
        return np.full(shape, rng.integers(0, 256))

    def noise():
        return rng.integers(0, 256, shape)

    def drawn(make) -> Clips:
        return (make().astype(np.uint8) for _ in range(COUNT))

    return {
        "rooms without people (generated)": (_room(number, spec) for number in range(COUNT)),
        "noise (generated)": drawn(noise),
        "black, sensor noise (generated)": drawn(black),
        "one grey value (generated)": drawn(grey),
    }


def _room(number: int, spec: InputSpec) -> np.ndarray:
    subject = 1 + number % 40
    clip = staging.ClipNumbers(1 + number % 17, 1 + number % 3, subject, 1, 1)
    return staged(clip, spec, seed=SEED + number, people=False)


def left_out(config: ConfigDict, spec: InputSpec) -> dict[str, Clips]:
    """The test clips of the classes that the run did not learn, where its data set is built."""
    found: dict[str, Clips] = {}
    names = config.dataset.get("leave_out", ())
    if not names:
        return found
    whole = loading.open_dataset(config.dataset.name, config.dataset.data_dir)
    for name in names:
        reader = make_reader(config, whole.only(name), "test", (spec.modality,))
        clips = (reader.centre(place) for place in range(len(reader.records)))
        found[f"left out: {name}"] = (
            clip["clips"][spec.modality] for clip in clips if clip["mask"] > 0
        )
    return found


def brought(films: Sequence[str], spec: InputSpec) -> dict[str, Clips]:
    """The windows of films that somebody brings, all of them one kind."""
    if not films:
        return {}

    def windows() -> Clips:
        sources, lost = playback.find_videos(films)
        for error in lost:
            once(f"left out: {error}")
        for source in sources:
            film = Film(source, threads=0, tolerant=True)
            planned = grid.plan(film.timing, SECONDS, STRIDE, spec.num_segments)
            for window in playback.windows(film, spec, planned):
                yield window.frames

    return {f"brought: {', '.join(map(str, films))}": windows()}


def section(found: Sequence[Told]) -> Section:
    """The table of a run's page."""
    lead = (
        "AUROC: the probability that a test clip is more familiar than one of these, 0.5 for a "
        "guess; beside it that of the largest probability of an action, which a network gives to "
        "anything. "
        "Rejected: by the thresholds that were chosen on validation subjects, or because the "
        "pictures are black, constant or stand still. Generated clips were rendered or drawn, "
        "nobody filmed them."
    )
    return table_section(TITLE, HEADERS, [row(told) for told in found], lead)


def row(told: Told) -> list[str]:
    """Cells below `HEADERS`."""
    areas = ["–" if area is None else f"{area:.2f}" for area in told[2:4]]
    return [told.kind, str(told.clips), *areas, percent(told.unrecognised, 0)]

"""The calibration of a run's networks on its validation subjects, written beside its results."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.data.records import Chosen
from jax_irkd.data.spec import background_of
from jax_irkd.errors import UserError
from jax_irkd.host.files import read_json, write_whole
from jax_irkd.metrics import calibration, classification
from jax_irkd.metrics.calibration import Calibration
from jax_irkd.training.evaluation import Network, Scores, evaluate
from jax_irkd.training.setup import make_reader

CALIBRATION = "calibration.json"  # in a run's folder, by `key_of` a network
REJECTED = 0.05  # share of the true actions of validation subjects that are not recognised
MOST_TRAINED = 2000  # training clips that class means are taken from


def calibrate(
    network: Network, config: ConfigDict, dataset: loading.Dataset, modality: str
) -> Calibration:
    """The calibration of a trained network: class means of training clips, the rest of validation.

    Every process has to call it. Raises UserError without validation subjects.
    """
    reader = make_reader(config, dataset, "validation", (modality,))
    held = evaluate(network, config, reader)
    reader = make_reader(config, dataset, "train", (modality,))
    total = len(reader.records)
    places = np.unique(np.linspace(0, total - 1, min(total, MOST_TRAINED)).round().astype(int))
    records = Chosen(reader.records, places.tolist())
    trained = evaluate(network, config, reader.of(records))
    nothing = background_of(dataset.class_names)
    try:
        return calibration.fit(
            trained.logits, trained.labels, held.logits, held.labels, REJECTED, nothing
        )
    except ValueError as error:
        raise UserError(f"the validation clips cannot calibrate anything: {error}") from error


def key_of(step: int, averaged: bool) -> str:
    """The name of a network of a run: its step, and whether it has the averaged parameters."""
    return f"{step}_ema" if averaged else str(step)


def keep(folder: Path, made: Mapping[str, Calibration]) -> None:
    """Write the calibrations of a run's networks, by `key_of`."""
    if jax.process_index() == 0:
        held = {key: one.as_json() for key, one in made.items()}
        write_whole(folder / CALIBRATION, json.dumps(held))


def kept(folder: Path, step: int, averaged: bool = False) -> dict[str, Any] | None:
    """The calibration of a network of the run in `folder` as JSON; None where it has none.

    Raises UserError for one that cannot be read: its answers would be others, and nobody told.
    """
    path = folder / CALIBRATION
    if not path.exists():
        return None
    remedy = "delete it, and the run is used as one that is not calibrated"
    found = read_json(path, remedy)
    try:
        found = found.get(key_of(step, averaged))
        return found and Calibration.from_json(found).as_json()
    except (AttributeError, ValueError) as error:
        raise UserError(f"{path} holds {error}; {remedy}") from error


def figures(made: Calibration, scores: Scores, background: int | None = None) -> dict[str, Any]:
    """What a calibration changes on the test split, for the results of a run.

    `rejected_test` is the share of true actions that are not recognised; one that is taken for the
    class `background` is not.
    """
    probabilities = calibration.softmax(scores.logits)
    counts = made.recognised(probabilities) & (probabilities.argmax(axis=1) != background)
    after = np.log(np.maximum(made.probabilities(probabilities), calibration.FAINTEST))
    found: dict[str, Any] = {
        "temperature": made.temperature,
        "clips": made.clips,
        "rejected": made.rejected,
        "rejected_test": float(1 - counts[scores.labels != background].mean()),
    }
    for name, logits in (("before", scores.logits), ("after", after)):
        found[f"ece_{name}"] = classification.calibration_error(logits, scores.labels)
        found[f"nll_{name}"] = classification.negative_log_likelihood(logits, scores.labels)
    return found

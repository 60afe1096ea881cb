"""What a phase does against classes with few clips: weights, or another order of the clips."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jax_irkd.data.loading import Dataset
from jax_irkd.data.sampling import balanced_weights, class_counts
from jax_irkd.training.phase import Phase
from jax_irkd.training.selection import select


class Measures(NamedTuple):
    """The weights of the classes in the cross-entropy, and the labels by which clips are drawn.

    `extra` are those of the clips without partners that go beside pairs.
    """

    weights: Float[np.ndarray, " k"] | None = None
    labels: list[int] | None = None
    extra: list[int] | None = None


def measures(config: ConfigDict, dataset: Dataset, phase: Phase) -> Measures:
    """Those that the phase asks for; the clips' labels are read only where it does.

    Clips without partners count in the cross-entropy as pairs do, so they count here: in the
    weights by how often a step draws a class among both.
    """
    training = phase.training
    weighs, draws = training.class_weights == "balanced", training.sampling == "balanced"
    if not weighs and not draws:
        return Measures()
    beside = training.get("extra_clips", 0) if phase.distillers else 0
    chosen = [select(config, dataset, "train", phase.modalities)]
    if beside:
        chosen.append(select(config, dataset, "train", ("infrared",), single=True))
    labels = [clips.labels(dataset, config.input.threads) for clips in chosen]
    if draws:
        return Measures(None, *labels)
    counts = [class_counts(found, len(dataset.class_names)) for found in labels]
    if beside:
        drawn = (training.batch_size, beside)
        counts = [clips * found / max(found.sum(), 1) for clips, found in zip(drawn, counts)]
    return Measures(balanced_weights(sum(counts)))

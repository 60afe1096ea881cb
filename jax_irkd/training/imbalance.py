"""What a phase does against classes with few clips: weights, or another order of the clips."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jax_irkd.data.loading import Dataset
from jax_irkd.data.sampling import balanced_weights
from jax_irkd.training.phase import Phase
from jax_irkd.training.selection import select


class Measures(NamedTuple):
    """The weights of the classes in the cross-entropy, and the labels by which clips are drawn."""

    weights: Float[np.ndarray, " k"] | None = None
    labels: list[int] | None = None


def measures(config: ConfigDict, dataset: Dataset, phase: Phase) -> Measures:
    """Those that the phase asks for; the clips' labels are read only where it does."""
    training = phase.training
    weighs, draws = training.class_weights == "balanced", training.sampling == "balanced"
    if not weighs and not draws:
        return Measures()
    chosen = select(config, dataset, "train", phase.modalities)
    labels = chosen.labels(dataset, config.input.threads)
    weights = balanced_weights(labels, len(dataset.class_names)) if weighs else None
    return Measures(weights, labels if draws else None)

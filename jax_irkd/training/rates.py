"""A learning-rate range test (Smith, WACV 2017): a run while its rate grows.

    found = range_test(phase, config, dataset)
    found.suggested

Nothing is kept of what was trained.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float
from ml_collections import ConfigDict

from jax_irkd.data.loading import Dataset
from jax_irkd.errors import UserError
from jax_irkd.models.folding import without_norms
from jax_irkd.training import balance
from jax_irkd.training.loop import Trainer
from jax_irkd.training.parallel import replicate
from jax_irkd.training.phase import Phase

SMOOTHING = 0.9  # of the running mean of the losses
TOO_MUCH = 2.0  # times the lowest mean: the loss has left for good
FEWEST = 10  # steps of which something can be said


class RangeTest(NamedTuple):
    """The rate and the loss of every step, and the running mean of the losses."""

    rates: Float[np.ndarray, " n"]
    losses: Float[np.ndarray, " n"]
    means: Float[np.ndarray, " n"]

    @property
    def lowest(self) -> float:
        """The rate at which the mean loss is lowest: there it begins to be too large."""
        return float(self.rates[np.argmin(self.means)])

    @property
    def suggested(self) -> float:
        """A tenth of it, the usual choice for the peak of a schedule."""
        return self.lowest / 10


def ramp(low: float, high: float, steps: int) -> Callable:
    """low (high / low)^(i / (steps - 1)) in step i."""
    growth = math.log(high / low) / (steps - 1)
    return lambda step: low * jax.numpy.exp(growth * step)


def running_means(losses: list[float]) -> Float[np.ndarray, " n"]:
    """Exponential means, each divided by what its weights add up to."""
    mean, found = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**count))
    return np.array(found)


def range_test(
    phase: Phase,
    config: ConfigDict,
    dataset: Dataset,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    shown: Callable[[int, float], None] = lambda step, loss: None,
) -> RangeTest:
    """Losses of `steps` updates of the phase while its learning rate grows from `low` to `high`.

    The optimiser, the batches and the losses are those of a run, without warm-up and schedule. It
    ends early where the loss has left for good. Raises UserError where too few steps are left.
    """
    training = phase.training.copy_and_resolve_references()
    training.update(learning_rate=1.0, schedule="constant", warmup_epochs=0.0)
    learner = dataclasses.replace(phase, training=training)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(learner, config, dataset, Path(folder))
        rate = ramp(low, high, steps)
        # An update of either optimiser is its learning rate times something without it.
        trainer.tx = optax.chain(trainer.tx, optax.scale_by_schedule(rate))
        trainer.schedule = rate
        for loss in _losses(trainer, steps):
            losses.append(loss)
            shown(len(losses), loss)
            means = running_means(losses)
            if not np.isfinite(loss) or means[-1] > TOO_MUCH * means.min():
                break
    kept = [loss for loss in losses if np.isfinite(loss)]
    if len(kept) < FEWEST:
        raise UserError(
            f"the loss left after {len(kept)} steps, at a rate of {float(rate(len(kept))):.2g}; "
            f"begin lower than --low={low:g}"
        )
    rates = np.array([float(rate(step)) for step in range(len(kept))])
    return RangeTest(rates, np.array(kept), running_means(kept))


def _losses(trainer: Trainer, steps: int):
    phase = trainer.phase
    teacher, variables = without_norms(*(phase.teacher or (None, None)))
    updates = {measure: trainer.make_update(teacher, measure) for measure in (False, True)}
    state, variables = replicate((trainer._initial_state(), variables), trainer.devices)
    batches = trainer._batches(0)
    asked = np.zeros((len(trainer.devices), 1), bool)
    for step in range(1, steps + 1):
        measure = balance.is_due(step, len(phase.distillers))
        state, terms = updates[measure](state, variables, trainer._next(batches, step), asked)
        yield float(terms["loss"])

"""The learning-rate range test."""

import numpy as np
import optax
import pytest

from jax_irkd.errors import UserError
from jax_irkd.training import rates
from jax_irkd.training.logs import read_log
from jax_irkd.training.loop import Trainer
from jax_irkd.training.optimizers import make_optimizer
from tests.helpers import fakes


def test_means_and_ramp_by_hand():
    # 0.9 * 0.1 * 4 + 0.1 * 2 = 0.56, over 1 - 0.81.
    np.testing.assert_allclose(rates.running_means([4.0, 2.0]), [4.0, 0.56 / 0.19])
    rate = rates.ramp(1e-4, 1.0, 5)
    np.testing.assert_allclose([rate(i) for i in range(5)], [1e-4, 1e-3, 1e-2, 0.1, 1], rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_scaled_updates_are_those_of_the_rate(optimizer):
    training = fakes.config(optimizer=optimizer, schedule="constant").student_training
    params = {"w": np.array([1.0, -2.0], np.float32)}
    gradients = [{"w": np.array(g, np.float32)} for g in ([0.5, 1.0], [-1.0, 0.25])]
    moved = []
    for rate in (0.01, 1.0):
        training.learning_rate = rate
        tx, _ = make_optimizer(training, 10, 5)
        if rate == 1.0:
            tx = optax.chain(tx, optax.scale_by_schedule(lambda step: 0.01))
        state, updates = tx.init(params), []
        for gradient in gradients:
            update, state = tx.update(gradient, state, params)
            updates.append(update["w"])
        moved.append(updates)
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-5)


def fake(monkeypatch, losses):
    class Trainer:
        tx = optax.identity()

        def __init__(self, *args):
            pass

    monkeypatch.setattr(rates, "Trainer", Trainer)
    monkeypatch.setattr(rates, "_losses", lambda trainer, steps: iter(losses))


def test_a_tenth_of_where_the_loss_is_lowest(monkeypatch):
    config = fakes.config()
    falls, leaves = list(np.linspace(2, 0.5, 30)), [10.0] * 30
    fake(monkeypatch, falls + leaves)
    seen = []
    found = rates.range_test(
        fakes.phase(config), config, None, low=1e-4, high=1.0, steps=60,
        shown=lambda step, loss: seen.append(step),
    )  # fmt: skip
    assert 31 <= len(found.rates) < 40 and seen == list(range(1, len(found.rates) + 1))
    np.testing.assert_allclose(found.lowest, found.rates[29], rtol=1e-6)
    np.testing.assert_allclose(found.suggested, found.rates[29] / 10, rtol=1e-6)
    assert config.student_training.learning_rate == 0.05  # the configuration stays as it was


def test_a_loss_that_leaves_at_once_is_said(monkeypatch):
    fake(monkeypatch, [1.0, 1.0, float("nan")])
    config = fakes.config()
    with pytest.raises(UserError, match=r"left after 2 steps, .* begin lower than --low=0\.1"):
        rates.range_test(fakes.phase(config), config, None, low=0.1, high=1.0, steps=50)


@pytest.mark.slow
def test_the_first_losses_are_those_of_a_run(tmp_path):
    config = fakes.config(learning_rate=1e-5)
    phase = fakes.phase(config)
    found = rates.range_test(phase, config, fakes.dataset(), low=1e-5, high=3.0, steps=20)
    assert len(found.losses) >= rates.FEWEST and np.isfinite(found.suggested)
    Trainer(phase, config, fakes.dataset(), tmp_path).run()
    first = next(line["loss"] for line in read_log(tmp_path) if line["kind"] == "train")
    np.testing.assert_allclose(found.losses[0], first, rtol=1e-5)

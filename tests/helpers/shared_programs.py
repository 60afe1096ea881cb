"""Trainers of one module that compile the same share it: most of a short run is compilation."""

import jax
import jax.numpy as jnp
import pytest

from jax_irkd.training import loop, steps


def _about(config, phase) -> str:
    """All that `programs.bind_update` and `fresh_state` read, but for the number of steps."""
    teacher = phase.teacher and phase.teacher.model
    made = phase.modality, phase.model, phase.distillers, phase.shares, teacher
    return repr((config.seed, config.input.to_dict(), phase.training.to_dict(), made))


@pytest.fixture(autouse=True, scope="module")
def shared_programs():
    updates, states = {}, {}
    bind, draw = loop.Trainer.make_update, loop.fresh_state

    def update(trainer, teacher, measure=False):
        length = trainer.num_steps, trainer.steps_per_epoch, repr(trainer._against.weights)
        key = (_about(trainer.config, trainer.phase), repr(teacher), measure, length)
        key += (tuple(trainer.devices), steps.train_step)
        if key not in updates:
            updates[key] = bind(trainer, teacher, measure)
        return updates[key]

    def fresh_state(config, phase, tx):
        key = _about(config, phase)
        if key not in states:
            states[key] = jax.device_get(draw(config, phase, tx))
        return jax.tree.map(jnp.array, states[key])  # an update gives its state away

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "make_update", update)
        patch.setattr(loop, "fresh_state", fresh_state)
        yield

"""`method=NAME` to an update by the path of the main command: every method, all joined."""

import contextlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import distillers
from jax_irkd.errors import UserError
from jax_irkd.models import resnet
from jax_irkd.models.folding import without_norms
from jax_irkd.training import parallel, programs, setup
from jax_irkd.training.optimizers import make_optimizer
from jax_irkd.training.phase import Network, Phase
from tests.helpers import fakes
from tests.helpers.quick_compile import quick_compile  # noqa: F401


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Two narrow networks of depth 10, with every feature that a method may ask for."""
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))


def small(method: str):
    config = fakes.config(method)
    config.student_model.depth = config.teacher_model.depth = 10
    config.teacher_model.width = 6
    return config


def one_update(method: str):
    """The state before and after one update over two devices, and the logged terms."""
    config = small(method)
    teacher_model = setup.make_model(config.teacher_model, 3, config.dtype)
    clip = jnp.zeros((1, 2, 32, 32, 3))
    variables = jax.jit(lambda x: teacher_model.init(jax.random.key(1), x, train=False))(clip)
    phase = Phase(
        name=method,
        modality="infrared",
        model=setup.make_model(config.student_model, 3, config.dtype),
        training=config.student_training,
        distillers=setup.make_distillers(config.distillers),
        teacher=Network(teacher_model, variables),
    )
    tx, schedule = make_optimizer(phase.training, 10, 5, False)
    state = programs.fresh_state(config, phase, tx)
    before = jax.tree.map(np.asarray, state.params)
    folded, weights = without_norms(*phase.teacher)
    update = programs.bind_update(
        config, phase, teacher_model=folded, tx=tx, schedule=schedule, steps_per_epoch=5
    )
    devices = jax.devices()[:2]
    update = parallel.on_devices(update, devices, in_axes=(None, None, 0, 0), donate=(0,))
    rng = np.random.default_rng(0)
    batch = {
        "clips": {
            "rgb": rng.integers(0, 256, (6, 2, 32, 40, 3), dtype=np.uint8),
            "infrared": rng.integers(0, 256, (6, 2, 32, 40, 1), dtype=np.uint8),
        },
        "label": np.arange(6, dtype=np.int32) % 3,
        "mask": np.ones(6, np.float32),
        "seed": rng.integers(2**32, size=6, dtype=np.uint32),
    }
    stop = np.zeros((2, 1), bool)
    state, weights = parallel.replicate((state, weights), devices)
    state, terms = update(state, weights, parallel.split(batch, 2), stop)
    return before, state, {name: float(value) for name, value in terms.items()}


@pytest.mark.skipif("CHAOS" not in os.environ, reason="make chaos")
def test_all_methods_compose():
    method = "+".join(distillers.names())
    before, state, terms = one_update(method)
    assert int(state.step) == 1 and np.isfinite(list(terms.values())).all()
    for name in method.split("+"):
        own = [value for key, value in terms.items() if key.split("_")[0] == name]
        # Factors of the one position that is left of 32 pixels are 1.
        assert own and (sum(own) != 0 or name == "ft"), terms
    moved = jax.tree.map(lambda x, y: bool(np.any(x != np.asarray(y))), before, state.params)
    for name, parts in moved.items():  # the student; regressors, embeddings, fusions
        assert any(jax.tree.leaves(parts)), name


@pytest.mark.parametrize("name", distillers.names())
def test_every_method_is_reached_by_its_name(name):
    """Its row becomes its module with its defaults, ready for several devices."""
    [(key, made)] = setup.make_distillers(small(name).distillers).items()
    assert key == name and type(made) is distillers.get(name)
    alone = type(made)()
    assert made == (alone.clone(axis_name="batch") if hasattr(alone, "axis_name") else alone)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "refused"), [("fitnet", True), ("rkd", True), ("dkd", False)])
def test_a_share_of_what_is_frozen_is_refused_before_a_teacher_is_trained(name, refused):
    config = small(name)
    config.distillers[name].share, config.student_model.frozen = 0.5, "stage4"
    expected = pytest.raises(UserError, match=rf"{name} gives the student no gradient.*share=0\.5")
    with expected if refused else contextlib.nullcontext():
        setup.check_fit(config, setup.make_distillers(config.distillers), 3)

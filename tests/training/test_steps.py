import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_irkd.config import get_training
from jax_irkd.data import augment
from jax_irkd.errors import UserError
from jax_irkd.training import objective, setup, steps
from jax_irkd.training.optimizers import make_optimizer
from jax_irkd.training.programs import Views, bind_evaluation
from tests.helpers import fakes, networks

PREPARE = functools.partial(
    augment.prepare_training, resolution=32, scales=(1.0, 0.8), flip=True, colour_jitter=0.2
)
LEARNING_RATE = 0.1


def batch_of(clips: int = 8, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "clips": {
            "rgb": rng.integers(0, 256, (clips, 2, 32, 40, 3), dtype=np.uint8),
            "infrared": rng.integers(0, 256, (clips, 2, 32, 40, 1), dtype=np.uint8),
        },
        "label": (np.arange(clips) % 3).astype(np.int32),
        "mask": np.ones(clips, np.float32),
        "seed": rng.integers(2**32, size=clips, dtype=np.uint32),
    }


def quick(clips, keys):
    """In place of the augmentation, which takes long to compile."""
    return {name: x[:, :, :, :32] / 255.0 for name, x in clips.items()}


def setting(methods=(), *, sync=True, tx=None, model=None, prepare=quick, **options):
    """A step function of (state, teacher, batch), a state and a teacher's variables.

    `methods` are names, or names with the fields of their distillers.
    """
    model = model or fakes.TinyModel(axis_name=steps.AXIS if sync else None)
    teacher = fakes.teacher()
    fields = methods if isinstance(methods, dict) else {name: {} for name in methods}
    made = setup.make_distillers(fields)
    tx = tx or optax.sgd(LEARNING_RATE)
    state = steps.init_state(
        jax.random.key(0),
        segments=2,
        resolution=32,
        channels=1,
        model=model,
        distillers=made,
        teacher=functools.partial(teacher.model.apply, teacher.variables, train=False),
        tx=tx,
        ema=options.get("ema_decay", 0) > 0,
    )
    step = functools.partial(
        steps.train_step,
        model=model,
        teacher_model=teacher.model,
        distillers=made,
        tx=tx,
        prepare=prepare,
        modality="infrared",
        seed=0,
        steps_per_epoch=10,
        **options,
    )
    return step, state, teacher.variables


def on_devices(step, count: int):
    """`step` over `count` devices, emulated on one."""

    def run(state, teacher, batch):
        split = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
        mapped = jax.vmap(step, in_axes=(None, None, 0), axis_name=steps.AXIS)
        return mapped(state, teacher, split)

    return jax.jit(run)


def first(tree):
    return jax.tree.map(lambda x: x[0], tree)


def assert_close(left, right, **tolerance):
    expected = dict(jax.tree_util.tree_leaves_with_path(right))
    for path, leaf in jax.tree_util.tree_leaves_with_path(left):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, expected[path], err_msg=name, **tolerance)


@functools.cache
def one_device():
    """A setting and what one device makes of a batch in it."""
    made = setting(["dkd", "mgcam"], prepare=PREPARE)
    step, state, teacher = made
    return *made, *on_devices(step, 1)(state, teacher, batch_of())


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_the_update_does_not_depend_on_the_number_of_devices(count):
    step, state, teacher, one_state, one_terms = one_device()
    state, terms = on_devices(step, count)(state, teacher, batch_of())
    for name, value in terms.items():
        np.testing.assert_allclose(value[0], one_terms[name][0], rtol=2e-5, atol=1e-6, err_msg=name)
    for replica in range(count):
        assert_close(
            jax.tree.map(lambda x, r=replica: x[r], state), first(one_state), rtol=1e-4, atol=2e-6
        )


@pytest.mark.slow
def test_every_term_is_in_the_loss():
    *_, terms = one_device()
    terms = first(terms)
    others = ("loss", "accuracy", "gradient_norm", "rejected")
    parts = [value for name, value in terms.items() if "/" not in name and name not in others]
    np.testing.assert_allclose(terms["loss"], sum(parts), rtol=1e-6)
    assert len(parts) >= 3


def test_cross_entropy_by_hand():
    # softmax([0, log 3]) = [1/4, 3/4]; smoothing 0.2 over two classes gives targets [0.1, 0.9].
    logits = jnp.array([[0.0, np.log(3.0)]])
    labels = jnp.array([1])
    np.testing.assert_allclose(objective.cross_entropy(logits, labels), -np.log(0.75), rtol=1e-6)
    expected = -(0.1 * np.log(0.25) + 0.9 * np.log(0.75))
    np.testing.assert_allclose(objective.cross_entropy(logits, labels, 0.2), expected, rtol=1e-6)
    # Weights of the classes: 2 and 5 times; the mean is over two clips, whatever their weights.
    pair, both = jnp.concatenate([logits, logits]), jnp.array([0, 1])
    weighted = objective.cross_entropy(pair, both, weights=jnp.array([2.0, 5.0]))
    np.testing.assert_allclose(weighted, -(2 * np.log(0.25) + 5 * np.log(0.75)) / 2, rtol=1e-6)


def test_soft_labels_by_hand():
    # -(0.3 log 1/4 + 0.7 log 3/4); one-hot rows are labels.
    logits, soft = jnp.array([[0.0, np.log(3.0)]]), jnp.array([[0.3, 0.7]])
    expected = -(0.3 * np.log(0.25) + 0.7 * np.log(0.75))
    np.testing.assert_allclose(objective.cross_entropy(logits, soft), expected, rtol=1e-6)
    row = objective.cross_entropy(logits, jnp.array([[0.0, 1.0]]), 0.2)
    np.testing.assert_allclose(row, objective.cross_entropy(logits, jnp.array([1]), 0.2))


def test_mixing_needs_an_even_number_on_every_device():
    config = fakes.config()
    setup.check_twos(config, config.student_training, 4)
    config.input.mixup = 0.2
    setup.check_twos(config, config.student_training, 3)
    with pytest.raises(UserError, match=r"batch_size=6 over 2 devices in 1 parts .* multiple of 4"):
        setup.check_twos(config, config.student_training, 2)


@pytest.mark.slow
def test_the_update_is_gradient_descent():
    model = fakes.TinyModel(norm=False, dropout=0.0)
    step, state, teacher = setting(model=model, prepare=PREPARE)
    batch = batch_of(4)
    after, _ = on_devices(step, 1)(state, teacher, batch)
    keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(0), s))(batch["seed"])
    clips = jax.jit(PREPARE)(jax.tree.map(jnp.asarray, batch["clips"]), keys)

    def loss(params):
        logits = model.apply({"params": params}, clips["infrared"], train=True).logits
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), batch["label"]])

    before = state.params["model"]
    gradients = jax.jit(jax.grad(loss))(before)
    expected = jax.tree.map(lambda p, g: p - LEARNING_RATE * g, before, gradients)
    assert_close(first(after).params["model"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_accumulation_gives_what_the_big_batch_gives():
    model = fakes.TinyModel(norm=False)
    whole, state, teacher = setting(model=model)
    cut, *_ = setting(model=model, accumulation=4)
    big, big_terms = on_devices(whole, 1)(state, teacher, batch_of())
    small, small_terms = on_devices(cut, 1)(state, teacher, batch_of())
    assert_close(small.params, big.params, rtol=1e-5, atol=1e-6)
    for name in big_terms:
        np.testing.assert_allclose(small_terms[name], big_terms[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_an_update_that_is_not_finite_is_not_applied(count):
    step, state, teacher = setting(ema_decay=0.9)
    run = on_devices(step, count)
    broken = jax.tree.map(lambda x: x, teacher)
    poisoned, _ = run(state, broken, batch_of())
    state = first(poisoned)
    bad = state._replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
    after, terms = run(bad, teacher, batch_of())
    after = first(after)
    assert int(after.step) == int(state.step) + 1 and int(after.rejected) == 1
    assert_close(after.batch_stats, state.batch_stats)
    assert_close(after.ema, state.ema)
    _, terms = run(first(run(bad, teacher, batch_of())[0]), teacher, batch_of())
    assert first(terms)["rejected"] == 2
    good, _ = run(state, teacher, batch_of())
    assert int(first(good).rejected) == 0


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_learning_rate_is_that_of_the_step_after_a_rejected_update_too(optimizer):
    """It lagged behind the one that is logged, by a step for each; no moment moves, though."""
    training = get_training()
    training.optimizer, training.learning_rate, training.clip_norm = optimizer, 1.0, 1e6
    training.weight_decay, training.momentum = 0.0, 0.5
    tx, schedule = make_optimizer(training, 4, 4)  # a tenth from the third update on
    step, state, teacher = setting(tx=tx, model=fakes.TinyModel(norm=False))
    run = on_devices(step, 1)
    for _ in range(2):
        bad = state._replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
        after = first(run(bad, teacher, batch_of())[0])
        assert_close(_moments(after.opt_state), _moments(state.opt_state))
        state = after._replace(params=state.params)
    assert float(schedule(state.step)) == pytest.approx(0.1)
    good, terms = run(state, teacher, batch_of())
    moved = jax.tree.map(jnp.subtract, first(good).params, state.params)
    if optimizer == "sgd":  # its first update is the rate times the gradient
        gradient = float(first(terms)["gradient_norm"])
        assert float(optax.tree.norm(moved)) == pytest.approx(0.1 * gradient, rel=1e-4)
    else:  # Adam's first moves what has a gradient by the rate
        largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(moved))
        assert largest == pytest.approx(0.1, rel=1e-3)


def _moments(opt_state):
    """What an optimiser holds but for the counts of its schedule."""

    def is_count(part):
        return isinstance(part, optax.ScaleByScheduleState)

    parts = jax.tree.leaves(opt_state, is_leaf=is_count)
    return [part for part in parts if not is_count(part)]


@pytest.mark.slow
def test_the_running_mean_follows_the_parameters():
    step, state, teacher = setting(ema_decay=0.75)
    after, _ = on_devices(step, 1)(state, teacher, batch_of())
    mean = jax.tree.map(
        lambda old, new: 0.75 * old + 0.25 * new, state.ema, first(after).params["model"]
    )
    assert_close(first(after).ema, mean, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_the_teacher_gets_no_gradient_and_stays_in_evaluation_mode():
    step, state, teacher = setting(["dkd"])
    run = on_devices(step, 1)
    loss = lambda variables: first(run(state, variables, batch_of())[1])["loss"]  # noqa: E731
    gradient = jax.grad(lambda v: loss({"params": v, "batch_stats": teacher["batch_stats"]}))(
        teacher["params"]
    )
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_evaluation_gathers_every_clip():
    model = fakes.TinyModel()
    batch = batch_of() | {"index": np.arange(8, dtype=np.int32)}
    variables = networks.draw(model, 1, 2, 32, 32, 1)
    prepare = functools.partial(augment.prepare_evaluation, resolution=32, scale=0.9)
    step = functools.partial(steps.eval_step, model=model, prepare=prepare, modality="infrared")
    one = on_devices(lambda state, teacher, batch: step(state, batch), 1)(variables, None, batch)
    four = on_devices(lambda state, teacher, batch: step(state, batch), 4)(variables, None, batch)
    np.testing.assert_allclose(one["logits"][0], four["logits"][2], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(four["index"][1], np.arange(8))


@pytest.mark.slow
def test_several_views_are_the_mean_of_each():
    model, views = fakes.TinyModel(), Views(clips=2, crops=3)
    batch = batch_of(2) | {"index": np.arange(2, dtype=np.int32)}
    variables = networks.draw(model, 1, 2, 32, 32, 1)

    def scores(infrared, bound):
        step = bind_evaluation(model, "infrared", 32, 0.8, bound)
        shown = batch | {"clips": {"infrared": infrared}}
        run = on_devices(lambda state, teacher, batch: step(state, batch), 1)
        return run(variables, None, shown)["logits"][0]

    @jax.jit
    def one(view, crop):
        clips = augment.prepare_evaluation({"x": view}, resolution=32, scale=0.8, crop=crop)
        return model.apply(variables, clips["x"], train=False).logits

    frames = batch["clips"]["infrared"]
    twice = np.concatenate([frames, frames[:, ::-1] // 2], axis=1)  # two views, two frames each
    expected = []
    crops = augment.evaluation_crops(3, 0.8)
    for view in (frames, frames[:, ::-1] // 2):
        for i in range(3):
            expected.append(one(jnp.asarray(view), jax.tree.map(lambda x, i=i: x[i], crops)))
    np.testing.assert_allclose(scores(twice, views), np.mean(expected, axis=0), atol=2e-6)


def flops(methods) -> float:
    """Operations of an update, those left out whose results nobody reads."""
    step, state, teacher = setting(methods)
    return on_devices(step, 1).lower(state, teacher, batch_of()).cost_analysis()["flops"]


@pytest.mark.slow
def test_only_what_the_methods_read_is_computed():
    alone = flops({})
    stage1, stage2, stage4 = (
        flops({"at": {"layers": [layer]}}) - alone for layer in ("stage1", "stage2", "stage4")
    )
    logits = flops({"dkd": {}}) - alone
    # A 3x3 convolution of the teacher, 6 to 6 channels, on the 8x8 maps of 16 frames, of which
    # one window in ten or so lies over the border; and AT takes less on stage2's smaller maps.
    convolution = 2 * 3 * 3 * 6 * 6 * 8 * 8 * 16
    assert 0.5 * convolution < stage2 - stage1 < convolution
    assert stage2 < stage4
    # Logits need all stages and little more: no map is averaged or pooled that nobody reads.
    np.testing.assert_allclose(logits, stage4, rtol=0.01)

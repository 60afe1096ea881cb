"""Pulls and shares, computed again from gradients that are taken by themselves."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import distillers
from jax_irkd.errors import UserError
from jax_irkd.fields import make_shares
from jax_irkd.training import balance, setup, steps
from jax_irkd.training.logs import read_log
from jax_irkd.training.loop import Trainer
from tests.helpers import ROOT, fakes
from tests.helpers.quick_compile import quick_compile  # noqa: F401
from tests.training.test_steps import (
    LEARNING_RATE,
    assert_close,
    batch_of,
    first,
    on_devices,
    quick,
    setting,
)

SMOOTH = fakes.TinyModel(norm=False, dropout=0.0)
METHODS = {"at": {"layers": ["stage3"]}, "fitnet": {"layers": ["stage4"]}}
SHARES = {"fitnet": 2.0}


def lengths(ce, **others):
    return {name: jnp.float32(value) for name, value in {"ce": ce, **others}.items()}


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


def lose(name, params, statistics, clips, labels):
    """The loss of the labels (`ce`) or of a method of `METHODS` at its own weight."""
    student = SMOOTH.apply({"params": params["model"]}, clips["infrared"], train=True)
    if name == "ce":
        return -jnp.mean(jax.nn.log_softmax(student.logits)[jnp.arange(len(labels)), labels])
    teacher = fakes.teacher()
    taught = teacher.model.apply(teacher.variables, clips["rgb"], train=False)
    own = {"params": params["distillers"][name], "batch_stats": statistics["distillers"][name]}
    made = distillers.get(name)(**METHODS[name])
    terms, _ = made.apply(own, student, taught, labels, mutable=True)
    return sum(terms.values())


@functools.cache
def taken_apart():
    """Gradients of every loss at the first step, by name: {"model": ..., "distillers": ...}."""
    _, state, _ = setting(METHODS, model=SMOOTH)
    batch = batch_of()
    clips = quick(jax.tree.map(jnp.asarray, batch["clips"]), None)
    gradient = jax.jit(jax.grad(lose, argnums=1), static_argnums=0)
    given = state.params, state.batch_stats, clips, jnp.asarray(batch["label"])
    return {name: gradient(name, *given) for name in ("ce", *METHODS)}


@functools.cache
def measured():
    """The state before and after a measuring step, `fitnet` held at its share, and the terms."""
    step, state, teacher = setting(METHODS, model=SMOOTH, measure=True, shares=SHARES)
    return state, *first(on_devices(step, 1)(state, teacher, batch_of()))


@pytest.mark.slow
def test_pulls_are_those_of_gradients_taken_by_themselves():
    *_, terms = measured()
    own = {name: flat(tree["model"]) for name, tree in taken_apart().items()}
    for name in METHODS:
        pull = np.linalg.norm(own[name]) / np.linalg.norm(own["ce"])
        cosine = own[name] @ own["ce"] / np.linalg.norm(own[name]) / np.linalg.norm(own["ce"])
        np.testing.assert_allclose(terms[f"{name}/pull"], SHARES.get(name, pull), rtol=1e-4)
        np.testing.assert_allclose(terms[f"{name}/cosine"], cosine, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_share_is_the_length_of_what_is_added_to_the_labels_gradient():
    state, after, terms = measured()
    found = taken_apart()
    size = {name: np.linalg.norm(flat(tree["model"])) for name, tree in found.items()}
    multiplier = {"ce": 1.0, "at": 1.0, "fitnet": 2.0 * size["ce"] / size["fitnet"]}
    weight = multiplier["fitnet"] * distillers.get("fitnet")().weight
    np.testing.assert_allclose(terms["fitnet/weight"], weight, rtol=1e-4)
    assert "at/weight" not in terms
    np.testing.assert_allclose(
        terms["loss"], terms["ce"] + terms["at"] + terms["fitnet"], rtol=1e-6
    )

    def moved(choose):
        return (flat(choose(state.params)) - flat(choose(after.params))) / LEARNING_RATE

    expected = sum(factor * flat(found[name]["model"]) for name, factor in multiplier.items())
    np.testing.assert_allclose(moved(lambda p: p["model"]), expected, rtol=1e-3, atol=2e-5)
    # What the distiller itself learns follows the multiplied term.
    own = multiplier["fitnet"] * flat(found["fitnet"]["distillers"]["fitnet"])
    assert own.size
    np.testing.assert_allclose(moved(lambda p: p["distillers"]), own, rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_the_steps_between_use_what_was_measured():
    _, after, told = measured()
    plain, _, teacher = setting(METHODS, model=SMOOTH, shares=SHARES)
    _, terms = first(on_devices(plain, 1)(after, teacher, batch_of(seed=1)))
    assert terms["fitnet/weight"] == told["fitnet/weight"] > 0
    assert "fitnet/pull" not in terms


@pytest.mark.slow
def test_measuring_changes_no_update():
    measuring, state, teacher = setting(["dkd"], measure=True)
    plain, *_ = setting(["dkd"])
    one, terms = on_devices(measuring, 1)(state, teacher, batch_of())
    other, others = on_devices(plain, 1)(state, teacher, batch_of())
    assert_close(one.params, other.params, rtol=1e-5, atol=1e-7)
    assert_close({name: terms[name] for name in others}, others, rtol=1e-5)


@pytest.mark.slow
def test_no_balance_depends_on_the_number_of_devices():
    options = {"measure": True, "shares": {"sp": 0.3, "ccskd": 0.5}}
    step, state, teacher = setting({"sp": {}, "ccskd": {"layers": ["stage4"]}}, **options)
    one = first(on_devices(step, 1)(state, teacher, batch_of()))
    found = on_devices(step, 4)(state, teacher, batch_of())
    for replica in range(4):
        own = jax.tree.map(lambda x, r=replica: x[r], found)
        assert_close(own, one, rtol=1e-4, atol=5e-6)


@pytest.mark.slow
def test_an_accumulated_batch_is_balanced_as_a_whole():
    options = {"model": SMOOTH, "measure": True, "shares": {"at": 0.5}}
    whole, state, teacher = setting({"at": METHODS["at"]}, **options)
    cut, *_ = setting({"at": METHODS["at"]}, accumulation=4, **options)
    big = on_devices(whole, 1)(state, teacher, batch_of())
    small = on_devices(cut, 1)(state, teacher, batch_of())
    assert_close(small, big, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_runs_log_from_gradients_taken_by_themselves(tmp_path):
    """63 steps of the loop on two devices; from every step's parameters and clips all gradients in
    one, their lengths and running means in float64 NumPy."""
    held = {"at": 0.3, "fitnet": 2.0}
    config = fakes.config(num_epochs=21, learning_rate=0.01, eval_every=21.0)
    config.num_devices, config.checkpoints.every = 2, 100
    phase = fakes.phase(
        config,
        model=SMOOTH,
        distillers=setup.make_distillers(METHODS),
        shares=held,
        teacher=fakes.teacher(),
    )
    made = Trainer(phase, config, fakes.dataset(), tmp_path)
    bind, seen = made.make_update, []

    def recorded(teacher, measure=False):
        update = bind(teacher, measure)

        def watched(state, variables, batch, asked):
            kept = jax.device_get((state.params, state.batch_stats, batch))  # it is given away
            seen.append(kept)
            return update(state, variables, batch, asked)

        return watched

    made.make_update = recorded
    made.run()
    lines = [line for line in read_log(tmp_path) if line["kind"] == "train"]
    assert len(seen) == len(lines) == 63
    prepare = jax.jit(setup.make_augmentation(config.input))
    taken = jax.jit(lambda *given: [jax.grad(lose, 1)(name, *given) for name in ("ce", *METHODS)])
    means, measured = np.zeros(3), 0
    for line, (params, statistics, batch) in zip(lines, seen, strict=True):
        if line["step"] in (1, 4, 10, 60):
            batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
            keys = steps.clip_keys(config.seed, jnp.asarray(batch["seed"]))
            clips = prepare(batch["clips"], keys)
            found = taken(params, statistics, clips, batch["label"])
            own = [flat(tree["model"]) for tree in found]
            sizes, measured = np.array([np.sqrt(g @ g) for g in own]), measured + 1
            # The first counts whole, the second half; a new one never less than 60 steps are worth.
            new = max(1 / measured, 1 - np.exp(-60 / 60))
            means += new * (sizes - means)
        for place, name in enumerate(METHODS, 1):
            factor = held[name] * means[0] / means[place]
            weight = factor * distillers.get(name)().weight
            np.testing.assert_allclose(line[f"{name}/weight"], weight, rtol=1e-4)
            if line["step"] not in (1, 4, 10, 60):
                assert f"{name}/pull" not in line
                continue
            pull, cosine = factor * sizes[place] / sizes[0], own[place] @ own[0]
            np.testing.assert_allclose(line[f"{name}/pull"], pull, rtol=1e-4)
            cosine /= sizes[place] * sizes[0]
            np.testing.assert_allclose(line[f"{name}/cosine"], cosine, rtol=1e-3, atol=1e-5)


def test_running_means_by_hand():
    state = balance.initial(["at"])
    for ce, at in [(2.0, 1.0), (6.0, 3.0)]:
        state = balance.observe(state, lengths(ce, at=at))
    # Two measurements count alike; from the third on a new one counts 1 - exp(-30 / 60).
    np.testing.assert_allclose([state.lengths["ce"], state.lengths["at"]], [4.0, 2.0], rtol=1e-6)
    state = balance.observe(state, lengths(0.0, at=0.0))
    new = 1 - np.exp(-1 / 2)
    np.testing.assert_allclose(state.lengths["ce"], 4 * (1 - new), rtol=1e-6)
    assert int(state.measured) == 3
    np.testing.assert_allclose(balance.multipliers(state, {"at": 0.3})["at"], 0.6, rtol=1e-6)


@pytest.mark.parametrize(("ce", "at"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_lengths_of_zero_multiply_by_zero(ce, at):
    state = balance.observe(balance.initial(["at"]), lengths(ce, at=at))
    assert float(balance.multipliers(state, {"at": 0.3})["at"]) == 0
    zero = {"w": jnp.zeros(3)}
    found, cosines = balance.lengths_and_cosines({"ce": {"w": jnp.ones(3)}, "at": zero})
    assert float(found["at"]) == float(cosines["at"]) == 0


@pytest.mark.slow
def test_a_measurement_that_is_not_finite_is_forgotten():
    step, state, teacher = setting(["dkd"], measure=True, shares={"dkd": 0.3})
    run = on_devices(step, 1)
    good = first(run(state, teacher, batch_of())[0])
    broken = jax.tree.map(lambda x: x * jnp.nan, teacher)
    after, terms = run(good, broken, batch_of())
    assert first(terms)["rejected"] == 1
    assert_close(first(after).balance, good.balance, rtol=0, atol=0)


@pytest.mark.slow
def test_a_length_beyond_float32_is_forgotten_too():
    """Every number of the gradient fits float32, its square does not: a mean of inf, and with it a
    multiplier of 0, would stay for ever."""
    step, state, teacher = setting({"dkd": {"weight": 1e25}}, measure=True, shares={"dkd": 0.3})
    after, terms = first(on_devices(step, 1)(state, teacher, batch_of()))
    assert terms["rejected"] == 1 and np.isfinite(terms["dkd"])
    assert_close(after.balance, state.balance, rtol=0, atol=0)


def test_when_gradients_are_taken_apart():
    due = [step for step in range(1, 101) if balance.is_due(step, 1)]
    assert due == [1, 4, 10, 30, 60, 90]
    assert [step for step in range(11, 101) if balance.is_due(step, 2)] == [60]
    assert not any(balance.is_due(step, 0) for step in range(100))


def held(size: np.ndarray) -> list[float]:
    """The pulls of a gradient of these lengths in measurements 30 steps apart, at a share of 0.3
    of labels whose gradient has length 2."""
    state, found = balance.initial(["at"]), []
    for length in size:
        state = balance.observe(state, lengths(2.0, at=length))
        weights = balance.multipliers(state, {"at": 0.3})
        found.append(float(balance.pulls(lengths(2.0, at=length), weights)["at"]))
    return found


def test_a_constant_gradient_is_held_at_its_share():
    np.testing.assert_allclose(held(np.full(10, 7.0)), 0.3, rtol=1e-6)


@pytest.mark.parametrize(("falls", "left"), [(50.0, 0.71), (1.0, 1.0), (1 / 50, 1.25)])
def test_a_gradient_that_shrinks_is_held_below_its_share(falls, left):
    """Where the newest counts 1 - a and each is r times the one before, their mean is
    (1 - a) / (1 - a / r) times the newest. docs/training.md has the figure for fifty-fold."""
    a, ratio = np.exp(-30 / 60), falls ** (-30 / 675)
    lag = (1 - a / ratio) / (1 - a)
    assert round(lag, 2) == left
    np.testing.assert_allclose(held(5.0 * ratio ** np.arange(40))[-1], 0.3 * lag, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "clips"), [("cc", 1), ("rkd", 2)])
def test_rounding_is_not_held_at_a_share(name, clips):
    """One clip has no correlation, two have one distance, which is their mean: 0 on paper."""
    step, state, teacher = setting(
        {name: {}}, measure=True, shares={name: 0.3}, accumulation=8 // clips
    )
    after, terms = first(on_devices(step, 1)(state, teacher, batch_of()))
    assert after.balance.lengths[name] < 2e-6 * after.balance.lengths["ce"]
    assert terms[f"{name}/weight"] == terms[f"{name}/pull"] == 0


def test_the_least_that_was_held_is_far_above_rounding():
    """The last weights that the study of every method came to, over those of the methods."""
    page = (ROOT / "docs" / "results" / "methods" / "study.md").read_text("utf-8")
    found = re.findall(
        r"\| (\w+) \| ([\d.]+) \| \d[^|]+\|[^|]+\| [\d.]+ to ([\d.]+) \| \d+ \|", page
    )
    assert len(found) == 13
    for name, share, weight in found:
        own = float(share) / (float(weight) / distillers.get(name)().weight)
        assert own > 1000 * balance.NOISE, name
    state = balance.observe(balance.initial(["at"]), lengths(2.0, at=1.9e-5))
    assert float(balance.multipliers(state, {"at": 0.3})["at"]) == 0
    state = balance.observe(balance.initial(["at"]), lengths(2.0, at=2.1e-5))
    assert float(balance.multipliers(state, {"at": 0.3})["at"]) > 0


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("at", {"share": 0}, r"at: share must be a positive number, got 0"),
        ("at", {"share": float("nan")}, r"share must be a positive number, got nan"),
        ("at", {"share": "half"}, r"share must be a positive number, got 'half'"),
        ("at", {"share": 0.3, "weight": 5.0}, r"weight=5\.0 means nothing beside share=0\.3"),
        ("at", {"share": 0.3, "weight": 0}, r"weight=0 means nothing beside share=0\.3"),
        ("dkd", {"share": 0.3, "warmup_epochs": 5}, r"warmup_epochs=5 means nothing"),
        ("st", {"share": 0.3, "cross_entropy_weight": 0.1}, r"cross_entropy_weight=0\.1"),
        ("ccskd", {"share": 0.3, "schedule": "cifar"}, r"schedule='cifar' means nothing"),
    ],
)
def test_bad_shares_are_named(name, fields, message):
    with pytest.raises(UserError, match=message) as error:
        make_shares({name: fields})
    assert "\n" not in str(error.value)


def test_shares_are_no_field_of_the_module():
    section = {"at": {"share": 0.3}, "dkd": {"share": None, "weight": 2.0}}
    assert make_shares(section) == {"at": 0.3}
    assert setup.make_distillers(section)["dkd"].weight == 2.0


@pytest.mark.slow
def test_two_methods_cannot_share_the_name_of_a_term():
    step, state, teacher = setting(["dkd", "at"])
    twin = step.keywords["distillers"]["dkd"]
    step.keywords["distillers"]["at"] = twin
    with pytest.raises(ValueError, match=r"two distillers return a term named 'dkd'"):
        on_devices(step, 1).lower(state, teacher, batch_of())

"""What is said of measured pulls: who is warned of, and who is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.errors import UserError
from jax_irkd.training import balance, setup
from jax_irkd.training.loop import Trainer
from tests.helpers import fakes
from tests.helpers.quick_compile import quick_compile  # noqa: F401
from tests.training.test_balance import SMOOTH, lengths


def watch(shares, names=("at", "dkd"), steps=1000, clips=16):
    return balance.PullWatch(names, shares, steps=steps, clips=clips)


def seen(watching, pulls: dict[int, float]) -> list[str]:
    """What is warned of when `at` has these pulls in these steps."""
    return [told for step in pulls for told in watching.see(step, {"at/pull": pulls[step]})]


def test_a_loud_term_is_warned_of_once():
    watching = watch({})
    pulls = {"at": [9.0, 1.0, 5.0, 3.0, 4.0, 4.0], "dkd": [0.1] * 6}
    told = [
        watching.see(100 + step, {f"{name}/pull": values[step] for name, values in pulls.items()})
        for step in range(6)
    ]
    assert [len(messages) for messages in told] == [0, 0, 1, 0, 0, 0]
    assert "at pulls 5.0 times as hard as the labels (step 102)" in told[2][0]
    assert watching.see(107, {"loss": 1.0}) is None


@pytest.mark.parametrize(("steps", "first"), [(675, 150), (30, 30), (5000, 180)])
def test_a_fresh_network_is_not_warned_of(steps, first):
    """Judged are steps from 100 or a tenth of the run on; three of them make a warning."""
    due = [step for step in range(1, steps + 1) if balance.is_due(step, 1)]
    early = dict.fromkeys([step for step in due if step < min(100, steps / 10)], 50.0)
    assert seen(watch({}, steps=steps), early | dict.fromkeys(set(due) - early.keys(), 1.0)) == []
    [told] = seen(watch({}, steps=steps), dict.fromkeys(due, 3.0))
    assert f"(step {first})" in told


def test_two_loud_batches_of_five_are_none():
    pulls = dict(zip(range(100, 260, 20), [1.0, 1.0, 1.0, 9.0, 9.0, 1.0, 1.0, 1.0]))
    assert seen(watch({}), pulls) == []


def test_a_share_that_asks_for_no_more_is_not_warned_of():
    """Batches differ: a term held at 1 has pulls of 2.5 in between."""
    loud = dict.fromkeys(range(100, 200, 20), 2.5)
    assert seen(watch({"at": 1.0}), loud) == seen(watch({"at": 2.0}), loud) == []
    [told] = seen(watch({"at": 2.4}), loud)
    assert "at pulls 2.5 times as hard as the labels (step 140): as share=2.4 asks" in told
    [told] = seen(watch({"dkd": 0.3}), loud)
    assert "lower --config.distillers.at.weight" in told


def test_labels_without_a_gradient_are_no_loudness():
    found = balance.pulls(lengths(0.0, at=0.0, dkd=2.0, sp=2.0), {"sp": jnp.float32(0)})
    assert {name: float(pull) for name, pull in found.items()} == {"at": 0, "dkd": np.inf, "sp": 0}
    found = balance.pulls(lengths(4.0, at=0.0, dkd=2.0, sp=2.0), {"sp": jnp.float32(6)})
    assert {name: float(pull) for name, pull in found.items()} == {"at": 0, "dkd": 0.5, "sp": 3}
    assert not np.isfinite(balance.pulls(lengths(np.nan, at=2.0), {})["at"])
    unknown = dict(zip(range(100, 200, 20), [np.inf, np.inf, np.nan, np.inf, 0.1]))
    assert seen(watch({}), unknown) == seen(watch({"at": 3.0}), unknown) == []


@pytest.mark.parametrize(
    "pulls",
    [
        {1: 0.0, 4: 0.0, 10: 0.0},
        {1: np.nan, 4: 0.0, 10: 0.0, 20: 0.0},  # the first update was rejected
    ],
)
def test_a_share_without_a_gradient_is_refused_after_three_measurements(pulls):
    *before, last = pulls
    watching = watch({"at": 0.3})
    assert seen(watching, {step: pulls[step] for step in before}) == []
    with pytest.raises(UserError, match=r"at gives the student no gradient.*share=0\.3") as error:
        watching.see(last, {"at/pull": 0.0})
    assert f"3 measured batches in a row, up to step {last};" in str(error.value)
    assert "student_model.frozen" in str(error.value) and "\n" not in str(error.value)
    assert "clip" not in str(error.value)
    assert seen(watch({}), pulls) == []


def test_a_batch_of_one_class_is_not_refused():
    """CRD has no negatives there; four such batches in a row are an accident, five are not."""
    pulls = {1: 0.0, 4: 0.0, 10: 0.3, 20: 0.0, 40: 0.0, 60: 0.0, 80: np.nan, 100: 0.0}
    watching = watch({"at": 0.3})
    assert seen(watching, pulls) == []
    with pytest.raises(UserError, match="in 5 measured batches in a row, up to step 120"):
        watching.see(120, {"at/pull": 0.0})


@pytest.mark.parametrize(("clips", "words"), [(1, "1 clip at a time"), (4, "4 clips at a time")])
def test_few_clips_are_named_as_the_cause(clips, words):
    with pytest.raises(UserError, match=rf"compares {words} \(batch_size / accumulation\)"):
        seen(watch({"at": 0.3}, clips=clips), dict.fromkeys((1, 4, 10), 0.0))


@pytest.mark.slow
def test_the_loop_knows_how_many_clips_are_compared(tmp_path):
    """Six clips in six parts on one device: RKD compares one, and has no distance."""
    config = fakes.config(num_epochs=15, accumulation=6)
    phase = fakes.phase(
        config,
        model=SMOOTH,
        distillers=setup.make_distillers({"rkd": {}}),
        shares={"rkd": 0.3},
        teacher=fakes.teacher(),
    )
    with pytest.raises(UserError, match=r"up to step 10; it compares 1 clip at a time"):
        Trainer(phase, config, fakes.dataset(), tmp_path).run()

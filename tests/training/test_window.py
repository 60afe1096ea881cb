"""A line of the log: the mean over its steps, the same for a run that was stopped in between."""

import json

import numpy as np

from jax_irkd.training.window import LogWindow, measured

STEPS = [
    {"loss": loss, "rejected": 0.0, "learning_rate": 1 / step, "at/weight": 3.0 * step}
    for step, loss in enumerate((4.0, 1.0, 7.0), 1)
]


def test_a_line_is_the_mean_of_its_steps_and_the_next_begins_anew():
    window = LogWindow()
    for terms in STEPS:
        window.add(terms)
    want = {"loss": 4.0, "rejected": 0.0, "learning_rate": 1 / 3, "at/weight": 9.0}
    assert window.close(STEPS[-1]) == want
    window.add(STEPS[0])
    assert window.close(STEPS[0])["loss"] == 4.0


def test_sums_survive_a_checkpoint():
    whole, first = LogWindow(), LogWindow()
    for terms in STEPS:
        whole.add(terms | {"loss": terms["loss"] / 3})
    first.add(STEPS[0] | {"loss": STEPS[0]["loss"] / 3})
    later = LogWindow(json.loads(json.dumps(first.saved)))
    for terms in STEPS[1:]:
        later.add(terms | {"loss": terms["loss"] / 3})
    assert later.close(STEPS[-1]) == whole.close(STEPS[-1])


def test_a_rejected_step_counts_in_no_mean():
    window, bad = LogWindow(), {"loss": np.nan, "rejected": 1.0}
    window.add(STEPS[0])
    window.add(bad)
    assert window.close(bad) == {"loss": 4.0, "rejected": 1.0}
    window.add(bad)
    assert np.isnan(window.close(bad)["loss"])  # nothing else is known


def test_what_was_measured_in_one_batch_is_told_alone():
    terms = STEPS[0] | {"at/pull": 0.5, "at/cosine": 0.1}
    assert measured(STEPS[0]) == {}
    assert measured(terms) == {"at/weight": 3.0, "at/pull": 0.5, "at/cosine": 0.1}
    window = LogWindow()
    window.add(STEPS[1])
    window.add(terms)
    assert window.close(terms)["at/pull"] == 0.5  # of this batch, no mean

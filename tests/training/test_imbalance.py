"""Classes with few clips: what the loop hands to the update and to the reader."""

import numpy as np
import pytest

from jax_irkd.data import loading
from jax_irkd.training import loop
from tests.helpers import fakes

LABELS = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


class Caught(Exception):
    """What was about to be read."""


@pytest.mark.parametrize(
    ("fields", "weights", "labels"),
    [
        ({}, None, None),
        ({"class_weights": "balanced"}, [2 / 3, 4 / 3, 4 / 3], None),
        ({"sampling": "balanced"}, None, LABELS),
    ],
)
def test_the_loop_weighs_and_draws_as_asked(tmp_path, monkeypatch, fields, weights, labels):
    def read(reader, **options):
        raise Caught(options)

    bound = []
    monkeypatch.setattr(loading, "training_batches", read)
    monkeypatch.setattr(loop, "bind_update", lambda *_, **options: bound.append(options) or print)
    records = [fakes.record(label, i) for i, label in enumerate(LABELS)]
    splits = {"train_subjects_c1": records, "test_subjects_c1": records[:3]}
    data = loading.Dataset("fake/lopsided", fakes.CLASSES, splits, "fake")
    config = fakes.config(**fields)
    with pytest.raises(Caught) as caught:
        loop.Trainer(fakes.phase(config), config, data, tmp_path).run()
    assert caught.value.args[0]["balanced"] == labels
    given = bound[0]["class_weights"]
    assert given is None if weights is None else np.allclose(given, weights)

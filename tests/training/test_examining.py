"""Validation subjects: who they are, what is chosen by them, and when training ends."""

import signal

import numpy as np
import pytest

from jax_irkd.data import groups, loading
from jax_irkd.errors import UserError
from jax_irkd.host.interrupts import Interrupted
from jax_irkd.runs.identity import identity_of
from jax_irkd.runs.network import load_network
from jax_irkd.runs.results import IDENTITY
from jax_irkd.training import selection, setup
from jax_irkd.training.checkpoints import Checkpoints
from jax_irkd.training.logs import read_log
from jax_irkd.training.loop import Trainer
from tests.helpers import fakes
from tests.helpers.shared_programs import shared_programs  # noqa: F401
from tests.training.test_loop import assert_identical, final_leaves, stop_at


def config(validation=0.34, **training):
    made = fakes.config(**training)
    made.input.validation = validation
    return made


def clips(made, split):
    reader = setup.make_reader(made, fakes.dataset(), split, ("infrared",))
    return [str(reader.centre(i)["clip_id"]) for i in range(len(reader.records))]


def test_whole_subjects_are_kept_aside_and_the_others_train():
    made = config()
    train, held, test = (clips(made, split) for split in ("train", "validation", "test"))
    before = clips(config(0.0), "train")
    assert sorted(train + held) == sorted(before) and len(held) == 6
    assert not {i[8:12] for i in train} & {i[8:12] for i in held}
    assert test == clips(config(0.0), "test")
    with pytest.raises(UserError, match=r"set input\.validation, 0\.1 say"):
        clips(config(0.0), "validation")


def test_the_choice_depends_on_the_names_alone():
    names = [f"P{i:03d}" for i in range(40)]
    few = groups.kept_aside(names, 0.1)
    assert len(few) == 4 and set(few) < set(groups.kept_aside(names[::-1] * 3, 0.3))
    assert groups.kept_aside(["a", "b"], 0.01) == groups.kept_aside(["b", "a"], 0.49)
    with pytest.raises(ValueError, match="1 group"):
        groups.kept_aside(["a", "a"], 0.5)


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["S001C001P001R001A001"] * 4, [0, 1, 2, 0], r"of one group \(subjects: P001\)"),
        (["S001C001P001R001A001", "S001C001P002R001A001"], [0, 1], "no training clips of 1 clas"),
    ],
)
def test_what_cannot_be_divided_is_refused(names, labels, message):
    data = fakes.dataset()
    for split, rows in data.splits.items():
        if split.startswith("train"):
            rows[:] = [row | {"clip_id": n, "label": k} for row, n, k in zip(rows, names, labels)]
    with pytest.raises(UserError, match=message):
        setup.make_reader(config(), data, "train", ("infrared",))


def test_background_alone_validates_nothing():
    """The person kept aside does nothing; the others act (0) and do nothing (1)."""
    names = [f"P{person}__{take}" for person in range(4) for take in range(2)]
    [aside] = groups.kept_aside([f"P{person}" for person in range(4)], 0.25)
    labels = [1 if name.startswith(aside) else int(name[-1]) for name in names]
    with pytest.raises(UserError, match="only clips of the class background are kept aside"):
        selection.divide(loading.Catalogue(names, labels), 0.25, background=1)
    assert selection.divide(loading.Catalogue(names, labels), 0.25)[1] == [aside]


@pytest.mark.parametrize("extra", [("nobody/1", 0), ("record 7", -1)])
@pytest.mark.parametrize("count", [1, 30])
def test_odd_clips_and_unreadable_records_leave_subjects_whole(extra, count):
    """Eight people; beside them clips of no name that says whose, or records without a name."""
    names = [f"{what}/P{person}__{take}" for what in "ab" for person in range(8) for take in "xy"]
    labels = [int(name.startswith("b")) for name in names]
    expected = set(groups.kept_aside([f"P{person}" for person in range(8)], 0.25))
    odd = [extra[0] + f" {i}" for i in range(count)]
    catalogue = loading.Catalogue([*odd, *names], [extra[1]] * count + labels)
    kind, aside, mask = selection.divide(catalogue, 0.25)
    assert kind == "named subjects" and {group for group in aside if group[0] == "P"} == expected
    assert mask[count:] == [name[2:4] in expected for name in names]
    share = round(count / 4) if extra[1] == 0 else 0  # of the odd clips, where they can be divided
    assert sum(mask[:count]) == share == len(aside) - 2


def test_a_run_without_validation_is_the_run_it_was():
    plain = identity_of(config(0.0), "baseline")
    assert not any("validation" in name or "patience" in name for name in plain)
    held = identity_of(config(), "baseline")
    assert held["input.validation"] == 0.34 and identity_of(config(), "teacher") != plain
    patient = [identity_of(config(patience=2, eval_every=e), "baseline") for e in (1.0, 2.0)]
    assert patient[0] != patient[1]  # how often it is looked at decides where it ends


PLAN = {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.4, 5: 0.9}  # accuracies that validation finds, by step


def planned(folder) -> Trainer:
    """A trainer that is examined after every step and finds what is planned."""
    made = config(num_epochs=4.0, eval_every=0.5, patience=2)
    trainer = Trainer(fakes.phase(made), made, fakes.dataset(), folder)
    examine, figures, now = trainer.examiner.examine, trainer.examiner._figures, []

    def watched(step, *networks):
        now.append(step)
        return examine(step, *networks)

    def found(scores):
        held = len(scores.labels) == len(trainer.examiner.validation.records)
        return figures(scores) | ({"top1": PLAN[now[-1]]} if held else {})

    trainer.examiner.examine, trainer.examiner._figures = watched, found
    return trainer


@pytest.mark.slow
def test_training_ends_when_validation_gets_no_better(tmp_path, monkeypatch, capsys):
    whole = planned(tmp_path / "whole")
    whole.run()
    assert whole.last == 4
    said = " ".join(capsys.readouterr().out.split())
    assert "ends early: 2 evaluations in a row were no better than the best, top-1 50.0%" in said
    assert whole.examiner.facts["best"]["step"] == 3  # of equals the latest
    assert whole.examiner.facts["validation"]["clips"] == 6
    logged = [(line["step"], line["validation_top1"]) for line in read_log(tmp_path / "whole")
              if line["kind"] == "eval"]  # fmt: skip
    assert logged == [(step, PLAN[step]) for step in (1, 2, 3, 4)]
    again = planned(tmp_path / "whole")
    again.run()
    assert again.last == 4
    # Stopped in between, it ends where it would have.
    cut = planned(tmp_path / "cut")
    stop_at(cut, 3, signal.SIGTERM)
    with pytest.raises(Interrupted):
        cut.run()
    planned(tmp_path / "cut").run()
    assert_identical(final_leaves(tmp_path / "whole"), final_leaves(tmp_path / "cut"))
    # And the best network is the best on validation subjects.
    monkeypatch.setattr(setup, "make_model", lambda *args, **kwargs: fakes.TinyModel())
    (tmp_path / "whole" / IDENTITY).write_text('{"input.validation": 0.34}')
    _, meta = load_network(tmp_path / "whole", "best")
    assert meta["step"] == 3 and "validation_top1" not in meta["figures"]
    assert "best on the test split" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_best_on_the_test_split_is_called_that(tmp_path, monkeypatch, capsys):
    made = fakes.config(num_epochs=1)
    Trainer(fakes.phase(made), made, fakes.dataset(), tmp_path).run()
    monkeypatch.setattr(setup, "make_model", lambda *args, **kwargs: fakes.TinyModel())
    load_network(tmp_path, "best")
    assert "is the best on the test split, so its figures are too good" in capsys.readouterr().err
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert np.isfinite(checkpoints.figures(checkpoints.best_step())["top1"])

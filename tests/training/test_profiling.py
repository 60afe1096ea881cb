import pytest

from jax_irkd import algorithm
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.training import setup
from jax_irkd.training.profiling import Clock, StepTrace
from tests.helpers import fakes


def test_a_clock_gives_the_rest_to_the_steps(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    clock = Clock()
    clock.begin(20)
    with clock.timed("data"):
        now += 2
    with clock.timed("steps"):
        now += 5
    now += 1  # fetching, logging
    assert clock.lap(24) == {"steps_per_s": 0.5, "ms/data": 500.0, "ms/steps": 1500.0}
    with clock.timed("evaluation"):
        now += 12
    clock.end()
    now += 1000
    expected = {"start": 0, "data": 2, "steps": 6, "evaluation": 12, "checkpoints": 0}
    assert clock.seconds == expected
    assert clock.data_share() == 0.25
    assert str(clock) == "time: 60% evaluation, 30% steps, 10% data, 0% start, 0% checkpoints"


def test_a_clock_that_never_ran():
    clock = Clock()
    clock.end()
    assert clock.data_share() == 0 and "0% steps" in str(clock)


def test_nothing_is_traced_unless_asked(tmp_path):
    with StepTrace(tmp_path / "profile", 0, 3, wanted=False) as trace:
        for step in (1, 2, 3):
            trace.before(step)
            trace.after(step, None)
    assert not (tmp_path / "profile").exists()


def test_main_refuses_what_has_no_steps_and_passes_the_flag_on(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: fakes.dataset())
    monkeypatch.setattr(setup, "make_model", lambda *args, **kwargs: fakes.TinyModel())
    asked = []

    def trainer(phase, config, dataset, folder, profile):
        asked.append(profile)
        raise UserError("that is enough")

    monkeypatch.setattr(algorithm, "Trainer", trainer)
    for method in ("baseline", "teacher"):
        with pytest.raises(UserError, match="that is enough"):
            algorithm.run(fakes.config(method), tmp_path, profile=True)
    assert asked == [True, True]
    for restart in (True, False):
        with pytest.raises(UserError, match=r"--profile traces .* tstdd has its own"):
            algorithm.run(fakes.config("tstdd"), tmp_path, restart, profile=True)
    (tmp_path / "baseline" / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"baseline has ended.*--restart to begin it anew"):
        algorithm.run(fakes.config("baseline"), tmp_path, profile=True)
    assert asked == [True, True]

import contextlib
import functools
import gzip
import json
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from jax_irkd.errors import UserError
from jax_irkd.host.interrupts import Interrupted
from jax_irkd.models.tsn import TSN
from jax_irkd.training import balance, evaluation, probe, setup, steps
from jax_irkd.training.checkpoints import Checkpoints
from jax_irkd.training.evaluation import Network
from jax_irkd.training.logs import read_log
from jax_irkd.training.loop import Trainer
from jax_irkd.training.optimizers import make_optimizer
from jax_irkd.training.steps import AXIS
from tests.helpers import fakes, networks
from tests.helpers.shared_programs import shared_programs  # noqa: F401

# Two optimisers' worth of state, randomness in crops and dropout, and a learnable distiller.
DISTILLERS = {
    "dkd": {},
    "mgcam": {"layers": ("stage3", "stage4")},
    "ccskd": {"layers": ("stage4",)},
    "fitnet": {"layers": ("stage4",)},
}


SHARES = {"dkd": 0.3, "fitnet": 1.0}


def trainer(
    folder, *, distill=None, shares=SHARES, config=None, profile=False, **training
) -> Trainer:
    config = config or fakes.config(**training)
    fields = {}
    if distill:
        made = setup.make_distillers(distill)
        fields = {"distillers": made, "shares": shares, "teacher": fakes.teacher()}
    return Trainer(fakes.phase(config, **fields), config, fakes.dataset(), folder, profile)


def final_leaves(folder) -> dict:
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.read(checkpoints.steps()[-1])[0]


def assert_identical(left: dict, right: dict):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def stop_at(made: Trainer, step: int, number: int) -> None:
    """Send this process a signal while `made` runs step `step`."""
    observe = made._observe

    def observed(pending):
        if pending and pending[0] == step - 1:
            os.kill(os.getpid(), number)
        return observe(pending)

    made._observe = observed


def scalars(folder, kind):
    hidden = ("time",)
    return [
        {k: v for k, v in line.items() if k not in hidden}
        for line in read_log(folder)
        if line["kind"] == kind
    ]


@pytest.mark.slow
def test_training_learns(tmp_path):
    config = fakes.config(num_epochs=25, learning_rate=0.1, eval_every=25.0)
    config.checkpoints.every = 100
    made = trainer(tmp_path, config=config)
    _, scores = made.run()
    assert np.mean(scores.logits.argmax(1) == scores.labels) >= 6 / 7
    losses = [line["loss"] for line in scalars(tmp_path, "train")]
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])


@pytest.mark.slow
def test_step_and_evaluation_are_compiled_once(tmp_path, monkeypatch):
    traced = []

    def counting(step, *args, **fields):
        traced.append(step.__name__)
        return step(*args, **fields)

    for step in (steps.train_step, steps.eval_step):
        monkeypatch.setattr(steps, step.__name__, functools.partial(counting, step))
    evaluation._eval_on.cache_clear()
    trainer(tmp_path, ema_decay=0.9).run()
    assert traced == ["train_step", "eval_step"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distill", "step", "number"),
    [(False, 2, signal.SIGTERM), (False, 3, signal.SIGUSR2), (True, 5, signal.SIGINT)],
)
def test_an_interrupted_run_ends_where_the_uninterrupted_one_ends(tmp_path, distill, step, number):
    config = fakes.config(ema_decay=0.9, optimizer="adamw", learning_rate=0.01)
    config.log_every = 4  # stopped between two lines of the log
    options = {"distill": distill and DISTILLERS, "config": config}
    trainer(tmp_path / "whole", **options).run()
    first = trainer(tmp_path / "cut", **options)
    stop_at(first, step, number)
    with pytest.raises(Interrupted, match=r"saved step \d of 6"):
        first.run()
    trainer(tmp_path / "cut", **options).run()
    assert_identical(final_leaves(tmp_path / "whole"), final_leaves(tmp_path / "cut"))
    for kind in ("train", "eval"):
        assert scalars(tmp_path / "whole", kind) == scalars(tmp_path / "cut", kind)
    steps = [line["step"] for line in scalars(tmp_path / "cut", "train")]
    assert steps == ([1, 4, 6] if distill else [4, 6])


def tensorboard_steps(folder, tag):
    steps = []
    for path in (folder / "tensorboard").iterdir():
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            steps += [event.step for value in event.summary.value if value.tag == tag]
            content = content[16 + length :]
    return steps


@pytest.mark.slow
def test_the_pull_of_every_term_is_in_the_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(balance, "SETTLED", 0)  # so short a run would not be judged
    config = fakes.config(num_epochs=4)
    config.log_every = 5
    trainer(tmp_path, distill=DISTILLERS, config=config).run()
    lines = {line["step"]: line for line in scalars(tmp_path, "train")}
    # Besides every fifth and the last, the steps in which gradients are taken apart: alone.
    assert list(lines) == [1, 4, 5, 10, 12]
    for step, line in lines.items():
        assert ("loss" in line) == (step in (5, 10, 12))
        for name in DISTILLERS:
            measured = step in (1, 4, 10)
            assert (f"{name}/pull" in line) == (f"{name}/cosine" in line) == measured
            assert (f"{name}/weight" in line) == (name in SHARES)
    np.testing.assert_allclose(lines[1]["fitnet/pull"], 1.0, rtol=1e-4)
    assert lines[4]["dkd/weight"] == lines[5]["dkd/weight"] != lines[10]["dkd/weight"]
    assert tensorboard_steps(tmp_path, "train/dkd/pull") == [1, 4, 10]
    said = [text for text in capsys.readouterr().out.splitlines() if text.startswith("warning: ")]
    loud = [n for n in DISTILLERS if np.median([lines[s][f"{n}/pull"] for s in (1, 4, 10)]) > 2]
    assert sorted(text.split()[1] for text in said) == sorted(loud) and "ccskd" in loud


@pytest.mark.slow
def test_a_run_from_before_the_balance_goes_on(tmp_path):
    """Its checkpoints have none; with weights as they were it is measured anew."""
    options = {"distill": {"dkd": {}}, "shares": {}}
    made = trainer(tmp_path, **options)
    stop_at(made, 3, signal.SIGTERM)
    with pytest.raises(Interrupted):
        made.run()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        step = checkpoints.steps()[-1]
        leaves, meta = checkpoints.read(step)
        old = {name: leaf for name, leaf in leaves.items() if not name.startswith("balance/")}
        assert len(old) < len(leaves)
        checkpoints._manager.delete(step)
        checkpoints.save(step, old, meta)
    trainer(tmp_path, **options).run()
    assert final_leaves(tmp_path)["balance/measured"] == (1 if step < 4 else 0)


@pytest.mark.slow
def test_logs_hold_every_step_once_after_a_crash(tmp_path):
    made = trainer(tmp_path)
    save = made._save

    def crash_after_step_four(step, *args):
        save(step, *args)
        if step == 4:
            made.checkpoints.wait()
            made.log.write(5, "train", {"loss": 1.0})  # written, but its state never saved
            raise MemoryError("killed")

    made._save = crash_after_step_four
    with pytest.raises(MemoryError):
        made.run()
    trainer(tmp_path).run()
    assert [line["step"] for line in scalars(tmp_path, "train")] == [1, 2, 3, 4, 5, 6]
    # The first step after a start compiles: it has no time of its own.
    assert [line["step"] for line in scalars(tmp_path, "time")] == [2, 3, 4, 6]
    assert tensorboard_steps(tmp_path, "train/loss") == [1, 2, 3, 4, 5, 6]
    assert tensorboard_steps(tmp_path, "time/ms/data") == [2, 3, 4, 6]
    assert tensorboard_steps(tmp_path, "eval/top1") == [3, 6]


@pytest.mark.slow
def test_a_kill_during_an_evaluation_loses_no_step(tmp_path):
    trainer(tmp_path / "whole").run()
    trained = []
    for killed in (3, 6, None):
        made = trainer(tmp_path / "cut")
        crash_after_evaluation(made, killed)
        made._next = functools.partial(note_step, made._next, trained)
        with pytest.raises(MemoryError) if killed else contextlib.nullcontext():
            made.run()
    assert trained == [1, 2, 3, 4, 5, 6]
    for kind in ("train", "eval"):
        assert scalars(tmp_path / "whole", kind) == scalars(tmp_path / "cut", kind)
    assert_identical(final_leaves(tmp_path / "whole"), final_leaves(tmp_path / "cut"))
    with Checkpoints(tmp_path / "cut" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.is_scored(6) and checkpoints.best_step()


def note_step(following, trained: list, batches, step: int):
    trained.append(step)
    return following(batches, step)


def crash_after_evaluation(made: Trainer, step: int | None) -> None:
    """Let `made` end when `step` is examined and logged, and its figures are not saved."""
    evaluate = made._evaluate

    def crash(now, state):
        figures = evaluate(now, state)
        if now == step:
            made.checkpoints.wait()  # an evaluation is longer than a save
            raise MemoryError("killed")
        return figures

    made._evaluate = crash


@pytest.mark.slow
def test_a_finished_run_trains_no_further(tmp_path):
    _, scores = trainer(tmp_path).run()
    log = (tmp_path / "metrics.jsonl").read_text()
    _, again = trainer(tmp_path).run()
    np.testing.assert_array_equal(scores.logits, again.logits)
    assert (tmp_path / "metrics.jsonl").read_text() == log


def test_time_is_accounted_for(tmp_path, capsys):
    made = trainer(tmp_path)
    made.run()
    seconds = made.clock.seconds
    assert all(
        seconds[name] > 0 for name in ("start", "data", "steps", "evaluation", "checkpoints")
    )
    assert capsys.readouterr().out.splitlines()[-1].startswith("time: ")
    assert 0 < made.clock.data_share() < 1
    lines = scalars(tmp_path, "time")
    assert [line["step"] for line in lines] == [2, 3, 4, 5, 6]
    for line in lines:
        told = [value for name, value in line.items() if name.startswith("ms/")]
        np.testing.assert_allclose(sum(told) * line["steps_per_s"], 1000, rtol=1e-6)
    assert {"ms/data", "ms/steps", "ms/evaluation", "ms/checkpoints"} < set(lines[2])


@pytest.mark.slow
def test_the_device_waits_for_nobody(tmp_path):
    """Terms are fetched while the next step is under way, and the state's memory is used again."""
    config = fakes.config(eval_every=2.0)
    config.checkpoints.every = 4
    made, seen = trainer(tmp_path, config=config), []
    update_of, observe = made.make_update, made._observe

    def watched(teacher, measure):
        update = update_of(teacher, measure)

        def call(state, *arguments):
            seen.append("update")
            changed = update(state, *arguments)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
            return changed

        return call

    def observed(pending):
        if pending:
            seen.append(f"fetch {pending[0]}")
        return observe(pending)

    made.make_update, made._observe = watched, observed
    made.run()
    assert seen == [
        "update", "update", "fetch 1", "update", "fetch 2", "update", "fetch 3",
        "fetch 4",  # before it is saved
        "update", "update", "fetch 5", "fetch 6",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    made = trainer(tmp_path, num_epochs=500)
    timer = [
        threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGINT)) for delay in (0, 0.01)
    ]
    observe = made._observe

    def interrupted_twice(pending):
        if pending and pending[0] == 2:
            for one in timer:
                one.start()
            for one in timer:
                one.join()
        return observe(pending)

    made._observe = interrupted_twice
    with pytest.raises(KeyboardInterrupt):
        made.run()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_devices_share_the_work_without_changing_it(tmp_path):
    """Twenty steps with synchronised batch norm on 1, 2 and 8 devices."""
    losses, leaves = {}, {}
    for devices in (1, 2, 8):
        config = fakes.config(num_epochs=10, batch_size=8, eval_every=10.0, learning_rate=0.01)
        config.num_devices, config.checkpoints.every = devices, 100
        folder = tmp_path / str(devices)
        phase = fakes.phase(config, model=fakes.TinyModel(axis_name=AXIS))
        _, scores = Trainer(phase, config, fakes.dataset(), folder).run()
        losses[devices] = [line["loss"] for line in scalars(folder, "train")]
        leaves[devices] = final_leaves(folder) | {"logits": scores.logits}
    assert len(losses[1]) == 20
    for devices in (2, 8):
        np.testing.assert_allclose(losses[devices], losses[1], rtol=1e-5)
        for name, leaf in leaves[1].items():
            np.testing.assert_allclose(leaves[devices][name], leaf, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_moves_to_another_number_of_devices(tmp_path):
    config = fakes.config()
    config.num_devices = 2
    made = trainer(tmp_path, config=config)
    stop_at(made, 3, signal.SIGTERM)
    with pytest.raises(Interrupted):
        made.run()
    config = fakes.config()
    config.num_devices = 3
    trainer(tmp_path, config=config).run()
    assert [line["step"] for line in scalars(tmp_path, "train")] == [1, 2, 3, 4, 5, 6]


def test_a_frozen_teacher_is_folded(tmp_path):
    model = TSN(num_classes=3, depth=18, width=2)
    teacher = Network(model, networks.draw(model, 1, 1, 32, 32, 3))
    config, methods = fakes.config(), setup.make_distillers(DISTILLERS)
    phase = fakes.phase(config, distillers=methods, teacher=teacher)
    made = Trainer(phase, config, fakes.dataset(), tmp_path)

    def stop_with(model, measure):
        raise InterruptedError(model.norm)

    made.make_update = stop_with
    with pytest.raises(InterruptedError, match="False"):
        made._train(None, 0)
    assert made.phase.teacher is teacher  # the report looks at the network that was trained


def trace_of(folder) -> set[str]:
    """The names of a trace's events; of a step with its number."""
    [path] = (folder / "profile").glob("plugins/profile/*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return {f"{e.get('name')} {e.get('args', {}).get('step_num', '')}".strip() for e in events}


@pytest.mark.slow
def test_a_profile_of_a_resumed_run(tmp_path):
    made = trainer(tmp_path, num_epochs=4)
    stop_at(made, 3, signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        made.run()
    done = int(str(stopped.value).split("saved step ")[1].split()[0])
    trainer(tmp_path, num_epochs=4, profile=True).run()
    names = trace_of(tmp_path)
    assert {f"baseline {done + number}" for number in (5, 6, 7, 8)} < names
    assert not {f"baseline {done + number}" for number in (4, 9)} & names
    assert {"data", "steps", "evaluation"} < names


@pytest.mark.slow
def test_a_profile_needs_steps_and_a_place(tmp_path):
    message = r"steps 5 to 8 after a start, but of the 6 steps of this phase only 6 are left"
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, profile=True).run()
    (tmp_path / "profile").write_text("not a folder")
    with pytest.raises(UserError, match=r"no profile can be written to .*profile"):
        trainer(tmp_path, num_epochs=4, profile=True).run()


@pytest.mark.slow
def test_updates_that_stay_infinite_stop_the_run_and_name_the_clips(tmp_path):
    config = fakes.config(num_epochs=10)
    config.max_rejected = 3
    made = trainer(tmp_path, config=config)
    initial = made._initial_state

    def poisoned():
        state = initial()
        return state._replace(params=jax.tree.map(lambda x: x * np.nan, state.params))

    made._initial_state = poisoned
    with pytest.raises(UserError, match=r"3 updates in a row were not finite.*step 0\..*--restart"):
        made.run()  # step 2 was not saved: nobody could go on from it
    dump = json.loads(next(tmp_path.glob("rejected_batches_*.json")).read_text())
    assert len(dump["3"]) == 6 and dump["3"][0].startswith("S001C001")


def diverging(folder, rate, steps, milestone) -> Trainer:
    """The probe of doctor with a rate of its own, all figures of which are finite at first."""
    made = probe.make_trainer(folder)
    made.num_steps, made.eval_every, made.config.checkpoints.every = steps, milestone, 4
    made.phase.training.learning_rate = rate
    made.tx, made.schedule = make_optimizer(made.phase.training, steps, made.steps_per_epoch)
    return made


@pytest.mark.parametrize("milestone", [2, 100])
def test_a_run_that_blows_up_ends_in_one_line_and_saves_no_broken_state(tmp_path, milestone):
    """At an evaluation between rejected updates, and at too many of them; a second start, too."""
    for _ in range(2):
        with pytest.raises(UserError, match=r"not finite.*Lower the learning rate.*--restart"):
            diverging(tmp_path, 1e25, 30, milestone).run()
        assert not final_steps(tmp_path)


def test_an_evaluation_after_one_rejected_update_is_saved(tmp_path, monkeypatch, capsys):
    """The parameters are those before it, and good."""
    made = diverging(tmp_path, 1e-3, 4, 4)
    make_update = made.make_update

    def rejecting(teacher, measure=False):
        update = make_update(teacher, measure)

        def updated(state, *given):
            state, terms = update(state, *given)
            return state, terms | {"rejected": (state.step == 4).astype(jnp.float32)}

        return updated

    made.make_update = rejecting
    made.run()
    assert final_steps(tmp_path) == [4]
    assert "the last 1 updates were not finite" in capsys.readouterr().out


@pytest.mark.slow
def test_another_number_type_after_a_stop_is_told(tmp_path, monkeypatch, capsys):
    """A run begun on a CPU and continued on a GPU, by dtype=auto."""
    trainer(tmp_path, num_epochs=2).run()
    monkeypatch.setattr(setup, "computed_in", lambda dtype: "bfloat16")
    trainer(tmp_path, num_epochs=4).run()
    said = capsys.readouterr().out
    assert "computed in float32 up to step 6, from here on in bfloat16" in said


def final_steps(folder) -> list[int]:
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        return list(checkpoints.steps())


def test_a_full_disk_leaves_earlier_checkpoints_and_the_run_goes_on(tmp_path, caplog):
    made = trainer(tmp_path)
    initial = made._initial_state

    def full_at_step_four():
        manager = made.checkpoints._manager
        save = manager.save

        def failing(step, **arguments):
            if step == 4:
                raise OSError(28, "No space left on device")
            return save(step, **arguments)

        manager.save = failing
        return initial()

    made._initial_state = full_at_step_four
    made.run()
    assert "step 4 could not be written" in caplog.text and "disk is full" in caplog.text
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == 6


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0]),
        ("step", [0.0, 0.5, 1.0, 1.0, 0.1]),
        ("cosine", [0.0, 0.5, 1.0, 0.5, 0.0]),
    ],
)
def test_schedules_by_hand(schedule, expected):
    # Ten steps an epoch, one epoch of warm-up, forty steps in all, so thirty to decay in.
    training = fakes.config(learning_rate=1.0, warmup_epochs=1.0, schedule=schedule)
    _, rate = make_optimizer(training.student_training, 40, 10)
    at = [0, 5, 10, 25, 40] if schedule == "cosine" else [0, 5, 10, 24, 25]
    np.testing.assert_allclose([rate(step) for step in at], expected, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_norms_do_not_decay(optimizer):
    norm = {"scale": np.ones(2, np.float32)}
    block = {"norm1": norm, "conv1": {"kernel": np.ones(2, np.float32)}}
    params = {"model": {"backbone": {"stem": {"norm": norm}, "stage1_block0": block}}}
    training = fakes.config(optimizer=optimizer, weight_decay=0.1).student_training
    tx, _ = make_optimizer(training, 10, 5, partial_bn=True)
    still = jax.tree.map(np.zeros_like, params)
    updates, _ = tx.update(still, tx.init(params), params)
    backbone = updates["model"]["backbone"]
    assert (backbone["stage1_block0"]["norm1"]["scale"] == 0).all()
    assert (backbone["stage1_block0"]["conv1"]["kernel"] < 0).all()
    assert (backbone["stem"]["norm"]["scale"] < 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, r"unknown optimizer 'lion'; choose one of \['adamw', 'sgd'\]"),
        ({"schedule": "sine"}, r"unknown schedule 'sine'; choose one of \['constant', 'cosine'"),
        ({"batch_size": 7}, r"a batch of 7 clips cannot be divided by 8 devices"),
    ],
)
def test_bad_training_options_are_named(tmp_path, change, message):
    config = fakes.config(**change)
    config.num_devices = 0 if "batch_size" in change else 1
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, config=config)

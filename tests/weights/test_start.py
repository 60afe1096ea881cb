"""Start a network from a finished run. Checkpoints hold random numbers: nothing is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import algorithm
from jax_irkd.config import paper_setup
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.models.tsn import TSN
from jax_irkd.runs.results import json
from jax_irkd.training.checkpoints import Checkpoints
from jax_irkd.weights import __main__ as command
from jax_irkd.weights import start, torchvision
from tests.helpers import fakes

CLASSES = ("a", "b", "c")


def variables(classes=3, channels=1, width=4, seed=0, **fields):
    """Random variables of a TSN, positive so that they pass for variances."""
    model = TSN(num_classes=classes, width=width, **fields)
    clips = jax.ShapeDtypeStruct((1, 1, 32, 32, channels), jnp.float32)
    init = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), clips)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), init)


def save_run(folder, learnt, class_names=CLASSES, modality="infrared", width=4):
    config = paper_setup("baseline", "cross_subject", 0)
    for model in (config.teacher_model, config.student_model):
        model.depth, model.width = 18, width
    meta = {
        "name": "baseline",
        "modality": modality,
        "class_names": list(class_names),
        "input_offset": "offset" in learnt["params"]["backbone"]["stem"],
        "config": json.loads(config.to_json_best_effort()),
        "step": 7,
    }
    state = {
        "step": np.int32(7),
        "params": {"model": learnt["params"], "distillers": {}},
        "batch_stats": {"model": learnt["batch_stats"], "distillers": {}},
        "opt_state": {"trace": np.ones(3, np.float32)},
    }
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(7, state, meta)
    return str(folder)


def equal(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"), variables(seed=1))


@pytest.mark.slow
def test_everything_is_taken_where_the_classes_agree(run, capsys):
    filled = start.start_from(run, CLASSES)(variables(seed=2))
    assert equal(filled, variables(seed=1))
    assert "step 7: all parameters" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("names", [("a", "b", "c", "d"), ("c", "b", "a")])
def test_the_head_of_other_classes_stays_fresh(run, names):
    fresh = variables(len(names), seed=2)
    filled = start.start_from(run, names)(fresh)
    assert equal(filled["params"]["head"], fresh["params"]["head"])
    learnt = variables(seed=1)
    assert equal(filled["params"]["backbone"], learnt["params"]["backbone"])
    assert equal(filled["batch_stats"], learnt["batch_stats"])


def test_a_run_without_input_offset_gets_a_zero_one(run):
    filled = start.start_from(run, CLASSES)(variables(seed=2, input_offset=True))
    stem = filled["params"]["backbone"]["stem"]
    assert not stem.pop("offset")["kernel"].any()
    assert equal(stem, variables(seed=1)["params"]["backbone"]["stem"])


def test_an_rgb_run_starts_an_infrared_network_as_a_file_of_it_would(tmp_path):
    learnt = variables(channels=3, seed=1)
    folder = save_run(tmp_path / "rgb", learnt, modality="rgb")
    torchvision.save(tmp_path / "rgb.safetensors", learnt)
    fresh = variables(seed=2, input_offset=True)
    by_file = start.start_from(str(tmp_path / "rgb.safetensors"), CLASSES)(fresh)
    assert equal(start.start_from(folder, CLASSES)(fresh), by_file)


def test_what_does_not_fit_is_explained(run, tmp_path):
    with pytest.raises(UserError, match=r"the run in .* holds a ResNet-18 of width 4 .* width 8"):
        start.start_from(run, CLASSES)(variables(width=8))
    with pytest.raises(UserError, match="holds no run"):
        start.start_from(str(tmp_path), CLASSES)(variables())
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        start.start_from(str(tmp_path / "nowhere"), CLASSES)(variables())
    assert start.start_from("", CLASSES) is None


class Caught(Exception):
    """What `main` was about to train."""


@pytest.mark.slow
def test_training_starts_at_step_zero_with_the_runs_parameters(run, tmp_path, monkeypatch):
    """What main binds, put into a Trainer's first state: no step, no optimiser state."""
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: fakes.dataset())

    def caught(phase, config, dataset, *rest):
        raise Caught(phase, dataset)

    monkeypatch.setattr(algorithm, "train", caught)
    config = fakes.config("baseline")
    config.weights.student = run
    with pytest.raises(Caught) as found:
        algorithm.run(config, tmp_path)
    phase, dataset = found.value.args
    trainer = algorithm.Trainer(phase, config, dataset, tmp_path / "new")
    fresh = variables(len(dataset.class_names), seed=2, input_offset=True)
    monkeypatch.setattr(
        "jax_irkd.training.steps.init_state",
        lambda *args, model, tx, **rest: _fresh_state(fresh, tx),
    )
    state = trainer._initial_state()
    assert int(state.step) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    assert equal(state.batch_stats["model"], variables(seed=1)["batch_stats"])
    assert equal(state.params["model"]["head"], fresh["params"]["head"])
    stage = "stage4_block1"
    assert equal(
        state.params["model"]["backbone"][stage], variables(seed=1)["params"]["backbone"][stage]
    )


def _fresh_state(fresh, tx):
    from jax_irkd.training.steps import TrainState

    params = {"model": fresh["params"], "distillers": {}}
    stats = {"model": fresh["batch_stats"], "distillers": {}}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, stats, tx.init(params), {}, zero, {})


def test_a_run_becomes_a_small_file_that_starts_an_infrared_network(tmp_path, capsys):
    learnt = variables(channels=3)
    save_run(tmp_path / "run", learnt, modality="rgb")
    out = tmp_path / "start.safetensors"
    assert command.main(["save", f"--run={tmp_path / 'run'}", f"--out={out}"]) == 0
    assert "start.safetensors" in capsys.readouterr().out
    fresh = variables(classes=7, input_offset=True, seed=1)
    filled = start.start_from(str(out), "abcdefg")(fresh)
    block = filled["params"]["backbone"]["stage2_block0"]["conv1"]["kernel"]
    wanted = learnt["params"]["backbone"]["stage2_block0"]["conv1"]["kernel"]
    np.testing.assert_allclose(block, wanted, rtol=1e-3)
    head = filled["params"]["head"]["kernel"]
    np.testing.assert_array_equal(head, fresh["params"]["head"]["kernel"])


def test_a_run_that_is_not_there_is_one_line(tmp_path, capsys):
    assert command.main(["save", f"--run={tmp_path}", f"--out={tmp_path / 'a.safetensors'}"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_unknown_shipped_weights_are_named():
    with pytest.raises(UserError, match="no weights shipped:nothing come with the package"):
        start.start_from("shipped:nothing", CLASSES)

"""The temporal shift in all that is made of a network: training, Grad-CAM, files."""

import functools
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import student_runs

from jax_irkd.deployment import program
from jax_irkd.deployment.archive import export_run
from jax_irkd.deployment.classifier import Rules, open_classifier
from jax_irkd.deployment.recognizer import Recognizer
from jax_irkd.models import resnet
from jax_irkd.models.tsn import TSN
from jax_irkd.reporting.gradcam import grad_cam
from jax_irkd.training import setup, steps
from jax_irkd.training.evaluation import Network

KINDS = ("shift", "causal")


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Depth 10, one block a stage: quick to compile."""
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))


def _network(**fields) -> TSN:
    return TSN(**{"num_classes": 3, "depth": 10, "width": 8, "temporal": "shift", **fields})


def _gradient(network: TSN, variables: dict, clips: jax.Array) -> tuple[dict, dict]:
    """Gradients of the mean square of the logits, and the new batch statistics."""

    def loss(params):
        outputs, state = network.apply(
            {**variables, "params": params}, clips, train=True, mutable="batch_stats"
        )
        return jnp.mean(outputs.logits**2), state["batch_stats"]

    return networks.jit(jax.grad(loss, has_aux=True))(variables["params"])


def test_remat_changes_nothing_but_memory():
    clips = networks.normal(2, 3, 40, 40, 1)
    network = _network(dropout=0.0)
    variables = networks.draw(network, *clips.shape)
    expected, result = (
        _gradient(model, variables, clips) for model in (network, network.clone(remat=True))
    )
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(compare, result, expected)


def test_what_a_segment_learns_from_its_neighbour():
    """The kernel rows of shifted channels get a gradient from the neighbour's input alone."""
    network = _network(dropout=0.0)
    clips = networks.normal(1, 2, 40, 40, 1)
    variables = networks.draw(network, *clips.shape)

    def first_logits(clips):
        return jnp.sum(network.apply(variables, clips, train=False).features["stage4"][:, 0])

    gradient = networks.jit(jax.grad(first_logits))(clips)
    assert np.abs(gradient[:, 1]).max() > 0.01 * np.abs(gradient[:, 0]).max() > 0


def test_bfloat16_stays_close():
    clips = networks.normal(2, 3, 40, 40, 1)
    network = _network()
    variables = networks.draw(network, *clips.shape)
    expected, near = (
        networks.jit(functools.partial(model.apply, train=False))(variables, clips)
        for model in (network, network.clone(dtype=jnp.bfloat16))
    )
    assert near.features["stage4"].dtype == jnp.bfloat16
    assert np.abs(near.logits - expected.logits).max() < 0.05 * np.abs(expected.logits).max()


@pytest.mark.parametrize("kind", KINDS)
def test_short_convolutions_are_the_same_function(kind):
    clips = networks.normal(2, 4, 64, 64, 1)
    network = _network(temporal=kind, width=64, norm=False)
    variables = networks.draw(network, *clips.shape)
    plain, quick = (
        networks.jit(functools.partial(model.apply, train=False))
        for model in (network, network.clone(winograd=sys.maxsize))
    )
    assert len(str(quick.lower(variables, clips).as_text())) > len(
        str(plain.lower(variables, clips).as_text())
    )
    expected, result = plain(variables, clips).logits, quick(variables, clips).logits
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(expected).max())


def test_gradients_do_not_depend_on_the_number_of_devices():
    clips = networks.normal(4, 3, 32, 32, 1)
    model = _network(norm=False, dropout=0.0)
    variables = networks.draw(model, *clips.shape)

    def loss(params, clips):
        return jnp.mean(model.apply({"params": params}, clips, train=True).logits ** 2)

    def update(clips):
        return jax.lax.pmean(jax.grad(loss)(variables["params"], clips), steps.AXIS)

    mapped = networks.jit(jax.vmap(update, axis_name=steps.AXIS))
    one, two = (mapped(clips.reshape(count, -1, *clips.shape[1:])) for count in (1, 2))

    def compare(result, expected):
        scale = np.abs(expected[0]).max()
        np.testing.assert_allclose(result[0], expected[0], atol=1e-4 * scale + 1e-6)

    jax.tree.map(compare, two, one)


@pytest.mark.parametrize("kind", KINDS)
def test_grad_cam_by_finite_differences(kind):
    """A map of stage1 moves the logits through its neighbours too."""
    model = _network(temporal=kind)
    clips, classes = networks.normal(1, 3, 40, 40, 1), jnp.array([1])
    variables = networks.draw(model, *clips.shape)
    # One copy of the clip per segment, channel and sign; each copy's map is moved in one channel.
    moves = 3e-3 * np.eye(3 * 8, dtype=np.float32).reshape(24, 3, 1, 1, 8)
    change = jnp.concatenate([moves, -moves]).reshape(144, 1, 1, 8)

    @networks.jit
    def logits(clips, change):
        def add(run, args, kwargs, context):
            out = run(*args, **kwargs)
            return out + change if context.module.name == "stage1_block0" else out

        with nn.intercept_methods(add):
            return model.apply(variables, clips, train=False).logits[:, 1]

    moved = logits(jnp.repeat(clips, 48, axis=0), change).reshape(2, 3, 8)
    weights = (moved[0] - moved[1]) / 6e-3 / 100  # mean over 10 x 10 places
    outputs = networks.jit(functools.partial(model.apply, train=False))(variables, clips)
    maps = np.einsum("tc,thwc->thw", weights, outputs.features["stage1"][0])
    found = grad_cam(model, variables, clips, classes, layer="stage1")[0]
    np.testing.assert_allclose(found, np.maximum(maps, 0), atol=0.03 * np.abs(maps).max())


@pytest.mark.parametrize(("kind", "segments"), [("shift", 1), ("shift", 3), ("causal", 3)])
def test_exported_programs_give_what_the_network_gives(kind, segments):
    """Folded, with short convolutions, for any number of clips."""
    model = _network(temporal=kind)
    network = Network(model, networks.draw(model, 1, segments, 48, 48, 1))
    rules = Rules("infrared", segments, (48, 48), 48, 1.0)
    made = program.make_program(network, rules, winograd=64)
    assert made.folded
    called = jax.jit(made.function)
    for count in (1, 3):
        clips = program.check_clips(rules, count)
        np.testing.assert_allclose(called(made.weights, clips), made.reference(clips), atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_model", student_runs.make_model)
        folder = tmp_path_factory.mktemp("shifted") / "ours"
        yield student_runs.write_run(folder, width=8, temporal="shift")


FILM = np.random.default_rng(3).integers(0, 256, (1, 4, 48, 56, 1), dtype=np.uint8)


def _order_counts(file) -> bool:
    """Whether the film played backwards has other probabilities; logarithms, as they are sure."""
    logs = (np.log(np.maximum(file(film), 1e-30)) for film in (FILM, FILM[:, ::-1].copy()))
    return bool(np.abs(np.subtract(*logs)).max() > 0.01)


def _same(file, expected) -> None:
    for film in (FILM, FILM[:, ::-1].copy()):
        np.testing.assert_allclose(np.log(file(film)), np.log(expected(film)), rtol=1e-3, atol=1e-3)


def test_exported_files_keep_the_order_of_frames(run, tmp_path):
    reference = open_classifier(run)
    assert _order_counts(reference)
    for precision in ("float32", "int8"):
        path = tmp_path / f"{precision}.irkd"
        export_run(run, path, precision=precision, measure=False)
        file = open_classifier(path)
        assert _order_counts(file)
        if precision == "float32":
            _same(file, reference)


def test_onnx_files_keep_the_order_of_frames(run, tmp_path):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "student.onnx"
    export_run(run, path, kind="onnx")
    file = open_classifier(path)
    assert _order_counts(file)
    _same(file, open_classifier(run))
    several = np.concatenate([FILM, FILM[:, ::-1], FILM])
    np.testing.assert_allclose(file(several)[2:], file(FILM), atol=1e-5)


def test_a_stream_played_backwards_has_other_probabilities(run):
    def watch(clips):
        recognizer = Recognizer(run, seconds=4 / 30, stride=4)
        return [recognizer.push(frame) for frame in clips[0]][-1].probabilities

    assert _order_counts(watch)

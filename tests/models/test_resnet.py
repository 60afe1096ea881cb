import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_irkd.models import resnet
from jax_irkd.models.resnet import ResNet
from jax_irkd.training.optimizers import make_optimizer
from tests.helpers import fakes, networks


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Depth 10, one block a stage: quick to compile."""
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))


def _shapes(network: ResNet, *shape: int) -> dict:
    frames = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(
        functools.partial(network.init_with_output, jax.random.key(0), train=False), frames
    )


def _update(network: ResNet, variables: dict, frames: jax.Array) -> tuple[dict, dict]:
    """Gradients of the mean square of the pooled features, and the new batch statistics."""

    def loss(params):
        features, state = network.apply(
            {**variables, "params": params}, frames, train=True, mutable="batch_stats"
        )
        return jnp.mean(features["pooled"] ** 2), state["batch_stats"]

    return networks.jit(jax.grad(loss, has_aux=True))(variables["params"])


@pytest.mark.parametrize(
    "depth, torchvision",
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameter_count_is_torchvisions(depth, torchvision):
    features, variables = _shapes(ResNet(depth), 1, 64, 64, 3)
    width = features["pooled"].shape[-1]
    classifier = width * 1000 + 1000
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count + classifier == torchvision


@pytest.mark.parametrize("depth, expansion", [(18, 1), (50, 4)])
def test_stage_shapes(depth, expansion):
    features, _ = _shapes(ResNet(depth), 2, 224, 224, 3)
    c = 64 * expansion
    for stage in resnet.STAGES:
        assert features.pop(f"{stage}_preact").shape == features[stage].shape
    assert {name: value.shape for name, value in features.items()} == {
        "stem": (2, 112, 112, 64),
        "stage1": (2, 56, 56, c),
        "stage2": (2, 28, 28, 2 * c),
        "stage3": (2, 14, 14, 4 * c),
        "stage4": (2, 7, 7, 8 * c),
        "pooled": (2, 8 * c),
    }


def test_odd_sizes_round_up_at_every_stride():
    features, _ = _shapes(ResNet(18, width=4), 1, 75, 61, 1)
    sizes = [features[name].shape[1:3] for name in ("stem", *resnet.STAGES)]
    assert sizes == [(38, 31), (19, 16), (10, 8), (5, 4), (3, 2)]


def test_features_are_post_relu():
    frames = networks.normal(2, 48, 48, 3)
    network = ResNet(10, width=4)
    features = networks.jit(functools.partial(network.apply, train=False))(
        networks.draw(network, *frames.shape), frames
    )
    for name in ("stem", *resnet.STAGES):
        assert features[name].min() == 0.0
    for name in resnet.STAGES:
        before = features[f"{name}_preact"]
        assert before.min() < 0
        np.testing.assert_array_equal(np.maximum(before, 0), features[name])


@pytest.mark.slow
def test_bfloat16_keeps_parameters_statistics_and_pooled_in_float32():
    frames = networks.normal(2, 48, 48, 1)
    network = ResNet(10, width=4, dtype=jnp.bfloat16, input_offset=True)
    variables = networks.draw(network, *frames.shape)
    features, state = networks.jit(
        functools.partial(network.apply, train=True, mutable="batch_stats")
    )(variables, frames)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((variables, state))} == {"float32"}
    assert features.pop("pooled").dtype == jnp.float32
    assert {value.dtype.name for value in features.values()} == {"bfloat16"}

    exact, near = (
        networks.jit(functools.partial(network.clone(dtype=dtype).apply, train=False))(
            variables, frames
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    for name in exact:
        error = np.abs(np.asarray(near[name], np.float32) - exact[name]).max()
        assert error < 0.05 * np.abs(exact[name]).max(), name


@pytest.mark.slow
def test_running_statistics_take_a_tenth_of_the_batch_with_biased_variance():
    frames = networks.normal(3, 40, 40, 3)
    network = ResNet(10, width=4)
    variables = networks.draw(network, *frames.shape)
    _, statistics = _update(network, variables, frames)
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    maps = jax.lax.conv_general_dilated(
        frames, kernel, (2, 2), [(3, 3), (3, 3)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    maps = np.asarray(maps, np.float64)
    old, new = variables["batch_stats"]["stem"]["norm"], statistics["stem"]["norm"]
    for name, batch in (("mean", maps.mean((0, 1, 2))), ("var", maps.var((0, 1, 2)))):
        np.testing.assert_allclose(new[name], 0.9 * old[name] + 0.1 * batch, atol=1e-6)


@pytest.mark.slow
def test_partial_bn_trains_the_first_norm_only():
    frames = networks.normal(2, 48, 48, 3)
    network = ResNet(10, width=4, partial_bn=True)
    variables = networks.draw(network, *frames.shape)
    gradients, statistics = _update(network, variables, frames)

    def changed(before, after):
        return any(np.any(a != b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after)))

    for name, block in variables["batch_stats"].items():
        assert changed(block, statistics[name]) == (name == "stem"), name
    for block, layers in gradients.items():
        for name, gradient in layers.items():
            moves = all(np.any(np.asarray(leaf) != 0) for leaf in gradient.values())
            assert moves == ("norm" not in name or block == "stem"), (block, name)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_is_frozen_keeps_its_bits(optimizer):
    frames, still = networks.normal(2, 48, 48, 3), ("stem", "stage1")
    network = ResNet(10, width=4, frozen="stage1")
    variables = networks.draw(network, *frames.shape)
    training = fakes.config(optimizer=optimizer, weight_decay=0.1).student_training
    tx, _ = make_optimizer(training, 10, 5, frozen="stage1")

    def moved(gradients, backbone):
        params = {"model": {"backbone": backbone}}
        updates, _ = tx.update({"model": {"backbone": gradients}}, tx.init(params), params)
        return optax.apply_updates(params, updates)["model"]["backbone"]

    gradients, statistics = _update(network, variables, frames)
    params = networks.jit(moved)(gradients, variables["params"])
    for before, after in ((variables["params"], params), (variables["batch_stats"], statistics)):
        for name, block in before.items():
            pairs = zip(jax.tree.leaves(block), jax.tree.leaves(after[name]))
            kept = [np.array_equal(old, new) for old, new in pairs]
            assert all(kept) if name.partition("_")[0] in still else not any(kept), name


def test_an_unknown_part_is_not_frozen():
    with pytest.raises(ValueError, match="unknown part 'stage5' to freeze; choose one of"):
        ResNet(18, frozen="stage5")


@pytest.mark.slow
def test_remat_changes_nothing_but_memory():
    frames = networks.normal(2, 48, 48, 3)
    plain, remat = ResNet(10, width=2), ResNet(10, width=2, remat=True)
    variables = networks.draw(plain, *frames.shape)
    assert jax.tree.structure(networks.draw(remat, *frames.shape)) == jax.tree.structure(variables)
    expected, result = _update(plain, variables, frames), _update(remat, variables, frames)
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(compare, result, expected)


@pytest.mark.slow
def test_axis_name_averages_the_statistics_over_devices():
    frames = networks.normal(4, 40, 40, 3)
    variables = networks.draw(ResNet(10, width=2), *frames.shape)
    _, expected = _update(ResNet(10, width=2), variables, frames)
    network = ResNet(10, width=2, axis_name="batch")

    def statistics(frames):
        return network.apply(variables, frames, train=True, mutable="batch_stats")[1]

    halves = networks.jit(jax.vmap(statistics, axis_name="batch"))(frames.reshape(2, 2, 40, 40, 3))
    for half in range(2):
        jax.tree.map(
            lambda result, wanted, half=half: np.testing.assert_allclose(
                result[half], wanted, rtol=1e-4, atol=1e-5
            ),
            halves["batch_stats"],
            expected,
        )


def test_input_offset_is_absent_unless_asked_for_and_zero_at_first():
    frames = networks.normal(1, 20, 20, 1)

    def stem(**fields):
        return resnet.Stem(2, nn.Conv, norm=lambda name: lambda x: x, **fields)

    params = stem(input_offset=True).init(jax.random.key(0), frames)["params"]
    offset = params["offset"].pop("kernel")
    assert offset.shape == (7, 7, 1, 2)
    assert not offset.any()
    assert set(stem().init(jax.random.key(0), frames)["params"]) == {"conv"}


def test_input_offset_is_a_convolution_of_ones():
    frames = networks.normal(2, 21, 19, 1)
    stem = resnet.Stem(3, nn.Conv, norm=lambda name: lambda x: x, input_offset=True)
    variables = networks.draw(resnet.ResNet(18, width=3, input_offset=True), *frames.shape)
    params = variables["params"]["stem"]
    bias = jnp.zeros(3)
    params = {"conv": params["conv"] | {"bias": bias}, "offset": params["offset"]}
    # A second input channel that is 1 everywhere, and 0 in the padding like any other.
    kernel = jnp.concatenate([params["conv"]["kernel"], params["offset"]["kernel"]], axis=2)
    both = jnp.concatenate([frames, jnp.ones_like(frames)], axis=3)
    expected = nn.Conv(3, (7, 7), (2, 2), padding=3, use_bias=False).apply(
        {"params": {"kernel": kernel}}, both
    )
    result = stem.apply({"params": params}, frames)
    np.testing.assert_allclose(result, jax.nn.relu(expected), rtol=1e-5, atol=1e-5)


def test_unknown_depth_names_the_choices():
    with pytest.raises(ValueError, match=r"unknown ResNet depth 20; choose one of \[18, 34,"):
        ResNet(20)

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.models import resnet
from jax_irkd.models.outputs import Outputs
from jax_irkd.models.tsn import TSN
from tests.helpers import networks


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Depth 10, one block a stage: quick to compile."""
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))


def _network(**fields) -> TSN:
    return TSN(**{"num_classes": 5, "depth": 10, "width": 4, **fields})


def _apply(network: TSN, variables: dict, clips: jax.Array) -> Outputs:
    return networks.jit(functools.partial(network.apply, train=False))(variables, clips)


def _train(network: TSN):
    """A jitted function of variables, clips and a seed."""

    def apply(variables, clips, seed):
        keys = jax.random.split(jax.random.key(seed), len(clips))
        return network.apply(
            variables, clips, train=True, dropout_keys=keys, mutable="batch_stats"
        )[0]

    return networks.jit(apply)


def test_logits_are_the_mean_over_segments():
    clips = networks.normal(2, 3, 40, 40, 3)
    network = _network()
    variables = networks.draw(network, *clips.shape)
    whole = _apply(network, variables, clips)
    alone = _apply(network, variables, clips.reshape(6, 1, 40, 40, 3))
    logits = alone.logits.reshape(2, 3, 5)
    np.testing.assert_allclose(whole.logits, logits.mean(axis=1), rtol=1e-5, atol=1e-6)
    pooled = alone.features["pooled"].reshape(2, 3, -1)
    np.testing.assert_allclose(whole.features["pooled"], pooled.mean(axis=1), rtol=1e-5)


def test_features_keep_the_segments_apart():
    network = TSN(num_classes=60, depth=50)
    clips = jax.ShapeDtypeStruct((2, 8, 96, 96, 3), jnp.float32)
    outputs, variables = jax.eval_shape(
        functools.partial(network.init_with_output, jax.random.key(0), train=False), clips
    )
    assert outputs.logits.shape == (2, 60)
    maps = {name: x.shape for name, x in outputs.features.items() if "preact" not in name}
    assert maps == {
        "stem": (2, 8, 48, 48, 64),
        "stage1": (2, 8, 24, 24, 256),
        "stage2": (2, 8, 12, 12, 512),
        "stage3": (2, 8, 6, 6, 1024),
        "stage4": (2, 8, 3, 3, 2048),
        "pooled": (2, 2048),
    }
    assert variables["params"]["head"]["kernel"].shape == (2048, 60)


def test_the_head_classifies_the_pooled_features():
    clips = networks.normal(2, 2, 40, 40, 1)
    network = _network()
    outputs = _apply(network, networks.draw(network, *clips.shape), clips)
    logits = outputs.features["pooled"] @ outputs.head["kernel"] + outputs.head["bias"]
    np.testing.assert_allclose(outputs.logits, logits, rtol=1e-4, atol=1e-5)


def test_pooled_is_the_spatial_mean_of_the_last_stage():
    clips = networks.normal(2, 2, 70, 40, 1)
    network = _network()
    features = _apply(network, networks.draw(network, *clips.shape), clips).features
    expected = np.asarray(features["stage4"], np.float64).mean((1, 2, 3))
    np.testing.assert_allclose(features["pooled"], expected, rtol=1e-5)


@pytest.mark.slow
def test_dropout_is_for_training_only():
    clips = networks.normal(2, 2, 40, 40, 3)
    network = _network(dropout=0.5)
    variables = networks.draw(network, *clips.shape)
    train = _train(network)
    first, again, other = (train(variables, clips, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.logits, again.logits)
    assert np.abs(first.logits - other.logits).min() > 1e-4
    np.testing.assert_array_equal(first.features["pooled"], other.features["pooled"])
    plain = _apply(network, variables, clips)
    np.testing.assert_array_equal(
        plain.logits, _apply(_network(dropout=0.0), variables, clips).logits
    )


@pytest.mark.slow
def test_dropout_keeps_the_mean():
    clips = networks.normal(1, 1, 40, 40, 3)
    network = _network(dropout=0.8, norm=False)
    variables = networks.draw(network, *clips.shape)
    keys = jax.random.split(jax.random.key(0), (4000, 1))

    def logits(key):
        return network.apply(variables, clips, train=True, dropout_keys=key).logits[0]

    draws = networks.jit(jax.vmap(logits))(keys)
    expected = _apply(network, variables, clips).logits[0]
    error = draws.std(axis=0) / 4000**0.5
    assert np.all(np.abs(draws.mean(axis=0) - expected) < 4 * error)


def test_no_dropout_needs_no_keys():
    clips = networks.normal(1, 1, 40, 40, 3)
    network = _network(dropout=0.0)
    variables = networks.draw(network, *clips.shape)
    train = functools.partial(network.apply, train=True, mutable="batch_stats")
    outputs, _ = jax.eval_shape(train, variables, clips)
    assert outputs.logits.shape == (1, 5)
    train = functools.partial(_network(dropout=0.5).apply, train=True, mutable="batch_stats")
    with pytest.raises(ValueError, match=r"dropout 0\.5 needs dropout_keys"):
        jax.eval_shape(train, variables, clips)


def test_bfloat16_gives_float32_logits_close_to_the_exact_ones():
    clips = networks.normal(2, 2, 40, 40, 1)
    exact, near = _network(), _network(dtype="bfloat16")
    variables = networks.draw(exact, *clips.shape)
    expected, result = (_apply(network, variables, clips) for network in (exact, near))
    assert result.logits.dtype == result.features["pooled"].dtype == jnp.float32
    assert result.features["stage4"].dtype == jnp.bfloat16
    spread = np.abs(expected.logits).max()
    assert np.abs(result.logits - expected.logits).max() < 0.05 * spread


@pytest.mark.slow
def test_fresh_network_has_he_kernels_and_a_small_head():
    network = _network(num_classes=400, width=16)
    clips = networks.normal(1, 1, 32, 32, 3)
    init = networks.jit(functools.partial(network.init, train=False))
    params = init(jax.random.key(0), clips)["params"]
    kernel = params["backbone"]["stage4_block0"]["conv2"]["kernel"]  # 3 3 128 128
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 128)) ** 0.5, rtol=0.02)
    projection = params["backbone"]["stage4_block0"]["projection"]["kernel"]  # 64 128
    np.testing.assert_allclose(projection.std(), (2 / 128) ** 0.5, rtol=0.05)
    np.testing.assert_allclose(params["head"]["kernel"].std(), 0.001, rtol=0.02)
    assert not params["head"]["bias"].any()


def test_impossible_fields_are_refused():
    with pytest.raises(ValueError, match=r"unknown ResNet depth 153; choose one of \[18, 34,"):
        TSN(num_classes=3, depth=153)
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1, not 1"):
        TSN(num_classes=3, dropout=1.0)

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.models.folding import fold_batch_norm, without_norms
from jax_irkd.models.tsn import TSN
from tests.helpers import fakes, networks


@pytest.mark.slow
@pytest.mark.parametrize("depth, channels", [(18, 1), (50, 3)])
def test_folded_network_gives_the_same_outputs(depth, channels):
    network = TSN(num_classes=5, depth=depth, width=4, input_offset=channels == 1)
    clips = networks.normal(2, 2, 53, 43, channels)
    variables = networks.draw(network, *clips.shape)
    without = network.clone(norm=False)
    folded = fold_batch_norm(variables)
    assert jax.tree.structure(folded) == jax.tree.structure(networks.draw(without, *clips.shape))
    expected, result = (
        networks.jit(functools.partial(model.apply, train=False))(values, clips)
        for model, values in ((network, variables), (without, folded))
    )
    scale = np.abs(expected.logits).max()
    np.testing.assert_allclose(result.logits / scale, expected.logits / scale, atol=1e-5)
    for name, feature in expected.features.items():
        scale = np.abs(feature).max()
        np.testing.assert_allclose(result.features[name] / scale, feature / scale, atol=1e-5)


def test_folding_by_hand():
    # One channel: (3 x - 2) / sqrt(4) * 10 + 1 = 15 x - 9, up to epsilon.
    conv = {"kernel": np.full((1, 1, 1, 1), 3.0, np.float32)}
    one = np.ones(1, np.float32)
    norm = {"scale": 10 * one, "bias": one}
    statistics = {"norm": {"mean": 2 * one, "var": 4 * one}}
    variables = {
        "params": {"stem": {"conv": conv, "norm": norm}},
        "batch_stats": {"stem": statistics},
    }
    folded = fold_batch_norm(variables)["params"]["stem"]["conv"]
    np.testing.assert_allclose(folded["kernel"], [[[[15.0]]]], rtol=1e-5)
    np.testing.assert_allclose(folded["bias"], [-9.0], rtol=1e-5)


@pytest.mark.slow
def test_folding_twice_is_refused():
    network = TSN(num_classes=5, depth=18, width=2)
    folded = fold_batch_norm(networks.draw(network, 1, 1, 32, 32, 3))
    with pytest.raises(ValueError, match="no batch_stats to fold"):
        fold_batch_norm(folded)


@pytest.mark.slow
def test_a_light_network_keeps_maps_kernels_in_their_type_and_computes_the_same():
    network = TSN(num_classes=5, depth=50, width=4, dtype=jnp.bfloat16)
    clips = networks.normal(1, 1, 32, 32, 3)
    variables = networks.draw(network, *clips.shape)
    model, light = without_norms(network, variables)
    kinds = {
        name: {leaf.dtype for leaf in jax.tree.leaves(part)}
        for name, part in light["params"].items()
    }
    assert kinds == {"backbone": {jnp.dtype("bfloat16")}, "head": {jnp.dtype("float32")}}
    call = networks.jit(functools.partial(model.apply, train=False))
    jax.tree.map(
        np.testing.assert_array_equal, call(light, clips), call(fold_batch_norm(variables), clips)
    )


def test_only_a_network_with_known_names_and_norms_is_folded():
    network = TSN(num_classes=5, depth=18, width=2)
    variables = networks.draw(network, 1, 1, 32, 32, 3)
    model, folded = without_norms(network, variables)
    assert model == network.clone(norm=False, winograd=sys.maxsize)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(folded))
    teacher = fakes.teacher()  # its norms are named in another way
    for pair in ((model, folded), tuple(teacher), (None, None)):
        kept = without_norms(*pair)
        assert kept[0] is pair[0] and kept[1] is pair[1]

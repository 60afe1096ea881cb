"""Temporal shift: by hand, against PyTorch, and what it makes of a network."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jax_irkd.models import resnet
from jax_irkd.models.folding import fold_batch_norm
from jax_irkd.models.temporal import temporal_shift
from jax_irkd.models.tsn import TSN, frame_logits, no_past
from jax_irkd.runs.identity import identity_of
from jax_irkd.training import setup
from jax_irkd.weights import torchvision
from tests.helpers import FIXTURES, fakes, networks


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Depth 10, one block a stage: quick to compile."""
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))


def _network(**fields) -> TSN:
    return TSN(**{"num_classes": 5, "depth": 10, "width": 8, **fields})


def _apply(network: TSN, variables: dict, clips: jax.Array):
    return networks.jit(functools.partial(network.apply, train=False))(variables, clips)


def test_shift_by_hand():
    # Two clips of three segments, one pixel, four channels; a quarter of them each way is one.
    maps = jnp.arange(24.0).reshape(6, 1, 1, 4)
    both = temporal_shift(maps, segments=3, kind="shift", share=0.25)
    np.testing.assert_array_equal(
        both.reshape(6, 4),
        [[4, 0, 2, 3], [8, 1, 6, 7], [0, 5, 10, 11], [16, 0, 14, 15], [20, 13, 18, 19],
         [0, 17, 22, 23]],
    )  # fmt: skip
    past = temporal_shift(maps, segments=3, kind="causal", share=0.5)
    np.testing.assert_array_equal(
        past.reshape(6, 4),
        [[0, 0, 2, 3], [0, 1, 6, 7], [4, 5, 10, 11], [0, 0, 14, 15], [12, 13, 18, 19],
         [16, 17, 22, 23]],
    )  # fmt: skip
    assert temporal_shift(maps, segments=3, kind="none", share=0.25) is maps


@pytest.mark.parametrize("channels, share, moved", [(8, 1 / 8, 1), (15, 1 / 8, 1), (49, 1 / 49, 1)])
def test_shares_are_rounded_down_to_whole_channels(channels, share, moved):
    maps = networks.normal(4, 1, 1, channels)
    shifted = temporal_shift(maps, segments=2, share=share)
    assert np.count_nonzero((shifted != maps).any((0, 1, 2))) == 2 * moved


@pytest.mark.parametrize("kind", ["shift", "causal"])
def test_a_lone_segment_has_zeros_for_neighbours(kind):
    maps = networks.normal(3, 2, 2, 8)
    shifted = temporal_shift(maps, segments=1, kind=kind, share=0.25)
    count = 4 if kind == "shift" else 2
    assert not shifted[..., :count].any()
    np.testing.assert_array_equal(shifted[..., count:], maps[..., count:])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shift", "causal"])
def test_gradient_is_the_shift_back(kind):
    maps, weight = networks.normal(6, 2, 1, 8), networks.normal(6, 2, 1, 8, seed=1)

    def pulled(maps):
        return jnp.vdot(weight, temporal_shift(maps, segments=3, kind=kind, share=0.25))

    # The shift is linear: its transpose, column by column of the identity.
    units = jnp.eye(maps.size).reshape(-1, *maps.shape)
    expected = jax.vmap(pulled)(units).reshape(maps.shape)
    np.testing.assert_allclose(jax.grad(pulled)(maps), expected, rtol=1e-6)


@pytest.mark.slow
def test_backwards_is_another_film_with_shift_only():
    clips = networks.normal(2, 4, 40, 40, 1)
    variables = networks.draw(_network(), *clips.shape)
    for kind in ("none", "shift", "causal"):
        network = _network(temporal=kind)
        forwards, backwards = (
            _apply(network, variables, film).logits for film in (clips, clips[:, ::-1])
        )
        change = np.abs(forwards - backwards).max() / np.abs(forwards).max()
        assert change > 0.01 if kind != "none" else change < 1e-5, kind


@pytest.mark.parametrize("kind", ["none", "shift", "causal"])
def test_which_segments_a_segment_sees(kind):
    """Changes in one segment show in the maps of the others by kind, one block after another."""
    clips = networks.normal(1, 5, 40, 40, 1)
    network = _network(temporal=kind)
    variables = networks.draw(network, *clips.shape)
    before, after = (
        _apply(network, variables, film).features
        for film in (clips, clips.at[:, 2].set(networks.normal(40, 40, 1, seed=9)))
    )
    for reach, stage in enumerate(resnet.STAGES, 1):  # One block a stage.
        changed = np.any(np.asarray(before[stage] != after[stage]), axis=(0, 2, 3, 4))
        first = 2 - (reach if kind == "shift" else 0)
        last = 2 + (reach if kind != "none" else 0)
        expected = [first <= segment <= last for segment in range(5)]
        np.testing.assert_array_equal(changed, expected, err_msg=stage)


# As make_shift_fixtures.py has them.
VARIANTS = {
    "shift": {"temporal": "shift"},
    "quarter": {"temporal": "shift", "temporal_share": 0.25},
    "causal": {"temporal": "causal"},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("depth", [18, 50])
def test_outputs_are_those_of_pytorch(depth, variant):
    expected = load_file(FIXTURES / f"shift{depth}.safetensors")
    clips = jnp.asarray(expected["clips"], jnp.float32)
    network = TSN(num_classes=10, depth=depth, width=8, **VARIANTS[variant])
    variables = torchvision.load_pretrained(
        FIXTURES / f"resnet{depth}.safetensors", networks.draw(network, *clips.shape)
    )
    pairs = (network, variables), (network.clone(norm=False), fold_batch_norm(variables))
    for model, values in pairs:
        outputs = _apply(model, values, clips)
        np.testing.assert_allclose(outputs.logits, expected[f"{variant}_logits"], atol=1e-4)
        for stage in ("stage1", "stage4"):
            wanted = expected[f"{variant}_{stage}"]
            np.testing.assert_allclose(outputs.features[stage], wanted, atol=1e-4)


@pytest.mark.parametrize("depth, shifts", [(18, 8), (34, 16), (50, 16), (101, 2 + 2 + 12 + 2)])
def test_every_block_shifts_but_in_the_deepest_network_every_other(depth, shifts):
    """TSM's code leaves out every other block where a stage has 23."""
    seen = []

    def count(maps):
        seen.append(maps.shape)
        return maps

    network = resnet.ResNet(depth, width=2, shift=count)
    frames = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), frames)
    assert len(seen) == shifts


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shift", "causal"])
def test_clips_do_not_mix(kind):
    clips = networks.normal(3, 2, 40, 40, 3)
    network = _network(temporal=kind)
    variables = networks.draw(network, *clips.shape)
    whole, alone = (_apply(network, variables, part).logits for part in (clips, clips[1:2]))
    np.testing.assert_allclose(whole[1:2], alone, rtol=1e-5, atol=1e-5)


def test_parameters_are_those_of_none():
    shapes = [
        jax.eval_shape(
            functools.partial(_network(temporal=kind).init, train=False),
            jax.random.key(0),
            jax.ShapeDtypeStruct((1, 2, 40, 40, 3), jnp.float32),
        )
        for kind in ("none", "shift", "causal")
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_impossible_fields_are_refused():
    with pytest.raises(ValueError, match=r"unknown temporal 'shfit'; choose one of \['none', 's"):
        _network(temporal="shfit")
    with pytest.raises(ValueError, match=r"temporal_share is 0\.6; with temporal='shift' it must"):
        _network(temporal="shift", temporal_share=0.6)
    with pytest.raises(ValueError, match=r"temporal_share is 0\.0; with temporal='causal' it must"):
        _network(temporal="causal", temporal_share=0.0)
    with pytest.raises(ValueError, match=r"0\.125 of 4 channels is less than one .* 0\.25 or more"):
        _network(temporal="shift", width=4)
    _network(temporal="causal", temporal_share=1.0)
    _network(temporal="none", width=4)


def test_a_run_without_shift_is_the_run_it_was_before_there_was_one():
    config = fakes.config()
    older = copy.deepcopy(config)
    for model in (older.teacher_model, older.student_model):
        del model.temporal, model.temporal_share
    for phase in ("teacher", "baseline"):
        assert identity_of(older, phase) == identity_of(config, phase)
        assert setup.make_model(older.student_model, 3, "float32").temporal == "none"
    config.student_model.temporal = "shift"
    assert identity_of(older, "teacher") == identity_of(config, "teacher")
    changed = identity_of(config, "baseline")
    assert changed["model.temporal"] == "shift" and changed["model.temporal_share"] == 0.125


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fields"),
    [("none", {}), ("causal", {"remat": True}), ("causal", {"temporal_share": 1.0, "norm": False})],
)
def test_a_stream_in_parts_is_one_clip(kind, fields):
    """However its frames are cut into calls, of one frame too; another clip begins anew."""
    network = _network(temporal=kind, **fields)
    clips = networks.normal(2, 5, 40, 40, 1)
    variables = networks.draw(network, *clips.shape)
    expected = _apply(network, variables, clips).logits
    step = networks.jit(functools.partial(frame_logits, network))
    start = no_past(network, clips.shape[2:])
    assert len(jax.tree.leaves(start)) == (4 if kind == "causal" else 0)
    for clip, wanted in zip(clips, expected, strict=True):
        past, found = start, []
        for part in (clip[:2], clip[2:3], clip[3:]):
            logits, past = step(variables, part, past)
            found.append(logits)
        np.testing.assert_allclose(np.concatenate(found).mean(axis=0), wanted, atol=2e-5)


def test_a_network_that_looks_ahead_has_no_stream():
    with pytest.raises(
        ValueError, match=r"looks at the segment after each.* use temporal='causal'"
    ):
        no_past(_network(temporal="shift"), (8, 8, 1))

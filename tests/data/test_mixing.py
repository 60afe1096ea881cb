"""Random erasing, mixup and CutMix: by hand where a draw is known, else what holds for all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.data import augment, mixing

KEYS = jax.random.split(jax.random.key(0), 64)


def test_a_box_by_hand():
    # Pixel centres at 1/8, 3/8, 5/8, 7/8; rows 0.5 to 1, columns 0 to 0.25.
    made = mixing.box(jnp.array([0.75, 0.125]), jnp.array([0.5, 0.25]), 4)
    np.testing.assert_array_equal(np.argwhere(made), [[2, 0], [3, 0]])


def test_what_is_erased_has_the_published_area_and_ratio():
    drawn = jax.jit(jax.vmap(lambda key: mixing.draw_erased(key, 1.0, 64)))(KEYS)
    area = np.asarray(drawn).mean((1, 2))
    height, width = (np.asarray(drawn).any(axis).sum(-1) for axis in (2, 1))
    assert area.min() > 0.005 and area.max() < 0.36 and area.std() > 0.05
    np.testing.assert_array_equal(height * width, area * 64**2)  # one rectangle
    assert (height / width).min() > 0.2 and (height / width).max() < 4.5
    half = np.asarray(jax.jit(jax.vmap(lambda key: mixing.draw_erased(key, 0.5, 8)))(KEYS))
    assert 20 < sum(bool(x.any()) for x in half) < 44


def clips_of(count=8):
    rng = np.random.default_rng(1)
    return {
        "rgb": jnp.asarray(rng.integers(0, 256, (count, 2, 36, 40, 3), dtype=np.uint8)),
        "infrared": jnp.asarray(rng.integers(0, 256, (count, 2, 34, 44, 1), dtype=np.uint8)),
    }


@pytest.mark.slow
def test_both_modalities_of_a_clip_lose_the_same_rectangle_in_all_frames():
    prepare = functools.partial(
        augment.prepare_training, resolution=16, scales=(1.0,), flip=True, colour_jitter=0.2
    )
    plain, erased = (
        jax.jit(functools.partial(prepare, erasing=share))(clips_of(), KEYS[:8])
        for share in (0.0, 1.0)
    )
    gone = {name: np.asarray(erased[name] == 0).all((1, 4)) for name in erased}
    np.testing.assert_array_equal(gone["rgb"], gone["infrared"])
    assert gone["rgb"].any((1, 2)).all()
    for name in plain:  # and nothing else changes
        kept = ~np.broadcast_to(gone[name][:, None, :, :, None], plain[name].shape)
        np.testing.assert_allclose(erased[name][kept], plain[name][kept], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_a_clip_holds_its_share_and_the_rest_of_its_neighbour(fields):
    # Clip i is the number i everywhere, in both modalities.
    numbers = jnp.arange(8.0)[:, None, None, None, None]
    clips = {
        "rgb": jnp.broadcast_to(numbers, (8, 2, 16, 16, 3)),
        "infrared": numbers + jnp.zeros((8, 2, 16, 16, 1)),
    }
    mix = jax.jit(functools.partial(mixing.mix, **fields))
    mixed, shares, partners = mix(clips, KEYS[:8])
    np.testing.assert_array_equal(partners, [1, 0, 3, 2, 5, 4, 7, 6])
    np.testing.assert_allclose(mixed["rgb"][..., :1], mixed["infrared"], atol=1e-6)
    expected = shares * jnp.arange(8) + (1 - shares) * partners
    np.testing.assert_allclose(mixed["rgb"].mean((1, 2, 3, 4)), expected, atol=1e-5)
    assert ((shares >= 0) & (shares <= 1)).all() and np.std(shares) > 0.05
    halves = [mix({k: x[i : i + 4] for k, x in clips.items()}, KEYS[i : i + 4]) for i in (0, 4)]
    for name in clips:  # as on two devices
        joined = np.concatenate([half.clips[name] for half in halves])
        np.testing.assert_allclose(joined, mixed[name], atol=1e-6)


@pytest.mark.slow
def test_shares_are_those_of_the_papers():
    clips = {"x": jnp.zeros((64, 1, 32, 32, 1))}
    mixup = jax.jit(functools.partial(mixing.mix, mixup=0.2))(clips, KEYS).shares
    assert np.mean(np.abs(np.asarray(mixup) - 0.5) > 0.4) > 0.5  # Beta(0.2, 0.2) likes its ends
    cut = np.asarray(jax.jit(functools.partial(mixing.mix, cutmix=1.0))(clips, KEYS).shares)
    assert 0.4 < cut.mean() < 0.8  # uniform, and more where the border cuts the square off


def test_an_odd_clip_has_no_neighbour():
    with pytest.raises(ValueError, match="3 clips cannot be mixed in twos"):
        mixing.mix({"x": jnp.zeros((3, 1, 8, 8, 1))}, KEYS[:3], mixup=1.0)

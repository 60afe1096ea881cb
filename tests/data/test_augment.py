import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.data import augment

# As one program each: compiled one operation after the other they take three times as long.
FIELDS = ("resolution", "scales", "flip", "colour_jitter", "hue_jitter")
prepare = jax.jit(augment.prepare_training, static_argnames=FIELDS)
jitter = jax.jit(augment.jitter_colours, static_argnums=(2, 3, 4))


def crop_of(size, offset=(0.5, 0.5), flip=False) -> augment.Crop:
    return augment.Crop(
        jnp.array(size, jnp.float32), jnp.array(offset, jnp.float32), jnp.array(flip)
    )


@pytest.fixture
def frames():
    return jnp.asarray(np.random.default_rng(0).random((2, 48, 64, 3)), jnp.float32)


def test_a_crop_at_its_own_size_is_a_slice(frames):
    # Half of the shorter side, 24 x 24; a quarter of the 24 rows and three of the 40 columns left.
    cropped = augment.crop_frames(frames, crop_of((0.5, 0.5), (0.25, 0.75)), 24)
    np.testing.assert_allclose(cropped, frames[:, 6:30, 30:54], atol=2e-5)


def test_a_flip_mirrors_the_columns(frames):
    plain = augment.crop_frames(frames, crop_of((0.75, 0.5), (0, 0.25)), 20)
    flipped = augment.crop_frames(frames, crop_of((0.75, 0.5), (0, 0.25), True), 20)
    np.testing.assert_allclose(flipped, plain[:, :, ::-1], atol=2e-5)


@pytest.mark.parametrize("resolution", [16, 31, 80])
def test_resizing_agrees_with_jax_image(frames, resolution):
    ours = augment.crop_frames(frames[:, :, :48], crop_of((1, 1)), resolution)
    shape = (2, resolution, resolution, 3)
    theirs = jax.image.resize(frames[:, :, :48], shape, "linear", antialias=True)
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [16, 31, 80])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("offset", [(0, 0), (1, 1), (0.5, 0.25)])
def test_on_cuda_the_same_pixels_are_gathered(frames, resolution, offset, flip, monkeypatch):
    crop = crop_of((0.66, 1.0), offset, flip)
    multiplied = augment.crop_frames(frames, crop, resolution)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, cuda, default: cuda(*x))
    gathered = augment.crop_frames(frames, crop, resolution)
    np.testing.assert_allclose(gathered, multiplied, atol=2e-5)


@pytest.mark.slow
def test_both_modalities_share_the_draw():
    # The same scene in both: a grey ramp. Normalisation apart, they must come out alike.
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    scene = np.broadcast_to(ramp[None, :, None], (48, 64, 1))
    clip = np.broadcast_to(scene, (5, 2, 48, 64, 1))
    clips = {"infrared": jnp.asarray(clip), "rgb": jnp.asarray(np.repeat(clip, 3, -1))}
    keys = jax.random.split(jax.random.key(3), 5)
    made = prepare(clips, keys, resolution=24, scales=(1.0, 0.8), flip=True, colour_jitter=0.0)
    red = made["rgb"][..., :1] * augment.RGB_STD[0] + augment.RGB_MEAN[0]
    infrared = made["infrared"] * augment.INFRARED_STD[0] + augment.INFRARED_MEAN[0]
    np.testing.assert_allclose(red, infrared, atol=1e-5)
    assert len({float(x) for x in infrared[:, 0, 0, 0, 0]}) > 1, "clips should differ"


@pytest.mark.slow
def test_a_clip_does_not_depend_on_its_batch():
    rng = np.random.default_rng(4)
    clips = {"rgb": jnp.asarray(rng.integers(0, 256, (4, 2, 40, 40, 3), dtype=np.uint8))}
    keys = jax.random.split(jax.random.key(0), 4)
    options = {"resolution": 16, "scales": (1.0, 0.9, 0.7), "flip": True, "colour_jitter": 0.3}
    whole = prepare(clips, keys, **options)["rgb"]
    alone = prepare({"rgb": clips["rgb"][2:3]}, keys[2:3], **options)["rgb"]
    np.testing.assert_allclose(whole[2:3], alone, atol=1e-5)


def test_scales_of_a_crop_are_at_most_one_apart():
    scales = (1.0, 0.875, 0.75, 0.66)
    draw = jax.jit(jax.vmap(lambda key: augment.draw_crop(key, scales, True)))
    crops = draw(jax.random.split(jax.random.key(0), 500))
    rank = np.argmin(np.abs(np.asarray(crops.size)[..., None] - np.array(scales)), -1)
    assert np.abs(rank[:, 0] - rank[:, 1]).max() == 1
    assert set(rank.ravel()) == {0, 1, 2, 3}
    assert set(np.unique(crops.offset)) == {0, 0.25, 0.5, 0.75, 1}
    assert 0.4 < np.mean(np.asarray(crops.flip)) < 0.6


@pytest.mark.slow
def test_jitter_keeps_the_range_and_leaves_grey_grey():
    grey = jnp.full((1, 8, 8, 3), 0.5)
    made = jitter(grey, jax.random.key(0), 0.4)
    np.testing.assert_allclose(made[..., 0], made[..., 2], atol=1e-6)
    noise = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    made = jitter(noise, jax.random.key(2), 0.9)
    assert made.min() >= 0 and made.max() <= 1
    np.testing.assert_allclose(jitter(noise, jax.random.key(2), 0.0), noise, atol=1e-6)


def test_a_turn_of_hue_keeps_luma_and_grey_and_comes_round():
    # A third of a turn about the grey axis takes the luma along: red stays as bright as it was.
    change = np.asarray(augment.colour_matrix(jnp.array(1.0), jnp.array(2 * np.pi / 3)))
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(luma @ change, luma, atol=1e-3)
    np.testing.assert_allclose(change @ np.ones(3), np.ones(3), atol=1e-5)
    three = np.linalg.matrix_power(change.astype(np.float64), 3)
    np.testing.assert_allclose(three, np.eye(3), atol=1e-5)


def test_saturation_mixes_with_the_luma():
    change = augment.colour_matrix(jnp.array(0.25), jnp.array(0.0))
    luma = np.array([0.299, 0.587, 0.114])
    expected = 0.25 * np.eye(3) + 0.75 * np.ones((3, 1)) * luma
    np.testing.assert_allclose(change, expected, atol=1e-3)


@pytest.mark.slow
def test_grey_share_is_the_share_of_clips_without_colour():
    noise = jax.random.uniform(jax.random.key(1), (1, 4, 4, 3), minval=0.3, maxval=0.7)
    made = jax.vmap(lambda key: jitter(noise, key, 0.1, 0.5, 0.3))(
        jax.random.split(jax.random.key(5), 400)
    )
    colour = jnp.ptp(made, axis=-1).max(axis=(1, 2, 3))
    assert 0.22 < float(jnp.mean(colour < 1e-5)) < 0.38
    always = jitter(noise, jax.random.key(0), 0.0, 0.0, 1.0)
    np.testing.assert_allclose(always[..., 0], noise @ np.array([0.299, 0.587, 0.114]), atol=1e-5)


@pytest.mark.slow
def test_hue_varies_and_infrared_is_left_alone():
    rng = np.random.default_rng(4)
    rgb = jnp.asarray(rng.integers(60, 190, (30, 1, 16, 16, 3), dtype=np.uint8))
    clips = {"rgb": jnp.broadcast_to(rgb[:1], rgb.shape), "infrared": rgb[..., :1]}
    keys = jax.random.split(jax.random.key(2), 30)
    options = {"resolution": 16, "scales": (1.0,), "flip": False}
    plain = prepare(clips, keys, colour_jitter=0.0, **options)
    made = prepare(clips, keys, colour_jitter=0.0, hue_jitter=0.5, **options)
    np.testing.assert_array_equal(made["infrared"], plain["infrared"])
    red = np.asarray(made["rgb"][:, 0, 0, 0, 0])
    assert red.std() > 0.05 and np.unique(red.round(3)).size > 20


def test_normalisation_by_hand():
    pixel = jnp.array([[0.485, 0.456, 0.406 + 0.225]])
    np.testing.assert_allclose(augment.normalise(pixel), [[0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(augment.normalise(jnp.array([[0.449 + 0.226]])), [[1]], atol=1e-6)


def test_crops_of_a_test_by_hand():
    one = augment.evaluation_crops(1, 0.875)
    centre = augment.centre_crop(0.875)
    assert all(np.array_equal(a[0], b) for a, b in zip(one, centre))
    wide, tall = (augment.evaluation_crops(3, 1.0, wide=wide).offset for wide in (True, False))
    np.testing.assert_array_equal(wide, [[0.5, 0.5], [0.5, 0], [0.5, 1]])
    np.testing.assert_array_equal(tall, [[0.5, 0.5], [0, 0.5], [1, 0.5]])
    ten = augment.evaluation_crops(10, 0.75)
    corners = [[0.5, 0.5], [0, 0], [0, 1], [1, 0], [1, 1]]
    np.testing.assert_array_equal(ten.offset, corners * 2)
    assert ten.flip.tolist() == [False] * 5 + [True] * 5 and ten.size.shape == (10, 2)
    with pytest.raises(ValueError, match="2 crops; choose one of"):
        augment.evaluation_crops(2, 1.0)

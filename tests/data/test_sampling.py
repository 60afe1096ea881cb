import numpy as np
import pytest

from jax_irkd.data.sampling import (
    BalancedOrder,
    balanced_weights,
    class_counts,
    frame_indices,
    segment_positions,
)


def test_centres_by_hand():
    # Four segments of [0, 1): centres at 1/8, 3/8, 5/8, 7/8; of 8 frames these are 1, 3, 5, 7.
    positions = segment_positions(4)
    np.testing.assert_allclose(positions, [0.125, 0.375, 0.625, 0.875])
    np.testing.assert_array_equal(frame_indices(positions, 8), [1, 3, 5, 7])


def test_views_by_hand():
    # Two views of two segments: a quarter and three quarters into each.
    np.testing.assert_allclose(segment_positions(2, views=2), [0.125, 0.625, 0.375, 0.875])
    np.testing.assert_array_equal(segment_positions(5, views=1), segment_positions(5))
    assert sorted(segment_positions(4, views=3)) == pytest.approx(segment_positions(12))


def test_training_draws_stay_in_their_segments_and_cover_them():
    rng = np.random.default_rng(0)
    draws = np.stack([segment_positions(5, rng) for _ in range(2000)])
    segments = np.floor(draws * 5)
    np.testing.assert_array_equal(segments, np.broadcast_to(np.arange(5), draws.shape))
    within = draws * 5 - segments
    assert within.min() < 0.01 and within.max() > 0.99
    np.testing.assert_allclose(within.mean(0), 0.5, atol=0.03)


@pytest.mark.parametrize("num_frames", [1, 2, 3, 7, 64, 10_000])
def test_indices_exist_and_keep_their_order(num_frames):
    rng = np.random.default_rng(1)
    for _ in range(50):
        indices = frame_indices(segment_positions(8, rng), num_frames)
        assert indices.min() >= 0 and indices.max() < num_frames
        assert (np.diff(indices) >= 0).all()


def test_modalities_of_different_length_are_read_at_the_same_moments():
    positions = segment_positions(8, np.random.default_rng(2))
    long, short = frame_indices(positions, 300), frame_indices(positions, 100)
    np.testing.assert_allclose(long / 300, short / 100, atol=1 / 100)


def test_the_last_position_never_leaves_the_clip():
    assert frame_indices(np.array([np.nextafter(1.0, 0.0)]), 3)[0] == 2


def test_nothing_to_sample_is_an_error():
    with pytest.raises(ValueError, match="num_segments is 0"):
        segment_positions(0)
    with pytest.raises(ValueError, match="without frames"):
        frame_indices(np.array([0.5]), 0)


def test_balanced_weights_by_hand():
    # 6 clips of 3 classes: 6 / (3 * [3, 2, 1]); class 3 has none, one record cannot be read.
    weights = balanced_weights(class_counts([0, 0, 0, 1, 1, 2, -1], 4))
    np.testing.assert_allclose(weights, [2 / 3, 1.0, 2.0, 1.0])
    assert np.mean(weights[[0, 0, 0, 1, 1, 2]]) == 1.0


def test_a_balanced_order_has_every_class_equally_often_and_every_clip_of_it():
    labels = [0] * 7 + [2] * 3 + [-1] + [5]
    order = BalancedOrder(labels, seed=3)
    drawn = [order[position] for position in range(3 * 21)]
    for start in range(0, len(drawn), 3):  # one of each in three positions
        assert sorted(labels[clip] for clip in drawn[start : start + 3]) == [0, 2, 5]
    for label, count in ((0, 7), (2, 3), (5, 1)):
        own = [clip for clip in drawn if labels[clip] == label]
        for start in range(0, 21, count):  # all of a class before one comes again
            assert len(set(own[start : start + count])) == count
    passes = [tuple(clip for clip in drawn[i : i + 9] if labels[clip] == 2) for i in (0, 9, 18)]
    assert len(set(passes)) > 1
    again = BalancedOrder(labels, seed=3)
    assert [again[p] for p in (40, 3, 62)] == [drawn[p] for p in (40, 3, 62)]
    assert [BalancedOrder(labels, seed=4)[p] for p in range(63)] != drawn

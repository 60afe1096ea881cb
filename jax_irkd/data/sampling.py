"""Which clips are read, and which of their frames (TSN; Wang et al., ECCV 2016)."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Real

ENDLESS = 2**53  # positions of a stream that has no end


def segment_positions(
    num_segments: int, rng: np.random.Generator | None = None, views: int = 1
) -> Float[np.ndarray, " n"]:
    """One position in each of `num_segments` equal segments, as a share of the clip in [0, 1).

    (i + u_i) / t with u_i uniform in [0, 1) when `rng` is given (training), and u_i = 1/2, the
    segment's centre, when it is not (testing). The positions of several `views` of a test clip
    follow each other: u_i = (v + 1/2) / views in view v. Normalised time lets two modalities with
    different frame counts share one draw.
    """
    if num_segments < 1:
        raise ValueError(f"num_segments is {num_segments}; a clip needs at least one segment")
    if rng is not None:
        return (np.arange(num_segments) + rng.random(num_segments)) / num_segments
    offsets = (np.arange(views) + 0.5) / views
    return ((np.arange(num_segments) + offsets[:, None]) / num_segments).reshape(-1)


def frame_indices(positions: Float[np.ndarray, " t"], num_frames: int) -> Int[np.ndarray, " t"]:
    """Frames at `positions` of a clip of `num_frames`: floor(position * num_frames).

    A clip shorter than the number of segments repeats frames, in order. An empty clip raises
    ValueError.
    """
    if num_frames < 1:
        raise ValueError("a clip without frames cannot be sampled")
    return np.minimum((positions * num_frames).astype(np.int64), num_frames - 1)


def balanced_weights(counts: Real[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """n / (k n_c) for a class with n_c of the n clips, k classes having any; 1 for one without.

    Their mean over the clips is 1.
    """
    there = counts > 0
    return np.where(there, counts.sum() / (there.sum() * np.where(there, counts, 1)), 1.0)


def class_counts(labels: Sequence[int], num_classes: int) -> Int[np.ndarray, " k"]:
    """The clips of each class. A negative label is of a clip that cannot be read."""
    return np.bincount([label for label in labels if label >= 0], minlength=num_classes)


class BalancedOrder(Sequence):
    """An endless order of clips in which every class comes equally often.

    Of each k positions in a row, k classes having clips, every class has one, in random order. The
    clips of a class come in random order, all of them before one comes again. Which clip is at a
    position follows from the seed alone, so that a run can go on from anywhere.
    """

    def __init__(self, labels: Sequence[int], seed: int):
        labels = self._labels = np.asarray(labels)
        self._seed = seed
        self._clips = [np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])]
        if not self._clips:
            raise ValueError("no clips to choose from")
        self._shuffled = functools.lru_cache(maxsize=4 * len(self._clips))(self._draw)

    def __reduce__(self):  # a cache cannot go to another process
        return BalancedOrder, (self._labels, self._seed)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, position: int) -> int:
        turn, slot = divmod(position, len(self._clips))
        which = int(self._shuffled(len(self._clips), 0, turn)[slot])
        clips = self._clips[which]
        again, place = divmod(turn, len(clips))
        return int(clips[self._shuffled(len(clips), 1 + which, again)[place]])

    def _draw(self, count: int, purpose: int, turn: int) -> Int[np.ndarray, " n"]:
        return np.random.default_rng([self._seed, purpose, turn]).permutation(count)

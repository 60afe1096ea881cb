"""Which frames of a clip are read (temporal segment sampling; Wang et al., ECCV 2016)."""

import numpy as np
from jaxtyping import Float, Int


def segment_positions(
    num_segments: int, rng: np.random.Generator | None = None
) -> Float[np.ndarray, " t"]:
    """One position in each of `num_segments` equal segments, as a share of the clip in [0, 1).

    (i + u_i) / t with u_i uniform in [0, 1) when `rng` is given (training), and u_i = 1/2,
    the segment's centre, when it is not (testing). Normalised time lets two modalities with
    different frame counts share one draw.
    """
    if num_segments < 1:
        raise ValueError(f"num_segments is {num_segments}; a clip needs at least one segment")
    offsets = np.full(num_segments, 0.5) if rng is None else rng.random(num_segments)
    return (np.arange(num_segments) + offsets) / num_segments


def frame_indices(positions: Float[np.ndarray, " t"], num_frames: int) -> Int[np.ndarray, " t"]:
    """Frames at `positions` of a clip of `num_frames`: floor(position * num_frames).

    A clip shorter than the number of segments repeats frames, in order. An empty clip raises
    ValueError.
    """
    if num_frames < 1:
        raise ValueError("a clip without frames cannot be sampled")
    return np.minimum((positions * num_frames).astype(np.int64), num_frames - 1)

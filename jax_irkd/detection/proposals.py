"""Window scores to labelled segments."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_irkd.detection.rows import Row


def segments(
    scores: Float[np.ndarray, "w k"],
    spans: Int[np.ndarray, "w 2"],
    *,
    smoothing: int = 3,
    thresholds: Sequence[float] = (0.5,),
    max_gap: int = 0,
    min_frames: int = 8,
    nms_overlap: float = 0.5,
    counts: Bool[np.ndarray, " w"] | None = None,
) -> list[Row]:
    """Turn the class probabilities of sliding windows into segments, most confident first.

    `spans` are the windows' frames [start, end), counted from 0, in order. Each window speaks for
    the frames nearer to its centre than to any other's. For every class and threshold: average
    over `smoothing` neighbouring windows, keep what reaches the threshold, join stretches at
    most `max_gap` frames apart, drop what is shorter than `min_frames`. The confidence is the mean
    smoothed score of the stretch. Several thresholds propose nested segments; of two of one
    class whose overlap exceeds `nms_overlap`, only the more confident stays. Windows that `counts`
    leaves out have no segments: none reaches into them or over them, and their scores, which need
    not be finite, are not averaged with others.
    """
    if len(scores) != len(spans):
        raise ValueError(f"{len(scores)} rows of scores do not fit {len(spans)} windows")
    if smoothing < 1 or smoothing % 2 == 0:
        raise ValueError(f"smoothing must be an odd number of windows, not {smoothing}")
    counts = np.ones(len(scores), bool) if counts is None else counts
    if not np.isfinite(scores[counts]).all():
        raise ValueError("the window scores are not finite")
    if not len(scores):
        return []
    edges = _cells(spans)
    parts = [
        (_moving_average(np.asarray(scores[first:last], np.float64), smoothing), first, last)
        for first, last in _runs(counts)
    ]
    rows = []
    for index in range(scores.shape[1]):
        found = [
            Row(index + 1, start + 1, end, confidence)
            for smooth, first, last in parts
            for threshold in thresholds
            for start, end, confidence in _stretches(
                smooth[:, index], edges[first : last + 1], smooth[:, index] >= threshold, max_gap
            )
            if end - start >= min_frames
        ]
        rows += suppress(found, nms_overlap)
    return sorted(rows, key=lambda row: -row.confidence)


def suppress(rows: Iterable[Row], overlap: float = 0.5) -> list[Row]:
    """Non-maximum suppression: drop a row that overlaps a more confident one of its class.

    Overlap is intersection over union of whole frames. Equal confidence: the longer row stays,
    then the earlier.
    """
    kept: list[Row] = []
    for row in sorted(rows, key=lambda r: (-r.confidence, r.start - r.end, r.start)):
        others = (other for other in kept if other.label == row.label)
        if all(_frame_overlap(row, other) <= overlap for other in others):
            kept.append(row)
    return kept


def _cells(spans: Int[np.ndarray, "w 2"]) -> Int[np.ndarray, " w_and_one"]:
    centres = spans.sum(axis=1)  # twice the centre, to stay with whole numbers
    if (np.diff(centres) <= 0).any() or (spans[:, 0] >= spans[:, 1]).any():
        raise ValueError("windows must be in order, each with start < end")
    middle = (centres[:-1] + centres[1:] + 2) // 4
    return np.concatenate([spans[:1, 0], middle, spans[-1:, 1]])


def _moving_average(scores: Float[np.ndarray, "w k"], width: int) -> Float[np.ndarray, "w k"]:
    total = np.concatenate([np.zeros((1, scores.shape[1])), np.cumsum(scores, axis=0)])
    index = np.arange(len(scores))
    low = np.maximum(index - width // 2, 0)
    high = np.minimum(index + width // 2 + 1, len(scores))
    return (total[high] - total[low]) / (high - low)[:, None]


def _stretches(
    track: Float[np.ndarray, " w"],
    edges: Int[np.ndarray, " w_and_one"],
    active: Bool[np.ndarray, " w"],
    max_gap: int,
) -> list[tuple[int, int, float]]:
    # Frames [start, end) and mean score of each run of active windows, near runs joined.
    runs: list[list[int]] = []
    for first, last in _runs(active):
        if runs and edges[first] - edges[runs[-1][1]] <= max_gap:
            runs[-1][1] = last
        else:
            runs.append([first, last])
    lengths = np.maximum(np.diff(edges), 1e-9)  # crowded windows may share a frame
    return [
        (int(edges[a]), int(edges[b]), float(np.average(track[a:b], weights=lengths[a:b])))
        for a, b in runs
    ]


def _runs(active: Bool[np.ndarray, " w"]) -> list[tuple[int, int]]:
    """First and last, not included, of each run of active windows."""
    change = np.diff(np.concatenate([[0], active.astype(np.int8), [0]]))
    first, last = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _frame_overlap(first: Row, second: Row) -> float:
    covered = min(first.end, second.end) - max(first.start, second.start) + 1
    extent = max(first.end, second.end) - min(first.start, second.start) + 1
    return max(covered, 0) / extent

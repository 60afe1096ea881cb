"""PKU-MMD's protocol for detection in untrimmed video."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jax_irkd.detection.rows import Row

Missing = Literal["error", "official", "empty"]


def evaluate(
    proposals: Mapping[str, Sequence[Row]],
    ground: Mapping[str, Sequence[Row]],
    *,
    missing: Missing = "error",
    threshold: float = 0.5,
    num_classes: int = 51,
) -> dict[str, float]:
    """F1, AP, mAP_action, mAP_video and 2D-AP as PKU-MMD's official evaluate.py defines them.

    A proposal belongs to the annotation of its video and label it overlaps most (the later of
    equals), and is a hit if (min(ends) - max(starts)) / (max(ends) - min(starts)) reaches the
    threshold. Positives are annotations hit at least once, so duplicates cost precision. AP drops
    proposals from the least confident up and sums the running maximum of precision times the
    fall in recall; ties keep the order label, video, row.

    - AP and F1 pool all videos and labels; mAP_action averages AP over labels 1 to `num_classes`
      (a label without annotations or proposals counts as 0); mAP_video averages over videos;
      2D-AP averages AP over the thresholds 0.05, 0.10, ..., 1.
    - The official code divides by zero in two places. Here F1 is 0 when nothing is hit, and two
      zero-length intervals overlap by 1 if they are the same and by 0 otherwise.
    - `missing` decides about annotated videos without proposals: "error" refuses; "official"
      leaves the video and its annotations out, as evaluate.py does for a missing file, which
      flatters a detector that skips hard videos; "empty" counts them as found nothing.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], not {threshold}")
    videos = _videos(proposals, ground, missing)
    pool = _pool(videos, proposals, ground, num_classes)
    everything = np.argsort(pool.label, kind="stable")
    classes = range(1, num_classes + 1)
    by_class = [_subset(pool, pool.label == c, int(np.sum(pool.truth == c))) for c in classes]
    by_video = [_subset(pool, pool.video == v, len(ground[name])) for v, name in enumerate(videos)]
    pooled = _subset(pool, everything, len(pool.truth))
    return {
        "F1": _f1(pooled, threshold),
        "AP": _average_precision(pooled, threshold),
        "mAP_action": float(np.mean([_average_precision(p, threshold) for p in by_class])),
        "mAP_video": float(np.mean([_average_precision(p, threshold) for p in by_video])),
        "2D-AP": float(np.mean([_average_precision(pooled, (i + 1) * 0.05) for i in range(20)])),
    }


class _Pool(NamedTuple):
    # Proposals of all videos, in video order, each with its best annotation.
    label: Int[np.ndarray, " p"]
    video: Int[np.ndarray, " p"]
    confidence: Float[np.ndarray, " p"]
    target: Int[np.ndarray, " p"]
    overlap: Float[np.ndarray, " p"]
    truth: Int[np.ndarray, " g"]  # label of every annotation


class _Subset(NamedTuple):
    confidence: Float[np.ndarray, " p"]
    target: Int[np.ndarray, " p"]
    overlap: Float[np.ndarray, " p"]
    total: int  # annotations that should be found


def _videos(proposals, ground, missing) -> list[str]:
    if missing not in ("error", "official", "empty"):
        raise ValueError(f"missing={missing!r}; choose one of ['error', 'official', 'empty']")
    unknown, absent = sorted(proposals.keys() - ground.keys()), sorted(ground.keys() - proposals)
    if unknown:
        raise ValueError(f"{len(unknown)} videos have proposals and no labels: {unknown[:3]}")
    if absent and missing == "error":
        raise ValueError(
            f"{len(absent)} of {len(ground)} labelled videos have no proposals: {absent[:3]}; "
            "choose missing='official' to leave them out or 'empty' to count them as not found"
        )
    videos = [name for name in ground if missing == "empty" or name in proposals]
    if not videos:
        raise ValueError("no video to evaluate")
    return videos


def _pool(videos, proposals, ground, num_classes) -> _Pool:
    parts, truth, first = [], [np.zeros(0, np.int64)], 0
    for index, name in enumerate(videos):
        found = _table(proposals.get(name, ()), name, num_classes)
        known = _table(ground[name], name, num_classes)
        target, overlap = _best_match(found, known)
        label = found[:, 0].astype(np.int64)
        video = np.full(len(found), index)
        parts.append((label, video, found[:, 3], target + first, overlap))
        truth.append(known[:, 0].astype(np.int64))
        first += len(known)
    return _Pool(*(np.concatenate(column) for column in zip(*parts)), np.concatenate(truth))


def _table(rows, name, num_classes) -> Float[np.ndarray, "n 4"]:
    table = np.array([tuple(row) for row in rows], np.float64).reshape(-1, 4)
    wrong = ~np.isfinite(table).all(1) | (table[:, 0] < 0) | (table[:, 0] > num_classes)
    if wrong.any():
        row = tuple(table[wrong][0].tolist())
        raise ValueError(f"video {name}: row {row} needs finite numbers, label 0 to {num_classes}")
    table[:, 0] = np.trunc(table[:, 0])
    return table


def _best_match(found, known):
    # Best annotation of each proposal. The best at any threshold is the best of all, so one
    # matching serves all twenty thresholds of 2D-AP.
    if not len(found) or not len(known):
        return np.zeros(len(found), np.int64), np.full(len(found), -1.0)
    starts, ends = found[:, 1, None], found[:, 2, None]
    covered = np.minimum(ends, known[:, 2]) - np.maximum(starts, known[:, 1])
    extent = np.maximum(ends, known[:, 2]) - np.minimum(starts, known[:, 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        overlap = np.where(extent == 0, covered == 0, covered / extent)
    overlap = np.where(found[:, :1] == known[:, 0], overlap, -1.0)
    best = overlap.shape[1] - 1 - overlap[:, ::-1].argmax(axis=1)
    return best, overlap[np.arange(len(found)), best]


def _subset(pool: _Pool, chosen, total: int) -> _Subset:
    return _Subset(pool.confidence[chosen], pool.target[chosen], pool.overlap[chosen], total)


def _f1(rows: _Subset, threshold: float) -> float:
    positive = len(np.unique(rows.target[rows.overlap >= threshold]))
    # 2PR/(P+R) with P = positive/proposals and R = positive/total.
    return 2 * positive / (len(rows.target) + rows.total) if positive else 0.0


def _average_precision(rows: _Subset, threshold: float) -> float:
    if not rows.total or not len(rows.target):
        return 0.0
    order = np.argsort(rows.confidence, kind="stable")
    target, hits = rows.target[order], np.flatnonzero(rows.overlap[order] >= threshold)
    # Going up in confidence, an annotation is lost with the last proposal that hits it.
    _, reverse = np.unique(target[hits][::-1], return_index=True)
    lost = np.zeros(len(hits), np.int64)
    lost[len(hits) - 1 - reverse] = 1
    positive = np.append(len(reverse), len(reverse) - np.cumsum(lost))
    left = np.append(len(order), len(order) - 1 - hits)
    precision = np.maximum.accumulate(positive / np.maximum(left, 1))
    recall = positive / rows.total
    return float(np.sum(precision[1:] * (recall[:-1] - recall[1:])))

"""Actions in untrimmed video: window scores to labelled segments, and PKU-MMD's protocol.

A segment is a row `label,start,end,confidence`. Labels count from 1 and frames count from 1 with
the end included, as in the annotations of PKU-MMD (Liu et al., 2017, arXiv:1703.07475).

    python -m jax_irkd.detection RESULTS_FOLDER LABEL_FOLDER --missing=error

prints F1, AP, mAP_action, mAP_video and 2D-AP of the text files in a folder.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Missing = Literal["error", "official", "empty"]


class Row(NamedTuple):
    """One action: class from 1, first and last frame from 1, and how sure the detector is."""

    label: int
    start: float
    end: float
    confidence: float


def segments(
    scores: Float[np.ndarray, "w k"],
    spans: Int[np.ndarray, "w 2"],
    *,
    smoothing: int = 3,
    thresholds: Sequence[float] = (0.5,),
    max_gap: int = 0,
    min_frames: int = 8,
    nms_overlap: float = 0.5,
) -> list[Row]:
    """Turn the class probabilities of sliding windows into segments, most confident first.

    `spans` are the windows' frames [start, end), counted from 0, in order. Each window speaks for
    the frames nearer to its centre than to any other's. For every class and threshold: average
    over `smoothing` neighbouring windows, keep what reaches the threshold, join stretches at
    most `max_gap` frames apart, drop what is shorter than `min_frames`. The confidence is the mean
    smoothed score of the stretch. Several thresholds propose nested segments; of two of one
    class whose overlap exceeds `nms_overlap`, only the more confident stays.
    """
    if len(scores) != len(spans):
        raise ValueError(f"{len(scores)} rows of scores do not fit {len(spans)} windows")
    if smoothing < 1 or smoothing % 2 == 0:
        raise ValueError(f"smoothing must be an odd number of windows, not {smoothing}")
    if not np.isfinite(scores).all():
        raise ValueError("the window scores are not finite")
    if not len(scores):
        return []
    edges = _cells(spans)
    smooth = _moving_average(np.asarray(scores, np.float64), smoothing)
    rows = []
    for index, track in enumerate(smooth.T):
        found = [
            Row(index + 1, start + 1, end, confidence)
            for threshold in thresholds
            for start, end, confidence in _stretches(track, edges, track >= threshold, max_gap)
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
        rivals = (other for other in kept if other.label == row.label)
        if all(_frame_overlap(row, other) <= overlap for other in rivals):
            kept.append(row)
    return kept


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


def read_rows(path: str | Path, *, confidence: float | None = None) -> list[Row]:
    """Read `label,start,end,confidence` lines, separated by commas or blanks.

    Rows of three numbers (some labels of PKU-MMD phase 2) get `confidence`, or are an error when
    it is None. Empty lines are skipped.
    """
    rows = []
    for number, line in enumerate(Path(path).read_text("utf-8-sig").splitlines(), 1):
        fields = line.replace(",", " ").split()
        if not fields:
            continue
        if len(fields) == 3 and confidence is not None:
            fields.append(str(confidence))
        try:
            label, start, end, sure = (float(field) for field in fields)
            rows.append(Row(int(label), start, end, sure))
        except (ValueError, OverflowError):
            raise ValueError(
                f"{path}, line {number}: expected label,start,end,confidence, found {line!r}"
            ) from None
    return rows


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows in the official format, one `label,start,end,confidence` per line."""
    lines = [f"{r.label},{r.start:.12g},{r.end:.12g},{r.confidence:.12g}\n" for r in rows]
    Path(path).write_text("".join(lines), "utf-8")


def read_folder(folder: str | Path, *, confidence: float | None = None) -> dict[str, list[Row]]:
    """Read one file per video; the name without `.txt` is the video, in alphabetical order."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give one text file per video, 0002-L.txt")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return {p.name.removesuffix(".txt"): read_rows(p, confidence=confidence) for p in files}


def write_folder(folder: str | Path, rows: Mapping[str, Iterable[Row]]) -> None:
    """Write one `VIDEO.txt` per video, also for a video in which nothing was found."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, found in rows.items():
        write_rows(Path(folder) / f"{name}.txt", found)


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
    change = np.diff(np.concatenate([[0], active.astype(np.int8), [0]]))
    runs: list[list[int]] = []
    for first, last in zip(np.flatnonzero(change == 1), np.flatnonzero(change == -1)):
        if runs and edges[first] - edges[runs[-1][1]] <= max_gap:
            runs[-1][1] = last
        else:
            runs.append([first, last])
    lengths = np.maximum(np.diff(edges), 1e-9)  # crowded windows may share a frame
    return [
        (int(edges[a]), int(edges[b]), float(np.average(track[a:b], weights=lengths[a:b])))
        for a, b in runs
    ]


def _frame_overlap(first: Row, second: Row) -> float:
    covered = min(first.end, second.end) - max(first.start, second.start) + 1
    extent = max(first.end, second.end) - min(first.start, second.start) + 1
    return max(covered, 0) / extent


def main(argv: Sequence[str] | None = None) -> int:
    """Print the official figures of a folder of results."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_irkd.detection",
        description=evaluate.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("proposals", help="folder with one text file per video")
    parser.add_argument("ground", help="folder with the label files of the same names")
    parser.add_argument("--missing", default="error", choices=["error", "official", "empty"])
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--num_classes", type=int, default=51)
    flags = parser.parse_args(argv)
    try:
        figures = evaluate(
            read_folder(flags.proposals),
            read_folder(flags.ground, confidence=1.0),
            missing=flags.missing,
            threshold=flags.threshold,
            num_classes=flags.num_classes,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in figures.items():
        print(f"{name:12s}{value:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

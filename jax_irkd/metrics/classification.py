"""What a classifier gets right: accuracies, average precision, likelihood and calibration.

Functions of the logits and labels of a whole test set, in float64 on the host. Ties and absent
classes are treated in a stated way:

- the predicted class is the largest logit; of equal logits the lower class index comes first;
- a class without clips in the test set has no accuracy and no average precision. It is left out
  of the means, and `absent_classes` names it.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

Logits = Float[np.ndarray | jax.Array, "n k"]
Labels = Int[np.ndarray | jax.Array, " n"]


class Reliability(NamedTuple):
    """Clips sorted into equal bins of confidence; means of an empty bin are nan."""

    edges: Float[np.ndarray, " bins_and_one"]
    clips: Int[np.ndarray, " bins"]
    confidence: Float[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]


def summarize(logits: Logits, labels: Labels, num_classes: int) -> dict[str, float]:
    """All figures of a test set: top1, top5, mean_class_accuracy, mAP, nll and ece.

    Shares lie between 0 and 1, `nll` is in nats per clip. Classes without clips are left out of
    `mean_class_accuracy` and `mAP`.
    """
    logits, labels = _checked(logits, labels, num_classes)
    return {
        "top1": top_k_accuracy(logits, labels, 1),
        "top5": top_k_accuracy(logits, labels, 5),
        "mean_class_accuracy": float(np.nanmean(class_accuracies(logits, labels))),
        "mAP": float(np.nanmean(average_precisions(logits, labels))),
        "nll": negative_log_likelihood(logits, labels),
        "ece": calibration_error(logits, labels),
    }


def top_k_accuracy(logits: Logits, labels: Labels, k: int = 1) -> float:
    """Share of clips whose class is among the k largest logits; 1 where k reaches all classes."""
    logits, labels = _checked(logits, labels)
    return float(np.mean(_ranks(logits, labels[:, None]) < k))


def class_accuracies(logits: Logits, labels: Labels) -> Float[np.ndarray, " k"]:
    """Top-1 accuracy of the clips of each class; nan for a class without clips."""
    matrix = confusion_matrix(logits, labels)
    with np.errstate(invalid="ignore"):
        return np.diag(matrix) / matrix.sum(axis=1)


def absent_classes(labels: Labels, num_classes: int) -> list[int]:
    """Classes without a clip, which the means leave out."""
    return np.flatnonzero(np.bincount(np.asarray(labels), minlength=num_classes) == 0).tolist()


def average_precisions(logits: Logits, labels: Labels) -> Float[np.ndarray, " k"]:
    """Average precision of each class against the rest, ranked by softmax score.

    AP = sum over thresholds n of (R_n - R_{n-1}) P_n, without interpolation; clips of equal
    score share one threshold. nan for a class without clips.
    """
    logits, labels = _checked(logits, labels)
    scores = np.exp(_log_softmax(logits))
    return np.array([_average_precision(s, labels == c) for c, s in enumerate(scores.T)])


def confusion_matrix(logits: Logits, labels: Labels) -> Int[np.ndarray, "k k"]:
    """Number of clips of class i (row) that were taken for class j (column)."""
    logits, labels = _checked(logits, labels)
    classes = logits.shape[1]
    pairs = labels * classes + logits.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def row_shares(matrix: Int[np.ndarray, "k k"]) -> Float[np.ndarray, "k k"]:
    """Each row divided by its sum; nan in the row of a class without clips."""
    with np.errstate(invalid="ignore"):
        return matrix / matrix.sum(axis=1, keepdims=True)


def negative_log_likelihood(logits: Logits, labels: Labels) -> float:
    """Mean of -log softmax(logits)[label], in nats."""
    logits, labels = _checked(logits, labels)
    return float(-_log_softmax(logits)[np.arange(len(labels)), labels].mean())


def calibration_error(logits: Logits, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error: sum over bins of count/n * |accuracy - confidence|.

    Guo et al., On calibration of modern neural networks, ICML 2017 (arXiv:1706.04599).
    """
    table = reliability(logits, labels, bins)
    gaps = np.abs(table.accuracy - table.confidence)
    return float(np.nansum(table.clips * gaps) / table.clips.sum())


def reliability(logits: Logits, labels: Labels, bins: int = 15) -> Reliability:
    """Accuracy and mean confidence of the clips whose top probability lies in each bin.

    The bins have equal width and contain their upper edge: (0, 1/bins], ..., (1 - 1/bins, 1].
    """
    logits, labels = _checked(logits, labels)
    confidence = np.exp(_log_softmax(logits)).max(axis=1)
    correct = logits.argmax(axis=1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            edges,
            count,
            np.bincount(place, confidence, minlength=bins) / count,
            np.bincount(place, correct, minlength=bins) / count,
        )


def _checked(
    logits: Logits, labels: Labels, num_classes: int | None = None
) -> tuple[Float[np.ndarray, "n k"], Int[np.ndarray, " n"]]:
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels, np.int64)
    classes = logits.shape[1] if num_classes is None else num_classes
    if not len(labels):
        raise ValueError("no clips to evaluate: logits and labels are empty")
    if logits.shape[1] != classes:
        raise ValueError(f"logits have {logits.shape[1]} classes, the dataset has {classes}")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"label {wrong} is outside the classes 0 to {classes - 1}")
    if not np.isfinite(logits).all():
        count = int((~np.isfinite(logits)).any(axis=1).sum())
        raise ValueError(f"the logits of {count} of {len(labels)} clips are not finite")
    return logits, labels


def _ranks(logits, rows):
    # How many classes come before the true one. Equal logits go by index, as in argmax.
    own = np.take_along_axis(logits, rows, axis=-1)
    earlier = np.arange(logits.shape[-1]) < rows
    return ((logits > own) | ((logits == own) & earlier)).sum(-1)


def _log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _average_precision(scores, positive):
    if not positive.any():
        return np.nan
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # last of each tied group
    hits = np.cumsum(positive)[last]
    return np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / (last + 1))

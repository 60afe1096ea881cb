"""How much accuracy a smaller network loses, on the run's clips or on rendered ones."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment import clips
from jax_irkd.errors import UserError

MAX_DROP = 1.0  # points of top-1 that a smaller network may lose


def accuracy_change(
    changed: Callable,
    reference: Callable,
    meta: Mapping[str, Any],
    spec: InputSpec,
    max_drop: float = MAX_DROP,
) -> dict[str, Any]:
    """Top-1 of both programs and how often they agree, on the run's test split.

    Where its data set is not built the clips are ten rendered ones, which tell about agreement
    only. `summary` is a line that says so. Raises UserError when more than `max_drop` points are
    lost: on the validation subjects, where the run has some, whose figures are `validation`.
    """
    try:
        split = clips.of_split(meta, "test")
    except UserError as error:
        print(f"no test split to measure on: {error}", file=sys.stderr)
        return _compared(changed, reference, clips.rendered(spec))
    judge = None
    if meta["config"]["input"].get("validation"):
        judge = _compared(changed, reference, clips.of_split(meta, "validation"))
        _check(judge, max_drop)
    figures = _compared(changed, reference, split)
    if judge:
        return figures | {"validation": judge}
    _check(figures, max_drop)
    return figures


def _check(figures: Mapping[str, Any], max_drop: float) -> None:
    lost = -100 * figures["top1_change"]
    if lost > max_drop + 1e-9:
        raise UserError(
            f"{figures['summary']}: {lost:.1f} points of top-1 are lost, more than "
            f"--max_drop={max_drop:g}; nothing was written. Allow more, or take "
            "--precision=bf16 or float32"
        )


def _compared(changed: Callable, reference: Callable, split: clips.SplitClips) -> dict[str, Any]:
    first, second, labels = [], [], []
    for batch, truth in split.batches:
        first.append(np.asarray(changed(batch)))
        second.append(np.asarray(reference(batch)))
        labels.append(truth)
    return _compare(*map(np.concatenate, (first, second, labels)), split.name)


def _compare(changed, reference, labels, source: str) -> dict[str, Any]:
    known = labels >= 0
    kept = labels != clips.PADDING
    agreement = float(np.mean(changed[kept].argmax(1) == reference[kept].argmax(1)))
    shift = float(np.abs(changed[kept] - reference[kept]).max())
    figures = {
        "measured_on": source,
        "clips": int(kept.sum()),
        "agreement": agreement,
        "largest_change": shift,
    }
    summary = f"{source}, {kept.sum()} clips: {agreement:.1%} same answers, "
    if known.any():
        before, after = (
            float(np.mean(scores[known].argmax(1) == labels[known]))
            for scores in (reference, changed)
        )
        figures |= {"top1_float32": before, "top1": after, "top1_change": after - before}
        summary += f"top-1 {before:.1%} -> {after:.1%} ({100 * (after - before):+.1f} points), "
    return figures | {"summary": summary + f"probabilities change by at most {shift:.3f}"}

"""Late fusion: several runs' scores of the same clips as one, RGB and infrared for example.

The fused probability of a class is the weighted mean of the runs' probabilities. Weights are equal,
given, or tuned: those that make one half of the subjects likeliest. Every figure is then that of
the other half.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import log_softmax, logsumexp

from jax_irkd.data.groups import grouped
from jax_irkd.errors import UserError
from jax_irkd.metrics import classification
from jax_irkd.runs.results import Run, read_run, read_scores


def read_scored(folder: str | Path) -> Run:
    """A finished run called by its path, its scores sorted by clip. Raises UserError without."""
    run = read_run(folder, str(folder))
    if run.logits is None:
        read_scores(folder)  # says what is missing
    order = np.argsort(run.clip_ids, kind="stable")
    return run._replace(
        clip_ids=run.clip_ids[order], labels=run.labels[order], logits=run.logits[order]
    )


def check_same_clips(runs: Sequence[Run]) -> None:
    """Raises UserError unless all runs scored the same clips, labels and classes."""
    first = runs[0]
    for run in runs[1:]:
        names = (first.name, run.name)
        missing = sorted(set(first.clip_ids) ^ set(run.clip_ids))
        if missing:
            owner = names[missing[0] not in set(first.clip_ids)]
            raise UserError(
                f"{names[0]} ({len(first.clip_ids)} clips) and {names[1]} ({len(run.clip_ids)}) "
                f"scored different clips: {len(missing)} are in one only, {missing[0]} in {owner}; "
                "fuse runs of one dataset and protocol"
            )
        wrong = np.flatnonzero(first.labels != run.labels)
        if len(wrong):
            where = f"{first.clip_ids[wrong[0]]} is {first.labels[wrong[0]]} and "
            raise UserError(
                f"{names[0]} and {names[1]} disagree on the labels of {len(wrong)} clips "
                f"({where}{run.labels[wrong[0]]}); fuse runs of one dataset"
            )
        classes = [scores.results.get("class_names") for scores in (first, run)]
        if first.logits.shape != run.logits.shape or (all(classes) and classes[0] != classes[1]):
            raise UserError(
                f"{names[0]} knows {first.logits.shape[1]} classes, {names[1]} "
                f"{run.logits.shape[1]}, and they are not the same; fuse runs of one dataset"
            )


def fuse(
    logits: Float[np.ndarray, "r n k"], weights: Float[np.ndarray, " r"]
) -> Float[np.ndarray, "n k"]:
    """Logits of the fused classifier: log sum_r w_r softmax(logits_r), w scaled to sum 1."""
    share = np.asarray(weights, np.float64) / np.sum(weights)
    log_p = log_softmax(np.asarray(logits, np.float64), axis=-1)
    return logsumexp(log_p, axis=0, b=share[:, None, None])


def tune(
    logits: Float[np.ndarray, "r n k"], labels: np.ndarray, rounds: int = 1000
) -> Float[np.ndarray, " r"]:
    """The weights, summing to 1, under which the labels are likeliest.

    Maximises sum_n log sum_r w_r p_r(y_n), a concave function of w, by expectation maximisation:
    w_r <- mean_n w_r p_r(y_n) / sum_s w_s p_s(y_n).
    """
    log_p = log_softmax(np.asarray(logits, np.float64), axis=-1)
    likelihood = np.take_along_axis(log_p, labels[None, :, None], axis=-1)[..., 0]
    likelihood = np.exp(likelihood - likelihood.max(axis=0))
    weights = np.full(len(logits), 1 / len(logits))
    for _ in range(rounds):
        part = weights[:, None] * likelihood
        new = (part / part.sum(axis=0)).mean(axis=1)
        settled = np.abs(new - weights).max() < 1e-7
        weights = new
        if settled:
            break
    return weights


def halves(clip_ids: Sequence[str]) -> tuple[str, Bool[np.ndarray, " n"], list[str]]:
    """What clips are grouped by, which clips are for tuning, and the groups these come from.

    Groups are those of `data.groups`; every other one tunes. Raises UserError when there are fewer
    than two groups of clips.
    """
    kind, groups = grouped(list(map(str, clip_ids)))
    known = sorted(set(groups))
    if len(known) < 2:
        raise UserError(
            f"all clips are of one group ({kind}: {known[0]}), so weights cannot be tuned on some "
            "and measured on others; use --weights=equal, or give numbers"
        )
    chosen = known[::2]
    return kind, np.isin(groups, chosen), chosen


def fused_results(runs: Sequence[Run], weights: str = "equal") -> dict[str, Any]:
    """What fusion.json holds: the figures of every run and of all fused, on the same clips.

    Raises UserError for runs that do not fit together and for impossible weights.
    """
    check_same_clips(runs)
    logits, labels = np.stack([run.logits for run in runs]), runs[0].labels
    measured, tuned = np.ones(len(labels), bool), {}
    if weights == "tuned":
        kind, tuning, groups = halves(runs[0].clip_ids)
        measured = ~tuning
        chosen = tune(logits[:, tuning], labels[tuning])
        tuned = {"by": kind, "groups": groups, "clips": int(tuning.sum())}
    elif weights == "equal":
        chosen = np.full(len(runs), 1 / len(runs))
    else:
        chosen = _numbers(weights, len(runs))
    classes = logits.shape[-1]

    def figures(scores):
        return classification.summarize(scores[measured], labels[measured], classes)

    return {
        "runs": [run.name for run in runs],
        "weights": dict(zip([run.name for run in runs], map(float, chosen))),
        "weights_are": weights if weights in ("equal", "tuned") else "given",
        "tuned_on": tuned or None,
        "measured_on": f"{measured.sum()} of {len(labels)} clips",
        "metrics": {run.name: figures(run.logits) for run in runs},
        "equal": figures(fuse(logits, np.ones(len(runs)))),
        "fused": figures(fuse(logits, chosen)),
    }


def _numbers(text: str, count: int) -> Float[np.ndarray, " r"]:
    try:
        values = np.array([float(part) for part in text.split(",")])
    except ValueError:
        raise UserError(
            f"--weights={text} is none of equal, tuned and numbers like 0.3,0.7"
        ) from None
    if len(values) != count:
        raise UserError(
            f"--weights={text} has {len(values)} numbers for {count} runs; give {count}"
        )
    if not np.isfinite(values).all() or (values < 0).any() or not values.sum() > 0:
        raise UserError(f"--weights={text}: weights are 0 or more, and not all of them 0")
    return values / values.sum()

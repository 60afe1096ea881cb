"""The figures of a study: means over seeds, paired differences, what of the gap is closed.

Everything is computed from results.json and scores.npz of finished runs, and is None where runs
for it are missing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_irkd.errors import UserError
from jax_irkd.metrics import classification, significance
from jax_irkd.reporting import verdict
from jax_irkd.reporting.analysis import class_gains
from jax_irkd.reporting.paper import paper_rows
from jax_irkd.reporting.pulls import pulls_of
from jax_irkd.runs.results import Common, Run, paired, right_or_wrong, title_of

METRICS = ("top1", "mean_class_accuracy", "mAP")
Runs = Mapping[tuple[int, str], Run]
Attempts = Mapping[str, Sequence[Mapping[str, Any]]]


def summarise(
    runs: Runs, methods: Sequence[str], attempts: Attempts, *, replicates: int = 10_000
) -> dict[str, Any]:
    """Everything a study says, JSON-ready. `runs` are the finished ones by (seed, method).

    Raises UserError when they are of several datasets or protocols.
    """
    first = next(iter(runs.values()), None)
    if first is None:
        return {"metric": "top1", "methods": {}, "paper": None}
    shared = ("dataset", "protocol", "class_names")
    for run in runs.values():
        for key in shared:
            if run.results.get(key) != first.results.get(key):
                raise UserError(
                    f"{run.folder} has {key} {run.results.get(key)!r}, {first.folder} "
                    f"{first.results.get(key)!r}; a study compares runs on the same data"
                )
    metric = first.metric
    order = list(dict.fromkeys(["teacher", "baseline", *methods]))
    rows = {
        method: _row(method, runs, metric, attempts, replicates)
        for method in order
        if any(name == method for _, name in runs)
    }
    _correct(rows)
    return {
        "dataset": first.results.get("dataset"),
        "generated": first.results.get("generated") or "",
        "fingerprint": first.results.get("fingerprint"),
        "protocol": first.results.get("protocol"),
        "class_names": first.class_names,
        "clips": first.results.get("num_clips"),
        "metric": metric,
        "methods": rows,
        "paper": _paper(first, rows),
        "git_commits": sorted({str(run.results.get("git_commit")) for run in runs.values()}),
    }


def _correct(rows: Mapping[str, dict[str, Any]]) -> None:
    """Adds to every difference its p-value over all methods of the study together (Holm)."""
    found = [row["difference"] for row in rows.values() if row.get("difference")]
    adjusted = significance.holm([difference["p_value"] for difference in found])
    for difference, p_value in zip(found, adjusted, strict=True):
        difference |= {"p_holm": p_value, "compared": len(found)}


def _row(
    method: str, runs: Runs, metric: str, attempts: Attempts, replicates: int
) -> dict[str, Any]:
    own = {seed: run for (seed, name), run in sorted(runs.items()) if name == method}
    row = {
        "title": title_of(method),
        "seeds": list(own),
        "metrics": {key: spread({s: r.figure(key) for s, r in own.items()}) for key in METRICS},
        "steps": next(iter(own.values())).results.get("steps"),
        "class_accuracy": _class_accuracy(own.values()),
    } | _cost(own, attempts)
    if method != "teacher":
        row["agreement"] = _agreement(own, runs)
    if method not in ("teacher", "baseline"):
        row |= _against_baseline(own, runs, metric, replicates)
        row["pulls"] = pulls_of(list(own.values()))
    return row


def spread(values: Mapping[int, float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds (None for a single one), and the values."""
    known = [value for value in values.values() if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "values": {str(seed): value for seed, value in values.items()},
    }


def _cost(own: Mapping[int, Run], attempts: Attempts) -> dict[str, float | None]:
    """Mean wall and processor time of a run over all its attempts, and the largest memory.

    A run made outside the study has only the wall time of its own results.
    """
    walls, cpus, peaks = [], [], []
    for seed, run in own.items():
        tries = attempts.get(f"seed{seed}/{run.method}", ())
        walls.append(sum(t["wall_time_s"] for t in tries) or run.results.get("wall_time_s"))
        cpus += [sum(t["cpu_time_s"] for t in tries)] if tries else []
        peaks += [t["peak_memory_bytes"] for t in tries]
    walls = [wall for wall in walls if wall is not None]
    return {
        "wall_time_s": float(np.mean(walls)) if walls else None,
        "cpu_time_s": float(np.mean(cpus)) if cpus else None,
        "peak_memory_bytes": max(peaks, default=None),
    }


def _class_accuracy(found) -> list[float | None] | None:
    """Accuracy of each class, averaged over the runs; None for a class without clips."""
    scored = [run for run in found if run.logits is not None]
    if not scored:
        return None
    means = np.mean(
        [classification.class_accuracies(run.logits, run.labels) for run in scored], axis=0
    )
    return [_finite(value) for value in means]


def _agreement(own: Mapping[int, Run], runs: Runs) -> dict[str, Any]:
    """Share of clips on which student and teacher of a seed predict the same class."""
    shares = {}
    for seed, run in own.items():
        pair = paired(run, runs[seed, "teacher"]) if (seed, "teacher") in runs else None
        if pair is not None:
            (first, _), (second, _) = pair
            shares[seed] = significance.agreement(first.argmax(1), second.argmax(1))
    return spread(shares)


def _against_baseline(
    own: Mapping[int, Run], runs: Runs, metric: str, replicates: int
) -> dict[str, Any]:
    found = dict.fromkeys(
        (
            "difference",
            "difference_over_seeds",
            "mcnemar",
            "class_gains",
            "class_intervals",
            "gap_closed",
            "gap_interval",
        )
    )
    baselines = {seed: runs[seed, "baseline"] for seed in own if (seed, "baseline") in runs}
    if not baselines:
        return found
    seeds = list(baselines)
    found["gap_closed"] = _gap({s: own[s] for s in seeds}, baselines, runs, metric)
    found["gap_interval"] = _gap_interval(own, baselines, runs, metric, replicates)
    figures = [[r[s].figure(metric) for s in seeds] for r in (own, baselines)]
    if None not in figures[0] + figures[1]:
        over = significance.paired_difference(*(np.array(values, float) for values in figures))
        found["difference_over_seeds"] = {"metric": metric} | {
            key: _finite(value) for key, value in over._asdict().items()
        }
    scores = _right([own, baselines], seeds)
    if scores is None:
        return found
    (right, baseline), performances = scores
    clips = right.shape[1]
    interval = significance.paired_bootstrap(
        right, baseline, performances=performances, replicates=replicates
    )
    found["difference"] = interval._asdict() | {
        "detectable": significance.detectable(interval.standard_error),
        "metric": "top1",
        "confidence": 0.95,
        "seeds": seeds,
        "clips": clips,
        "performances": len(set(performances.tolist())),
    }
    found["mcnemar"] = {
        str(seed): {"lost": test.only_first, "won": test.only_second, "p_value": test.p_value}
        for seed, first, second in zip(seeds, baseline, right)
        for test in [significance.mcnemar_exact(first, second)]
    }
    ours, theirs = (_class_accuracy([r[s] for s in seeds]) for r in (own, baselines))
    found["class_gains"] = [
        None if None in (a, b) else a - b for a, b in zip(ours, theirs, strict=True)
    ]
    gains = class_gains(*([group[s] for s in seeds] for group in (own, baselines)))
    found["class_intervals"] = [
        [gain.low, gain.high] if math.isfinite(gain.low) else None for gain in gains
    ]
    return found


def _right(groups: Sequence[Mapping[int, Run]], seeds: Sequence[int]) -> Common | None:
    """Right or wrong for every group of runs, over the clips that all of them have."""
    return right_or_wrong([[group[seed] for seed in seeds] for group in groups])


def _gap(own, baselines, runs: Runs, metric: str) -> float | None:
    """Share of the mean lead of the teachers over the baselines, over the seeds all three have."""
    seeds = [seed for seed in own if (seed, "teacher") in runs]
    figures = [
        [found.figure(metric) for found in group]
        for group in (
            [runs[seed, "teacher"] for seed in seeds],
            [baselines[seed] for seed in seeds],
            [own[seed] for seed in seeds],
        )
    ]
    if not seeds or any(value is None for group in figures for value in group):
        return None
    return _finite(significance.gap_closed(*(float(np.mean(group)) for group in figures)))


def _gap_interval(own, baselines, runs: Runs, metric: str, replicates: int) -> list[float] | None:
    """The 95 % interval of the share of the gap, over the seeds that have a teacher's scores."""
    teachers = {s: runs[s, "teacher"] for s in baselines if (s, "teacher") in runs}
    groups = [[group[seed] for seed in teachers] for group in (teachers, baselines, own)]
    if not teachers:
        return None
    found = verdict.gap_interval(*groups, metric, replicates)
    if found is None:
        return None
    return [found.low, found.high] if math.isfinite(found.low) else None


def _paper(first: Run, rows: Mapping[str, Mapping]) -> dict[str, Any] | None:
    """The paper's figures with our means beside them; `same` tells whether the data are theirs."""
    found = paper_rows(first, [])
    if found is None:
        return None
    for row in found["rows"]:
        ours = rows.get(row["method"], {}).get("metrics", {}).get(row["metric"], {})
        row |= {"ours": ours.get("mean"), "std": ours.get("std")}
    return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

"""The first lines of a page: what a student gains over infrared only, and how sure that is.

No sentence names a cause. The interval decides which words the headline may use: over the test
clips where there is one run of each, over clips and seeds where there are several; clips of one
performance (`data.groups`) are drawn together.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jax_irkd.data.groups import performances_of
from jax_irkd.errors import plural
from jax_irkd.metrics import precision_gap, significance
from jax_irkd.metrics.significance import Interval, McNemar, PairedInterval
from jax_irkd.reporting.comparison import Cast, figures
from jax_irkd.reporting.wording import metric_name, percent, signed
from jax_irkd.runs.results import Run, aligned, paired, right_or_wrong

REPLICATES = 4000


class Evidence(NamedTuple):
    """What the clips say that both runs were tested on, with every seed that both have.

    The difference is of top-1; McNemar's test is that of a single seed.
    """

    difference: PairedInterval
    test: McNemar | None
    clips: int
    by_seed: tuple[float, ...]


def evidence_of(cast: Cast) -> Evidence | None:
    """None where there is no baseline, or it was not tested on the same clips."""
    if not cast.student or cast.baseline is None:
        return None
    groups = cast.together(cast.focus, cast.baseline)
    pairs = [pair for pair in zip(*groups) if paired(*pair) is not None]
    scores = right_or_wrong(list(zip(*pairs))) if pairs else None
    if scores is None:
        return None
    (right, before), performances = scores
    difference = significance.paired_bootstrap(
        right, before, performances=performances, replicates=REPLICATES
    )
    alone = len(right) == 1
    test = significance.mcnemar_exact(before[0], right[0]) if alone else None
    by_seed = (right.mean(1) - before.mean(1)).tolist()
    return Evidence(difference, test, right.shape[1], tuple(by_seed))


def gap_of(cast: Cast) -> Interval | None:
    """The share of the gap that is closed; its ends are nan where the clips do not give them.

    None where a figure is missing, or the teacher does not lead.
    """
    groups = cast.together(cast.focus, cast.baseline)
    if not cast.student or not groups:
        return None
    after, before = (_mean(group, cast.metric) for group in groups)
    whole = cast.together(cast.focus, cast.baseline, cast.teacher)
    above = _mean(whole[2], cast.metric) if whole else cast.teacher_figure
    if whole:
        after, before = (_mean(group, cast.metric) for group in whole[:2])
    if None in (after, before, above):
        return None
    share = significance.gap_closed(above, before, after)
    if math.isnan(share):
        return None
    ends = _gap_interval(whole, cast.metric) if whole else None
    return Interval(share, *(ends[1:] if ends else (math.nan, math.nan)))


def _mean(runs: Sequence[Run], metric: str) -> float | None:
    known = figures(runs, metric)
    return float(np.mean(known)) if len(known) == len(runs) > 0 else None


def _gap_interval(groups: Sequence[Sequence[Run]], metric: str) -> Interval | None:
    """Over the clips that students, baselines and teachers were all tested on."""
    for trio in zip(*groups):
        if None in (paired(trio[0], trio[1]), paired(trio[0], trio[2])):
            return None
    return gap_interval(*reversed(groups), metric)


def gap_interval(
    teachers: Sequence[Run],
    baselines: Sequence[Run],
    students: Sequence[Run],
    metric: str,
    replicates: int = REPLICATES,
) -> Interval | None:
    """The share of the gap with its interval, of one run a seed each; None where scores miss.

    Of top-1 over the clips that all have; of mAP where all have the same.
    """
    groups = [teachers, baselines, students]
    if metric == "mAP":
        scores = aligned(groups)
        together = performances_of(np.sort(teachers[0].clip_ids)) if scores else None
        return None if scores is None else precision_gap.gap_interval(*scores, together)
    common = right_or_wrong(groups)
    if common is None:
        return None
    return significance.gap_interval(
        *common.right, performances=common.performances, replicates=replicates
    )


def gap_text(gap: Interval | None) -> str:
    """`35 % [20, 51]`, or the share alone."""
    if gap is None:
        return ""
    ends = "" if math.isnan(gap.low) else f" [{100 * gap.low:.0f}, {100 * gap.high:.0f}]"
    return percent(gap.value, 0) + ends


def headline(cast: Cast, evidence: Evidence | None) -> str:
    """One line; it claims a lead or a loss only where the interval leaves out zero."""
    value, title = cast.mean(cast.focus, cast.metric), cast.focus.title
    if value is None:
        return f"{title} has no test figures"
    if evidence is None:
        return f"{title}: {percent(value)} {metric_name(cast.metric)}"
    found, count = evidence.difference, len(evidence.by_seed)
    over = f" over {plural(count, 'seed')}" if count > 1 else ""
    if found.low <= 0 <= found.high:
        return f"{title} cannot be told from infrared only{over}"
    verb = "leads" if found.difference > 0 else "trails"
    points = f"{abs(100 * found.difference):.1f} points" + " of top-1" * (cast.metric != "top1")
    return f"{title} {verb} infrared only by {points}{over}"


def sentences(cast: Cast, evidence: Evidence | None) -> list[str]:
    """The figures, the interval, and the share of the gap, in words."""
    groups, metric = cast.together(cast.focus, cast.baseline), metric_name(cast.metric)
    if not cast.student or not groups:
        return []
    value, before = (_mean(group, cast.metric) for group in groups)
    if value is None or before is None:
        return []
    known = f"; the teacher, which sees RGB, {percent(cast.teacher_figure or 0)}"
    seeds = len(groups[0])
    found = [
        f"Infrared only reaches {percent(before)} {metric}, {cast.focus.title} {percent(value)}"
        + (known if cast.teacher_figure is not None else "")
        + (f" (means of {seeds} seeds)." if seeds > 1 else ".")
    ]
    if evidence is None:
        missing = (
            "The two runs were not tested on the same clips, so the difference has no interval."
        )
        return [*found, missing]
    found.append(_difference(evidence))
    gap = gap_of(cast)
    if gap is not None and gap.high < 0:
        found.append(
            f"The gap to the RGB teacher is {percent(-gap.value, 0)} wider than that of infrared "
            f"only, 95 % interval {-100 * gap.high:.0f} to {percent(-gap.low, 0)}."
        )
    elif gap is not None and not math.isnan(gap.low):
        found.append(
            f"Of the gap to the RGB teacher {percent(gap.value, 0)} is closed, 95 % interval "
            f"{100 * gap.low:.0f} to {percent(gap.high, 0)}."
        )
    return found


def _difference(evidence: Evidence) -> str:
    (difference, low, high, *_), test = evidence.difference, evidence.test
    inside = " The interval includes no difference at all." if low <= 0 <= high else ""
    said = (
        f"Top-1 difference {signed(difference)} points, 95 % interval {signed(low)} to "
        f"{signed(high)} over "
    )
    clips = plural(evidence.clips, "test clip")
    if test is None:
        each = ", ".join(map(signed, evidence.by_seed))
        return (
            f"{said}{len(evidence.by_seed)} seeds and {clips}, both drawn again; seed by seed "
            f"{each}.{inside}"
        )
    return (
        f"{said}{clips}; {plural(test.only_second, 'clip')} won, {test.only_first} lost (exact "
        f"McNemar test, {_p(test.p_value)}).{inside} One seed each: another seed moves both "
        "figures; only a study over several tells a method's worth."
    )


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"

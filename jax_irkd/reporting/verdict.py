"""The first lines of a page: what a student gains over infrared only, and how sure that is.

One run of each says nothing about other seeds, so no sentence names a cause; the interval over the
test clips decides which words the headline may use.
"""

import math
from typing import NamedTuple

from jax_irkd.metrics import significance
from jax_irkd.metrics.significance import Interval, McNemar, PairedInterval
from jax_irkd.reporting.comparison import Cast
from jax_irkd.reporting.wording import metric_name, percent
from jax_irkd.runs.results import paired

REPLICATES = 4000


class Evidence(NamedTuple):
    """What the clips say that both runs were tested on; the difference is of top-1."""

    difference: PairedInterval
    test: McNemar
    clips: int


def evidence_of(cast: Cast) -> Evidence | None:
    """None where there is no baseline, or it was not tested on the same clips."""
    if not cast.student or cast.baseline is None:
        return None
    pair = paired(cast.focus, cast.baseline)
    if pair is None:
        return None
    right, before = (logits.argmax(1) == labels for logits, labels in pair)
    difference = significance.paired_bootstrap(right[None], before[None], replicates=REPLICATES)
    return Evidence(difference, significance.mcnemar_exact(before, right), len(right))


def gap_of(cast: Cast) -> Interval | None:
    """The share of the gap that is closed; its ends are nan where the clips do not give them.

    None where a figure is missing, or the teacher does not lead.
    """
    after = cast.focus.figure(cast.metric)
    before = cast.baseline.figure(cast.metric) if cast.baseline else None
    if not cast.student or after is None or before is None or cast.teacher_figure is None:
        return None
    share = significance.gap_closed(cast.teacher_figure, before, after)
    if math.isnan(share):
        return None
    ends = _gap_interval(cast) if cast.metric == "top1" else None
    return Interval(share, *(ends[1:] if ends else (math.nan, math.nan)))


def _gap_interval(cast: Cast) -> Interval | None:
    """Over the clips that teacher, baseline and student were all tested on."""
    if cast.teacher is None or cast.baseline is None:
        return None
    pairs = [paired(cast.focus, run) for run in (cast.teacher, cast.baseline)]
    if None in pairs:
        return None
    own, theirs = pairs[0][0], [pair[1] for pair in pairs]
    right = [(logits.argmax(1) == labels)[None] for logits, labels in (*theirs, own)]
    return significance.gap_interval(*right, replicates=REPLICATES)


def gap_text(gap: Interval | None) -> str:
    """`35 % [20, 51]`, or the share alone."""
    if gap is None:
        return ""
    ends = "" if math.isnan(gap.low) else f" [{100 * gap.low:.0f}, {100 * gap.high:.0f}]"
    return percent(gap.value, 0) + ends


def headline(cast: Cast, evidence: Evidence | None) -> str:
    """One line; it claims a lead or a loss only where the interval leaves out zero."""
    value, title = cast.focus.figure(cast.metric), cast.focus.title
    if value is None:
        return f"{title} has no test figures"
    if evidence is None:
        return f"{title}: {percent(value)} {metric_name(cast.metric)}"
    found = evidence.difference
    if found.low <= 0 <= found.high:
        return f"{title} cannot be told from infrared only"
    verb = "leads" if found.difference > 0 else "trails"
    return f"{title} {verb} infrared only by {abs(100 * found.difference):.1f} points"


def sentences(cast: Cast, evidence: Evidence | None) -> list[str]:
    """The figures, the interval, and the share of the gap, in words."""
    value, metric = cast.focus.figure(cast.metric), metric_name(cast.metric)
    before = cast.baseline.figure(cast.metric) if cast.baseline else None
    if not cast.student or value is None or before is None:
        return []
    known = f"; the teacher, which sees RGB, {percent(cast.teacher_figure or 0)}"
    found = [
        f"Infrared only reaches {percent(before)} {metric}, {cast.focus.title} {percent(value)}"
        + (known if cast.teacher_figure is not None else "")
        + "."
    ]
    if evidence is None:
        missing = (
            "The two runs were not tested on the same clips, so the difference has no interval."
        )
        return [*found, missing]
    found.append(_difference(evidence))
    gap = gap_of(cast)
    if gap is not None and not math.isnan(gap.low):
        found.append(
            f"Of the gap to the RGB teacher {percent(gap.value, 0)} is closed, 95 % interval "
            f"{100 * gap.low:.0f} to {percent(gap.high, 0)}."
        )
    return found


def _difference(evidence: Evidence) -> str:
    (difference, low, high, *_), test = evidence.difference, evidence.test
    inside = " The interval includes no difference at all." if low <= 0 <= high else ""
    return (
        f"Top-1 difference {100 * difference:+.1f} points, 95 % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f} over {evidence.clips} test clips; {test.only_second} clips won, "
        f"{test.only_first} lost (exact McNemar test, {_p(test.p_value)}).{inside} One seed "
        "each: another seed moves both figures; only a study over several tells a method's worth."
    )


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"

"""What a study writes down: tables for study.md and for the report, from `analysis.summarise`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from rich import box
from rich import table as rich_table

from jax_irkd.errors import plural
from jax_irkd.metrics.significance import Interval
from jax_irkd.reporting import pulls, verdict
from jax_irkd.reporting.intervals import Estimate, interval_chart
from jax_irkd.reporting.sections import Section, table, table_section
from jax_irkd.reporting.wording import duration, metric_name, percent, signed
from jax_irkd.runs.results import data_of, title_of

PICTURE = "study.png"
Rows = list[list[str]]
Table = tuple[list[str], Rows]

_CLASSES_LEAD = (
    "Accuracy of the infrared-only baseline and each method's difference to it, in points, means "
    "over the seeds that both have, with 95 % intervals (Agresti and Min 2005, for few clips; of "
    "several seeds not narrower than a bootstrap over performances and seeds). One interval in "
    "twenty misses, and the table shows many."
)
_READING = (
    "Means ± sample standard deviations over seeds. Δ: paired difference of top-1 to the "
    "infrared-only baseline of the same seed, in points, with the 95 % percentile interval of a "
    "bootstrap that draws performances and seeds together (with one seed no seeds are drawn); what "
    "several cameras filmed at once is one performance. With few seeds that lie far apart it is "
    "too narrow; Student's t over the seeds stands below. "
    "McNemar: exact two-sided test of one run against the baseline's run of the same seed, over "
    "the test clips only one of them got right; it speaks of these two runs, not of other seeds. "
    "p (Holm): of that bootstrap, corrected for all methods of this table together. Could see: the "
    "smallest true difference that this comparison would have found four times in five. Gap "
    "closed: share of the teacher's lead over the baseline, with its 95 % interval. Agreement: "
    "share of test clips on which student and teacher predict the same class. Memory: largest "
    "resident memory of the process on the host. A run's wall time includes start-up, evaluation "
    "and every interrupted attempt."
)


def markdown(summary: Mapping[str, Any]) -> str:
    """The whole of study.md."""
    parts = [f"# Study: {data_of(summary) or 'no finished run'}", ""]
    parts += [*_facts(summary), ""]
    if summary["methods"]:
        if _compared(summary):
            parts += [f"![differences to infrared only]({PICTURE})", ""]
        parts += [_markdown_table(*headline(summary)), "", _READING, ""]
        seeds = over_seeds(summary)
        if seeds:
            parts += ["## Every seed", "", _markdown_table(*seeds), ""]
        gains = class_gains(summary)
        if gains:
            parts += ["## Classes", "", _CLASSES_LEAD, "", _markdown_table(*gains), ""]
        found = pull_rows(summary)
        if found:
            parts += [f"## {pulls.TITLE}", "", pulls.LEAD, "", _markdown_table(*found), ""]
        paper = beside_paper(summary)
        if paper:
            parts += ["## Beside the paper", "", _paper_lead(summary), "", _markdown_table(*paper)]
            parts.append("")
    if summary["unfinished"]:
        parts += ["## Unfinished runs", "", _markdown_table(*unfinished(summary)), ""]
    return "\n".join(parts)


def sections(summary: Mapping[str, Any]) -> list[Section]:
    """The same as sections of an HTML report."""
    made = []
    if summary["methods"]:
        drawn = chart(summary)
        if drawn is not None:
            figure = Markup('<figure class="wide">{}</figure>').format(drawn)
            made.append(Section("Study: gains over infrared only", figure))
        command = Markup('<pre tabindex="0"><code>{}</code></pre>').format(summary["command"])
        shown = command + table(*headline(summary))
        made.append(Section("Study: methods and seeds", shown, _READING))
        gains = class_gains(summary)
        if gains:
            made.append(table_section("Study: classes", *gains, lead=_CLASSES_LEAD))
        found = pull_rows(summary)
        if found:
            made.append(table_section("Study: pull of each term", *found, lead=pulls.LEAD))
        paper = beside_paper(summary)
        if paper:
            made.append(table_section("Study: beside the paper", *paper, lead=_paper_lead(summary)))
    if summary["unfinished"]:
        made.append(table_section("Study: unfinished runs", *unfinished(summary)))
    return made


def headline(summary: Mapping[str, Any]) -> Table:
    """A row a method."""
    headers = ["method", "seeds", "top-1", "class acc.", "mAP", "Δ top-1 [95 %]", "p (Holm)"]
    headers += ["could see", "McNemar", "gap closed", "agreement", "wall time", "memory"]
    rows = []
    for row in summary["methods"].values():
        figures = row["metrics"]
        agreement, difference = row.get("agreement", {}), row.get("difference")
        rows.append(
            [
                row["title"],
                str(len(row["seeds"])),
                _percent(figures["top1"]),
                _percent(figures["mean_class_accuracy"]),
                _percent(figures["mAP"]),
                _difference(difference),
                f"{difference['p_holm']:.2g}" if difference else "–",
                f"± {100 * difference['detectable']:.1f}" if difference else "–",
                _mcnemar(row.get("mcnemar")),
                _gap(row),
                _percent(agreement) if agreement else "–",
                "–" if row["wall_time_s"] is None else duration(row["wall_time_s"]),
                _bytes(row["peak_memory_bytes"]),
            ]
        )
    return headers, rows


def printed(summary: Mapping[str, Any]) -> rich_table.Table:
    """The headline for a terminal of 80 columns, under data and number of clips."""
    name = metric_name(summary["metric"])
    title = ", ".join(filter(None, [data_of(summary), plural(summary["clips"], "test clip")]))
    shape = {"box": box.SIMPLE, "pad_edge": False, "padding": (0, 1, 0, 0)}
    made = rich_table.Table(title=title, title_justify="left", title_style="", **shape)
    made.add_column("method", no_wrap=True)
    for column in ("seeds", name, "Δ top-1 [95 %]", "gap closed"):
        made.add_column(column, justify="right")
    for row in summary["methods"].values():
        figures = (_percent(row["metrics"][summary["metric"]]), _difference(row.get("difference")))
        made.add_row(row["title"], str(len(row["seeds"])), *figures, _gap(row))
    return made


def chart(summary: Mapping[str, Any]) -> Markup | None:
    """Every method's difference to infrared only with its interval."""
    compared = _compared(summary)
    if not compared:
        return None
    ends = ("difference", "low", "high")
    counts = sorted({len(row["difference"]["seeds"]) for row in compared})
    rows = []
    for row in compared:
        count = len(row["difference"]["seeds"])
        figures = (100 * row["difference"][end] for end in ends)
        note = plural(count, "seed") if count < counts[-1] else ""
        rows.append(Estimate(row["title"], *figures, note))
    seeds = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    seeds += " seed" if seeds == "1" else " seeds"
    clips = plural(summary["clips"], "clip")
    unit = f"points of top-1 over infrared only, 95 %, {seeds}, {clips}"
    return interval_chart(rows, unit=unit, label="differences to infrared only, with intervals")


def _compared(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in summary["methods"].values() if row.get("difference")]


def over_seeds(summary: Mapping[str, Any]) -> Table | None:
    """The headline figure of every single run, its McNemar test, and the paired t over seeds."""
    metric = summary["metric"]
    seeds = sorted({seed for row in summary["methods"].values() for seed in row["seeds"]})
    if len(seeds) < 2:
        return None
    name = metric_name(metric)
    headers = ["method", *(f"{name}, seed {seed}" for seed in seeds)]
    headers.append(f"Δ {name} over seeds, paired t")
    headers += [f"McNemar p, seed {seed}" for seed in seeds]
    rows = []
    for row in summary["methods"].values():
        values = row["metrics"][metric]["values"]
        tests = row.get("mcnemar") or {}
        rows.append(
            [
                row["title"],
                *(_figure(values.get(str(seed))) for seed in seeds),
                _paired_t(row.get("difference_over_seeds")),
                *(f"{tests[str(s)]['p_value']:.2g}" if str(s) in tests else "–" for s in seeds),
            ]
        )
    return headers, rows


def class_gains(summary: Mapping[str, Any]) -> Table | None:
    """A row a class: the baseline's accuracy and every method's gain over it with its interval."""
    methods = summary["methods"]
    compared = {name: row for name, row in methods.items() if row.get("class_gains")}
    before = (methods.get("baseline") or {}).get("class_accuracy")
    if not compared or not before:
        return None
    headers = ["class", "Infrared only", *(row["title"] for row in compared.values())]
    rows = []
    for index, name in enumerate(summary["class_names"]):
        own = "–" if before[index] is None else percent(before[index])
        rows.append([name, own, *(_class_gain(row, index) for row in compared.values())])
    return headers, rows


def _class_gain(row: Mapping[str, Any], index: int) -> str:
    gain, ends = row["class_gains"][index], row.get("class_intervals") or ()
    if gain is None:
        return "–"
    known = ends[index] if ends else None
    shown = f" [{', '.join(signed(end) for end in known)}]" if known else ""
    return signed(gain) + shown


def pull_rows(summary: Mapping[str, Any]) -> Table | None:
    """A row a term of every method: how hard it pulled beside the labels, over all seeds."""
    methods = summary["methods"].values()
    found = [
        [row["title"], *cells] for row in methods for cells in pulls.rows(row.get("pulls", ()))
    ]
    return (["method", *pulls.HEADERS], found) if found else None


def beside_paper(summary: Mapping[str, Any]) -> Table | None:
    """The paper's figures and ours."""
    paper = summary.get("paper")
    if not paper:
        return None
    rows = []
    for row in paper["rows"]:
        metric, quoted = row["metric"], ", quoted there" if row["quoted"] else ""
        ours = _percent({"mean": row["ours"], "std": row["std"]})
        title = title_of(row["method"])
        rows.append([title, metric_name(metric), _figure(row["paper"]) + quoted, ours])
    other = summary.get("generated") or "another dataset"
    ours = "ours" if paper["same"] else f"ours, {other}"
    return ["method", "metric", "paper", ours], rows


def unfinished(summary: Mapping[str, Any]) -> Table:
    """Runs without results, and why."""
    found = summary["unfinished"]
    return ["run", "state", "reason"], [[u["run"], u["state"], u["reason"] or "–"] for u in found]


def _facts(summary: Mapping[str, Any]) -> list[str]:
    facts = [_command_line(summary)]
    if summary["methods"]:
        facts.append(
            f"Protocol {str(summary['protocol']).replace('_', ' ')}, {summary['clips']} test "
            f"clips; data `{summary['fingerprint']}`."
        )
        facts.append(f"Runs made at commit {', '.join(summary['git_commits'])}.")
    for other in summary["left_out"]:
        facts.append(f"Left out: {other['run']}, of an earlier study ({other['reason']}).")
    if summary["unfinished"]:
        facts.append(
            f"Runs not finished: {len(summary['unfinished'])}; the tables hold the others."
        )
    return [line for fact in facts for line in (fact, "")][:-1]


def _command_line(summary: Mapping[str, Any]) -> str:
    return f"Command: `{summary['command']}`."


def _paper_lead(summary: Mapping[str, Any]) -> str:
    paper = summary["paper"]
    if paper["same"]:
        return f"The paper's test set: {paper['test']}, {paper['clips']} clips here."
    return (
        f"The paper's figures are for {paper['test']}. Ours are for another dataset, "
        f"{data_of(summary)} with {paper['clips']} test clips: compare the order of the "
        "methods at most."
    )


def _percent(figure: Mapping[str, Any]) -> str:
    if figure.get("mean") is None:
        return "–"
    spread = f" ± {100 * figure['std']:.1f}" if figure.get("std") is not None else ""
    return f"{100 * figure['mean']:.1f}{spread} %"


def _figure(value: float | None) -> str:
    return "–" if value is None else percent(value, 2)


def _difference(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "–"
    low, high, middle = (signed(found[key]) for key in ("low", "high", "difference"))
    return f"{middle} [{low}, {high}]"


def _gap(row: Mapping[str, Any]) -> str:
    share, ends = row.get("gap_closed"), row.get("gap_interval") or (math.nan, math.nan)
    return verdict.gap_text(None if share is None else Interval(share, *ends)) or "–"


def _paired_t(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "–"
    text = signed(found["mean"])
    if found["p_value"] is None:
        return text
    low, high = (signed(found[key]) for key in ("low", "high"))
    return f"{text} [{low}, {high}], p = {found['p_value']:.2g}"


def _mcnemar(tests: Mapping[str, Any] | None) -> str:
    if not tests:
        return "–"
    seed, test = next(iter(tests.items()))
    return f"p = {test['p_value']:.2g} ({test['won']} won, {test['lost']} lost, seed {seed})"


def _bytes(value: float | None) -> str:
    return "–" if value is None else f"{value / 2**30:.2f} GiB"


def _markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)], *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(cell: str) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")

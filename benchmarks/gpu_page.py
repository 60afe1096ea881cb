"""The tables of `gpu_check` in docs/performance.md."""

import math
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks import gpu_cards, gpu_cases
from jax_irkd.configs import ntu, pku

EVERYTHING = "h100"  # the card that all programs are compiled for
ORDER = (EVERYTHING, *(name for name in gpu_cards.NAMES if name != EVERYTHING))
SHARE = 1 / 2.1  # of the estimate's speed: what an H100 reached with 8 clips a step
SEEDS = 5
# Configurations, and clips of cross-subject: to train with, to test with.
CLIPS = {"NTU ten classes": (ntu, 6720, 2760), "PKU-MMD": (pku, 18841, 2704)}
EVALUATION = "evaluation of the student"
# Pairs a second read on an H100's machine, the page's "Training as users start it": one of its 16
# processes, which training has, and its 16 threads, which an evaluation has at most.
A_PROCESS, THREADS = 1427 / 16, 326
# USD an hour, ASSUMED: what clouds asked for one such card, more or less. Put your own.
PRICES = {"a100": 2.0, "h100": 3.0, "h200": 4.0, "rtx4090": 0.5}
# Runs of a seed: nine methods learn from the teacher. TSTDD's flow is the CPU's and left out.
RUNS = {"teacher": 1, "baseline": 1, "student": 9}
ROLES = (*RUNS, EVALUATION)
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"


def write(page: Path, results: list[dict]) -> None:
    """The tables between the two marks of `page`; its other text stays."""
    before, after = split(page)
    names = [case.name for case in gpu_cases.all_cases()]
    results = sorted(
        results,
        key=lambda r: (ORDER.index(r["card"]), r["devices"], names.index(r["case"])),
    )
    parts = {
        "The least time of a step (estimates)": estimates(results),
        "The paper's set-up end to end (on paper)": paper(results),
        "What was compiled": matrix(results),
    }
    tables = "\n\n".join(f"### {title}\n\n{table}" for title, table in parts.items())
    page.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}")


def split(page: Path) -> tuple[str, str]:
    """The text before and after the tables. Exits with a line where there is no place for them."""
    text = page.read_text() if page.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(
            f"error: {page} lacks the marks {BEGIN} and {END} that the tables go between"
        )
    return before, after


def compiled(results: list[dict]) -> dict[tuple[str, str], dict]:
    """By card and program what compiled for one device."""
    return {
        (r["card"], r["case"]): r for r in results if r["devices"] == 1 and "least_seconds" in r
    }


def estimates(results: list[dict]) -> str:
    """Markdown: the least time of a step on every card, and the largest batch.

    Where a program was compiled for one card only, its kernels are reckoned with the other's rates.
    """
    names = ("student", "student, 32 clips", "teacher", "teacher, 32 clips", "baseline")
    found = compiled(results)
    head = ["card", *(f"{name}, ms" for name in names), "clips that fit: student", "teacher"]
    rows = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name in gpu_cards.NAMES:
        card, cells = gpu_cards.card(name), []
        if card.platform != "cuda":
            continue
        for case in names:
            own, other = found.get((name, case)), found.get((EVERYTHING, case))
            made = own or other
            mark = "" if own else "*"
            cells.append(f"{made['least_seconds'][name] * 1e3:.2f}{mark}" if made else "")
        for role in ("student", "teacher"):
            for source in (name, EVERYTHING):
                pair = [found.get((source, case)) for case in (role, f"{role}, 32 clips")]
                if all(pair):
                    break
            mark = "" if source == name else "*"
            cells.append(f"{largest_batch(*pair, card.memory)}{mark}" if all(pair) else "")
        rows.append(f"| {card.title} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def paper(results: list[dict]) -> str:
    """Markdown: hours on one GPU for every method and seed, at `SHARE` of the roofline's speed."""
    found = compiled(results)
    if not {(EVERYTHING, role) for role in ROLES} <= set(found):
        return "Not reckoned: one of its programs did not compile."
    rows = ["| card | NTU ten classes | PKU-MMD | USD/h, assumed | NTU | PKU-MMD | "]
    rows[0] += "clips/s to read | cores for that |"
    rows.append("| --- |" + " ---: |" * 7)
    for name in gpu_cards.NAMES:
        card = gpu_cards.card(name)
        if card.platform != "cuda":
            continue
        made = {role: found.get((name, role)) or found[EVERYTHING, role] for role in ROLES}
        rates = {
            role: SHARE * one["clips"] / one["least_seconds"][name] for role, one in made.items()
        }
        batches = {role: made[role]["clips"] for role in RUNS}
        hours = [
            table_hours(rates, batches, module.get_config(), *clips)
            for module, *clips in CLIPS.values()
        ]
        price = PRICES.get(name)
        costs = [f"{price:.2f}", *(f"{price * h:,.0f} USD" for h in hours)] if price else [""] * 3
        rows.append(
            f"| {card.title} | {hours[0]:.1f} h | {hours[1]:.1f} h | {' | '.join(costs)} | "
            f"{rates['student']:,.0f} | {math.ceil(rates['student'] / A_PROCESS)} |"
        )
    return "\n".join(rows)


def table_hours(
    rates: Mapping[str, float],
    batches: Mapping[str, int],
    config: ConfigDict,
    train: int,
    test: int,
) -> float:
    """Hours of all runs of all seeds; `rates` in clips a second, `batches` in clips a step.

    An evaluation is no quicker than its clips are read.
    """
    training = config.student_training  # the teacher's has as many epochs
    evaluations = training.num_epochs / training.eval_every
    evaluation = test / min(rates[EVALUATION], THREADS)
    seconds = 0.0
    for role, runs in RUNS.items():
        trained = training.num_epochs * (train // batches[role]) * batches[role]
        seconds += runs * (trained / rates[role] + evaluations * evaluation)
    return SEEDS * seconds / 3600


def largest_batch(small: dict, large: dict, memory: float) -> int:
    """Clips whose program fits into `memory`, by the straight line through two programs' needs."""
    needs, clips = [(r["held_bytes"]) for r in (small, large)], (small["clips"], large["clips"])
    slope = (needs[1] - needs[0]) / (clips[1] - clips[0])
    return int(clips[0] + (memory - needs[0]) / slope)


def matrix(results: list[dict]) -> str:
    """Markdown: every compiled program."""
    head = "| card | devices | program | clips | held | of it temporary | kernels | GFLOP | GB | "
    rows = [f"{head}estimate | faults |", "| --- | ---: | --- |" + " ---: |" * 7 + " --- |"]
    for r in results:
        start = f"| {r['card']} | {r['devices']} | {r['case']} | {r['clips']} | "
        if "held_bytes" not in r:
            rows.append(f"{start}| | | | | | {'; '.join(r['faults'])} |")
            continue
        rows.append(
            f"{start}{r['held_bytes'] / 1e9:.2f} GB | {r['temporary_bytes'] / 1e9:.2f} GB | "
            f"{r['kernels']:,} | {r['flops'] / 1e9:,.0f} | {r['bytes'] / 1e9:.2f} | "
            f"{r['least_seconds'][r['card']] * 1e3:.2f} ms | {'; '.join(r['faults']) or 'none'} |"
        )
    return "\n".join(rows)

"""The paper's figures that a reader may want beside ours, and what they may be compared with."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax_irkd.runs.results import Run


class PaperFigure(NamedTuple):
    """One number of the paper: method, metric and value, a share and not percent."""

    method: str
    metric: str
    value: float
    quoted: bool = False  # from the method's own paper


class PaperTest(NamedTuple):
    """A test set of the paper: our dataset and protocol, its size, what is said about it."""

    dataset: str
    protocol: str | None  # None: the paper does not say
    clips: tuple[int, ...]  # sizes a complete test set can have
    name: str
    figures: tuple[PaperFigure, ...]


PAPER = (
    PaperTest(
        "ntu_rgbd_ir/ten",
        None,
        (2760, 3160),
        "ten classes of NTU RGB+D, protocol not named",
        (
            PaperFigure("baseline", "top1", 0.7120),
            PaperFigure("tstdd", "top1", 0.7236, quoted=True),
            PaperFigure("ours", "top1", 0.8086),
        ),
    ),
    PaperTest(
        "pku_mmd_ir",
        "cross_subject",
        (2704,),
        "PKU-MMD, cross-subject",
        (
            PaperFigure("baseline", "mAP", 0.539),
            PaperFigure("ours", "mAP", 0.586),  # 0.585 in the table of its ablations
        ),
    ),
    PaperTest(
        "pku_mmd_ir",
        "cross_view",
        (7188,),
        "PKU-MMD, cross-view",
        (
            PaperFigure("baseline", "mAP", 0.567),
            PaperFigure("ours", "mAP", 0.588),
        ),
    ),
)


def paper_rows(
    focus: Run, shown: Sequence[Run], figure: Callable[[Run, str], float | None] = Run.figure
) -> dict[str, Any] | None:
    """The paper's figures beside ours for the dataset in focus; None where it has none.

    `figure` says what a run reached: its own figure, or a mean over seeds.

    Our test set counts as the paper's when its size is within 1 % of the complete one (missing or
    unreadable files); anything else, generated clips for instance, is labelled another dataset.
    """
    results = focus.results
    tests = [
        test
        for test in PAPER
        if str(results.get("dataset", "")).startswith(test.dataset)
        and test.protocol in (None, results.get("protocol"))
    ]
    if not tests:
        return None
    test = tests[0]
    clips = results.get("num_clips") or (0 if focus.labels is None else len(focus.labels))
    generated = results.get("generated") or ""
    same = not generated and any(abs(clips - size) <= 0.01 * size for size in test.clips)
    ours = {run.method: figure(run, test.figures[0].metric) for run in shown}
    rows = [
        {
            "method": theirs.method,
            "metric": theirs.metric,
            "paper": theirs.value,
            "quoted": theirs.quoted,
            "ours": ours.get(theirs.method),
        }
        for theirs in test.figures
    ]
    return {"rows": rows, "test": test.name, "same": same, "clips": clips, "generated": generated}

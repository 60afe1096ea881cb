"""Late fusion: several runs' scores of the same clips as one, RGB and infrared for example.

    python -m jax_irkd.fuse runs/ntu/teacher runs/ntu/ours --weights=equal

The fused probability of a class is the weighted mean of the runs' probabilities. `--weights` is
`equal`, `tuned`, or one number a run (0.3,0.7). Tuned weights are those that make one half of the
subjects likeliest; every figure is then that of the other half.
"""

import sys
from collections.abc import Sequence
from typing import Any

from jax_irkd.errors import UserError
from jax_irkd.host import commands, parsing


def parse(argv: Sequence[str]):
    parser = parsing.parser("jax_irkd.fuse", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders with scores.npz")
    parser.add_argument("--weights", default="equal", help="equal, tuned, or numbers: 0.3,0.7")
    parser.add_argument("--out", help="default: fusion.json in the folder the runs lie in")
    return parser.parse_args(argv)


def fuse(argv: list[str]) -> None:
    """Fuse, show the table, write fusion.json."""
    given = parse(argv)
    with commands.importing():
        import json
        import os
        from pathlib import Path

        from jax_irkd.host.files import write_whole
        from jax_irkd.host.terminal import make_console
        from jax_irkd.runs import fusion

    runs = [os.path.normpath(name) for name in given.runs]
    if len(set(runs)) < max(len(runs), 2):
        raise UserError("fusion needs two runs or more, each named once")
    try:
        results = fusion.fused_results([fusion.read_scored(name) for name in runs], given.weights)
    except ValueError as error:
        raise UserError(str(error)) from error
    common = os.path.commonpath([os.path.abspath(name) for name in runs])
    out = Path(given.out or Path(common, "fusion.json"))
    try:
        write_whole(out, json.dumps(results, indent=1))
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    console = make_console(120)
    show(results, console)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def show(results: dict[str, Any], console) -> None:
    """The table of a fusion."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("run", overflow="fold")
    for name in ("weight", "top-1", "class acc.", "mAP", "nll", "ece"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [(name, results["weights"][name], results["metrics"][name]) for name in results["runs"]]
    for name, weight, figures in [*rows, ("fused", None, results["fused"])]:
        shares = (f"{100 * figures[key]:.1f} %" for key in ("top1", "mean_class_accuracy", "mAP"))
        cells = (f"{figures['nll']:.3f}", f"{100 * figures['ece']:.1f} %")
        style = "bold" if weight is None else None
        weight = "" if weight is None else f"{weight:.3f}"
        table.add_row(name, weight, *shares, *cells, style=style)
    console.print(table)
    said = f"weights: {results['weights_are']}; measured on {results['measured_on']}"
    tuned = results["tuned_on"]
    if tuned:
        said += f", tuned on the {tuned['clips']} others ({tuned['by']} {_listed(tuned['groups'])})"
    console.print(said, highlight=False, soft_wrap=True, markup=False)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(fuse, argv)


if __name__ == "__main__":
    sys.exit(main())

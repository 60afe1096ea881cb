"""The pages of finished runs anew: report.html of every run, and one for all of a folder.

    python -m jax_irkd.report runs/demo

The folder holds runs (teacher, baseline, fitnet, …) or, as a study's does, folders of runs.
Nothing is computed again: figures, scores and the pictures of earlier pages are taken as they lie.
"""

import sys
from collections.abc import Sequence

from jax_irkd.errors import UserError
from jax_irkd.host import commands, parsing


def parse(argv: Sequence[str]):
    parser = parsing.parser("jax_irkd.report", __doc__)
    parser.add_argument("workdir", metavar="WORKDIR", help="a folder with runs, as --workdir=")
    return parser.parse_args(argv)


def report(argv: list[str]) -> None:
    """Write the pages, print the table of each folder."""
    given = parse(argv)
    with commands.importing():
        from pathlib import Path

        from jax_irkd.host.terminal import make_console
        from jax_irkd.reporting import write
        from jax_irkd.runs.results import RESULTS, is_finished

    root, console = Path(given.workdir), make_console(100)
    if not root.is_dir():
        raise UserError(f"{root} is no folder; give the --workdir of a run")
    folders = sorted({path.parent.parent for path in root.glob(f"*/{RESULTS}")})
    folders += sorted({path.parent.parent for path in root.glob(f"*/*/{RESULTS}")})
    if not folders and is_finished(root):
        raise UserError(
            f"{root} is a run itself; give the folder it lies in, {root.resolve().parent}"
        )
    if not folders:
        raise UserError(
            f"no finished run in {root} (a run is a folder with {RESULTS}); train one with "
            "python -m jax_irkd.main"
        )
    for folder in folders:
        write.write_report(folder)
        write.print_table(folder, console)


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(report, argv)


if __name__ == "__main__":
    sys.exit(main())

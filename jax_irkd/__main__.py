"""The commands of jax_irkd: python -m jax_irkd COMMAND …, installed as jax-irkd COMMAND ….

COMMAND is a module: jax-irkd main … is python -m jax_irkd.main ….
"""

import importlib
import sys
import textwrap
from collections.abc import Sequence

from jax_irkd.errors import UserError, nearest
from jax_irkd.host import commands

NAMES = (
    "main",
    "study",
    "build",
    "report",
    "predict",
    "export",
    "inspect",
    "doctor",
    "fuse",
    "bench_student",
    "data.synthetic",
    "data.synthetic.gestures",
    "data.synthetic.untrimmed",
    "weights",
    "detection",
)


def module(name: str):
    """The module of a command; a package's is its __main__."""
    packages = ("data.synthetic", "weights", "detection")
    return importlib.import_module(f"jax_irkd.{name}{'.__main__' if name in packages else ''}")


def overview() -> str:
    """All commands, each with the first line of its docstring."""
    width = max(map(len, NAMES)) + 4
    rows = (
        textwrap.fill(
            module(name).__doc__.splitlines()[0],
            width=80,
            initial_indent=f"  {name}".ljust(width),
            subsequent_indent=" " * width,
        )
        for name in NAMES
    )
    usage = "usage: jax-irkd COMMAND …, or python -m jax_irkd.COMMAND …"
    more = "jax-irkd COMMAND --help tells more, jax-irkd --version the versions."
    return "\n".join([usage, "", *rows, "", more])


def dispatch(argv: list[str]) -> int:
    """Start the command that the first word names."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if argv else commands.MISTAKE
    name, *rest = argv
    if name not in NAMES:
        raise UserError(f"unknown command {name!r}{nearest(name, NAMES)}")
    return module(name).main(rest)


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(dispatch, argv)


if __name__ == "__main__":
    sys.exit(main())

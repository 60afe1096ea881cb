"""Weights that a network starts from: fetch, convert, check, or save those of a run.

    python -m jax_irkd.weights fetch resnet50 resnet18 [--out=weights]
    python -m jax_irkd.weights convert FILE [--out=FILE.safetensors]
    python -m jax_irkd.weights check FILE [--depth=18] [--width=64]
    python -m jax_irkd.weights save --run=runs/start/teacher --out=weights.safetensors

fetch     torchvision's ImageNet weights, checked by their published hash
convert   a file of torchvision, timm, mmpretrain, mmaction2, TSN, TSM or transformers
check     what a file or a run's folder holds, and which networks it fits
save      what a run has learnt, without its head, in float16: for other runs to start from

Start from a file by --config.weights.teacher=FILE or --config.weights.student=FILE.
COMMAND --help tells the options of one.
"""

import sys
from collections.abc import Sequence

from jax_irkd.errors import UserError, nearest
from jax_irkd.host import commands, parsing


def _fetch(parser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="as resnet50")
    parser.add_argument("--out", default="weights", help="the folder they go to")
    parser.add_argument("--source", default="", help="a folder on the web (default: torchvision's)")


def _convert(parser) -> None:
    parser.add_argument("file", help="a .pth, .pt, .bin, .tar or .safetensors file")
    parser.add_argument("--out", default="", help="the file to write (default: beside it)")


def _check(parser) -> None:
    parser.add_argument("file", help="a weights file, a run's folder, or shipped:NAME")
    parser.add_argument("--depth", type=int, help="of the network that shall start from it")
    parser.add_argument("--width", type=int, help="of that network (default: the file's)")


def _save(parser) -> None:
    parser.add_argument("--run", required=True, help="the folder of a finished run")
    parser.add_argument("--out", required=True, help="a name that ends in .safetensors")


SUBJECTS = {"fetch": _fetch, "convert": _convert, "check": _check, "save": _save}


def parse(argv: Sequence[str]):
    """The subject and its options. Raises UserError for what is missing or unknown."""
    asked = argv[0] if argv else ""
    if asked not in SUBJECTS:
        parsing.parser("jax_irkd.weights", __doc__).parse_known_args(argv)  # --help
        if not asked:
            raise UserError(f"do what? Choose from {', '.join(SUBJECTS)}; --help shows how")
        raise UserError(f"the first word is {asked!r}{nearest(asked, SUBJECTS)}")
    parser = parsing.parser(f"jax_irkd.weights {asked}", __doc__)
    SUBJECTS[asked](parser)
    return asked, parser.parse_args(argv[1:])


def work(argv: list[str]) -> None:
    """Do what was asked for, and say how to start from the result."""
    subject, given = parse(argv)
    with commands.importing():
        from jax_irkd.weights import work

    getattr(work, subject)(given)


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(work, argv)


if __name__ == "__main__":
    sys.exit(main())

"""Raw films of generated hand gestures in the layout of one's own classes, for folder_ir.

    python -m jax_irkd.data.synthetic.gestures --out=runs/gestures_data/raw --people=40 --takes=3

Every second person tests. The same command again continues an interrupted one.
"""

import sys
from collections.abc import Sequence

from jax_irkd.errors import plural
from jax_irkd.host import commands, parsing


def parse(argv: Sequence[str]):
    parser = parsing.parser("jax_irkd.data.synthetic.gestures", __doc__)
    parser.add_argument("--out", required=True, help="the raw folder")
    parser.add_argument("--people", default=40, type=int, help="every second one tests")
    parser.add_argument("--takes", default=3, type=int, help="of every gesture by every person")
    parser.add_argument("--seed", default=0, type=int, help="other people")
    return parser.parse_args(argv)


def film(argv: list[str]) -> None:
    """Write the films and say how many."""
    options = vars(parse(argv))
    with commands.importing():
        from jax_irkd.data.synthetic import hands

    out = options.pop("out")
    pairs = hands.generate(out, **options)
    print(f"{plural(pairs, 'pair')} of {len(hands.GESTURES)} gestures in {out}")


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(film, argv, resumes=True)


if __name__ == "__main__":
    sys.exit(main())

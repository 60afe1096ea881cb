"""A raw demo dataset in NTU RGB+D's layout: people acting its first ten classes.

    python -m jax_irkd.data.synthetic --out=FOLDER [--subjects=1-20] [--workers=2]

The same command again continues an interrupted one.
"""

import sys
from collections.abc import Sequence

from jax_irkd.host import commands, parsing


def numbers(text: str) -> list[int]:
    """Numbers from `1,2,5-8`."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def parse(argv: Sequence[str]):
    parser = parsing.parser("jax_irkd.data.synthetic", __doc__)
    add = parser.add_argument
    add("--out", required=True, help="an empty folder, or one of an earlier run")
    add("--subjects", default="1-20", type=numbers, help="such as 1-20 or 1,3,6")
    add("--cameras", default="1-3", type=numbers, help="of NTU's three")
    add("--repetitions", default="1", type=numbers, help="such as 1 or 1-2")
    add("--classes", default="1-10", type=numbers, help="of NTU's first ten")
    add("--seed", default=0, type=int, help="other people and rooms")
    add("--workers", type=int, help="processes; all cores unless given")
    add("--codec", default="h264", help="of the RGB files: h264 or mpeg4")
    return parser.parse_args(argv)


def film(argv: list[str]) -> None:
    """Write the clips and say how many."""
    options = vars(parse(argv))
    with commands.importing():
        from jax_irkd.data.synthetic.filming import generate

    summary = generate(options.pop("out"), **options)
    print(
        f"{summary.clips} clips in {summary.root}: {summary.written} written now "
        f"({summary.rgb_frames} RGB and {summary.infrared_frames} infrared frames)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(film, argv, resumes=True)


if __name__ == "__main__":
    sys.exit(main())

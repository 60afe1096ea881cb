"""Raw untrimmed films of generated people in PKU-MMD's layout: ten actions, nothing between them.

    python -m jax_irkd.data.synthetic.untrimmed --out=runs/untrimmed_data/raw

Every recording is of another person, seen by the cameras L, M and R. Ten of PKU-MMD's 51 classes
happen, each once, with two to six seconds of standing, sitting and fidgeting before, between and
after them. The same command again continues an interrupted one.
"""

import sys
from collections.abc import Sequence

from jax_irkd.errors import plural
from jax_irkd.host import commands, parsing


def parse(argv: Sequence[str]):
    parser = parsing.parser("jax_irkd.data.synthetic.untrimmed", __doc__)
    add = parser.add_argument
    add("--out", required=True, help="an empty folder, or one of an earlier run")
    add("--train", default=20, type=int, help="people who train")
    add("--test", default=20, type=int, help="people who test")
    add("--views", default="LMR", help="cameras that see each of them")
    add("--seed", default=0, type=int, help="other people and rooms")
    add("--workers", type=int, help="processes; all cores unless given")
    return parser.parse_args(argv)


def write(argv: list[str]) -> None:
    """Write the films and say how many."""
    options = vars(parse(argv))
    with commands.importing():
        from jax_irkd.data.synthetic.performances import generate

    out = options.pop("out")
    films = generate(out, **options)
    people = plural(len({film.number for film in films}), "person", "people")
    print(f"{plural(len(films), 'film')} of {people} in {out}")


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(write, argv, resumes=True)


if __name__ == "__main__":
    sys.exit(main())

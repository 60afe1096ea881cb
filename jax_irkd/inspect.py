"""Look at data, configs and runs, and for a learning rate.

python -m jax_irkd.inspect data --config=configs/demo.py [--split=train] [--augmented]
    [--out=sheet.png] [--clips=12] [--seed=0]
python -m jax_irkd.inspect config --config=configs/ntu.py:method=at [--config.x.y=value]
    [--out=rates.png] [--train_clips=6720] [--classes=10]
python -m jax_irkd.inspect run RUN [RUN ...] [--out=curves.png]
python -m jax_irkd.inspect rates --config=configs/custom.py:method=baseline [--out=rates.png]
    [--low=1e-6] [--high=1] [--steps=100]
python -m jax_irkd.inspect strangers RUN [FILM ...]
python -m jax_irkd.inspect answers STUDY/answers.csv [MORE.csv ...] [--against=baseline]

strangers: does a network know what it does not know. answers: any two methods of finished studies.
"""

import sys
from collections.abc import Sequence

if __name__ == "inspect":  # a file beside this one was started, and a library asks for Python's
    print(f"error: start python -m jax_irkd.COMMAND, not the file {sys.argv[0]}", file=sys.stderr)
    raise SystemExit(2)

from jax_irkd.errors import UserError, nearest
from jax_irkd.host import commands

SUBJECTS = ("data", "config", "run", "rates", "strangers", "answers")


def define(values) -> None:
    """The flags beside --config."""
    from absl import flags

    text = {"flag_values": values}
    flags.DEFINE_string("split", "train", "train, test, or one of the dataset's splits", **text)
    flags.DEFINE_bool("augmented", False, "frames as the network sees them", **text)
    flags.DEFINE_string("out", "", "the PNG to write", **text)
    flags.DEFINE_integer("clips", 12, "pairs on the sheet", lower_bound=1, **text)
    flags.DEFINE_integer("seed", 0, "which pairs", lower_bound=0, **text)
    flags.DEFINE_float("low", 1e-6, "the first learning rate", **text)
    flags.DEFINE_float("high", 1.0, "the last learning rate", **text)
    flags.DEFINE_integer("steps", 100, "from one to the other", lower_bound=20, **text)
    flags.DEFINE_string("against", "baseline", "the method that others are compared with", **text)
    flags.DEFINE_integer("train_clips", 0, "without the dataset: how many", lower_bound=0, **text)
    flags.DEFINE_integer("classes", 10, "without the dataset: how many", lower_bound=2, **text)


def look(argv: list[str]) -> None:
    """Show what was asked for."""
    with commands.importing():
        from jax_irkd import command_line

        asked = command_line.parse(argv, define, __doc__, words=None)
        if not asked.words:
            raise UserError(f"look at what? Choose from {', '.join(SUBJECTS)}; --help shows how")
        subject, *more = asked.words
        if subject not in SUBJECTS:
            raise UserError(f"unknown subject {subject!r}{nearest(subject, SUBJECTS)}")
        if subject not in ("run", "strangers", "answers") and more:
            raise UserError(f"{more[0]!r} is one word too many after {subject}")

        from jax_irkd.host.terminal import make_console
        from jax_irkd.inspection import views

    getattr(views, f"inspect_{subject}")(asked, make_console(150))


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(look, argv)


if __name__ == "__main__":
    sys.exit(main())

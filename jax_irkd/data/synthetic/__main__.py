"""The command: `python -m jax_irkd.data.synthetic --out=FOLDER`."""

import argparse
import sys

from jax_irkd.data.synthetic.filming import generate
from jax_irkd.errors import UserError


def _listed(text: str) -> list[int]:
    """Numbers from `1,2,5-8`."""
    numbers = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jax_irkd.data.synthetic",
        description="Write a raw demo dataset in NTU RGB+D's layout.",
    )
    parser.add_argument("--out", required=True, help="an empty folder, or one of an earlier run")
    parser.add_argument("--subjects", default="1-20", type=_listed, help="such as 1-20 or 1,3,6")
    parser.add_argument("--cameras", default="1-3", type=_listed)
    parser.add_argument("--repetitions", default="1", type=_listed, help="such as 1 or 1-2")
    parser.add_argument("--classes", default="1-10", type=_listed)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--workers", type=int, help="processes; all cores unless given")
    parser.add_argument("--codec", default="h264", help="of the RGB files: h264 or mpeg4")
    options = vars(parser.parse_args(arguments))
    try:
        summary = generate(options.pop("out"), **options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{summary.clips} clips in {summary.root}: {summary.written} written now "
        f"({summary.rgb_frames} RGB and {summary.infrared_frames} infrared frames)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

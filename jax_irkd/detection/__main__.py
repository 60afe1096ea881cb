"""Detection results of PKU-MMD's protocol for a folder of text files.

    python -m jax_irkd.detection RESULTS_FOLDER LABEL_FOLDER --missing=error

prints F1, AP, mAP_action, mAP_video and 2D-AP, as the official evaluate.py defines them. Both
folders hold one file per video with a line `label,start,end,confidence` per segment. `--missing`
decides about annotated videos without a file of results: error refuses; official leaves the video
and its annotations out, which flatters a detector that skips hard videos; empty counts them as
found nothing.
"""

import sys
from collections.abc import Sequence

from jax_irkd.errors import UserError
from jax_irkd.host import commands, parsing


def parse(argv: Sequence[str]):
    parser = parsing.parser("jax_irkd.detection", __doc__)
    add = parser.add_argument
    add("proposals", help="folder with one text file per video")
    add("ground", help="folder with the label files of the same names")
    add(
        "--missing",
        default="error",
        choices=["error", "official", "empty"],
        help="a video without a file",
    )
    add("--threshold", type=float, default=0.5, help="of the overlap that makes a hit")
    add("--num_classes", type=int, default=51, help="PKU-MMD has 51")
    return parser.parse_args(argv)


def evaluate(argv: list[str]) -> None:
    """Print the official results."""
    flags = parse(argv)
    with commands.importing():
        from jax_irkd.detection import protocol
        from jax_irkd.detection.rows import read_folder

    try:
        figures = protocol.evaluate(
            read_folder(flags.proposals),
            read_folder(flags.ground, confidence=1.0),
            missing=flags.missing,
            threshold=flags.threshold,
            num_classes=flags.num_classes,
        )
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from error
    for name, value in figures.items():
        print(f"{name:12s}{value:.6f}")


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())

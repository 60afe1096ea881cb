"""Figures of PKU-MMD's protocol for a folder of text files.

    python -m jax_irkd.detection RESULTS_FOLDER LABEL_FOLDER --missing=error

prints F1, AP, mAP_action, mAP_video and 2D-AP.
"""

import argparse
import sys
from collections.abc import Sequence

from jax_irkd.detection.protocol import evaluate
from jax_irkd.detection.rows import read_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Print the official figures of a folder of results."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_irkd.detection",
        description=evaluate.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("proposals", help="folder with one text file per video")
    parser.add_argument("ground", help="folder with the label files of the same names")
    parser.add_argument("--missing", default="error", choices=["error", "official", "empty"])
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--num_classes", type=int, default=51)
    flags = parser.parse_args(argv)
    try:
        figures = evaluate(
            read_folder(flags.proposals),
            read_folder(flags.ground, confidence=1.0),
            missing=flags.missing,
            threshold=flags.threshold,
            num_classes=flags.num_classes,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, value in figures.items():
        print(f"{name:12s}{value:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

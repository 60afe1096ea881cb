"""What happens in a video, by a trained network.

    python -m jax_irkd.predict --run=runs/ntu/ours video.avi folder 'clips/*.mp4'
    python -m jax_irkd.predict --run=student.irkd long.mp4 --out=results --annotate=seen.mp4
    python -m jax_irkd.predict --run=student.irkd --stream=0 --serve

A video of at most 15 seconds is taken as one action and gets the most probable classes; a longer
one gets a timeline of actions (--trimmed and --untrimmed decide it). `--run` is a run's folder, an
exported .irkd file or an .onnx file. Exit code: 0 all done, 1 some videos failed, 2 none was read.
"""

import argparse
import sys
from collections.abc import Sequence

from jax_irkd.deployment.choices import ENGINES, WHICH, WINDOWS
from jax_irkd.errors import UserError
from jax_irkd.host import commands, parsing

_WINDOWS = "shared: every frame is computed once; whole: in every window; auto: as the network can"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = parsing.parser("jax_irkd.predict", __doc__)
    add = parser.add_argument
    add("--run", required=True, help="a run's folder, an .irkd file or an .onnx file")
    add("videos", nargs="*", help="files, folders and globs")
    add("--stream", help="a camera's number, a device, a URL, or a file played in real time")
    add(
        "--which",
        choices=WHICH,
        default="last",
        help="a run's checkpoint; best: on validation",
    )
    add("--json", action="store_true", help="one JSON object per line")
    add("--topk", type=_positive(int), default=5, help="classes that are named")
    add("--out", help="folder for JSON, rows in PKU-MMD's format and timeline pictures")
    add("--annotate", help="a video to write, or a folder when there are several; records a stream")
    add(
        "--serve",
        nargs="?",
        const="",
        metavar="HOST:PORT",
        help="a page that shows the stream; 127.0.0.1:8000",
    )
    add("--token", default="", help="for viewers; made up where other machines reach the page")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--trimmed", action="store_true", default=None, help="one action per video")
    kind.add_argument("--untrimmed", dest="trimmed", action="store_false", help="a timeline")
    add("--seconds", type=_positive(float), default=2.0, help="length of a window, about")
    add("--stride", type=_positive(int), default=16, help="frames between predictions")
    add(
        "--threshold",
        type=share,
        help="least probability of an answer (default: by calibration; 0.5 for a timeline)",
    )
    add("--batch", type=_positive(int), default=1, help="windows at once; more for GPUs")
    add("--windows", choices=WINDOWS, default="auto", help=_WINDOWS)
    add("--range", default="", help="of more than eight bits: auto or MIN,MAX")
    add("--engine", choices=ENGINES, default="auto", help="what runs the network")
    add("--patience", type=_positive(float), default=30.0, help="seconds without a frame")
    return parser.parse_args(argv)


def _positive(kind: type):
    def convert(text: str):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return value

    convert.__name__ = kind.__name__
    return convert


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def predict(argv: list[str]) -> int:
    """Predictions of videos or of a stream, printed as they are made."""
    flags = parse(argv)
    if bool(flags.videos) == bool(flags.stream):
        raise UserError("give videos (files, folders, globs) or one --stream, not both or none")
    if flags.stream and flags.out:
        raise UserError("--out is for video files; --json prints the answers of a --stream")
    if flags.serve is not None and not flags.stream:
        raise UserError("--serve shows a --stream; a video file can be one: --stream=clip.mp4")
    if flags.token and flags.serve is None:
        raise UserError("--token is for the page of --serve")
    with commands.importing():
        from jax_irkd.deployment import live, videos
        from jax_irkd.host import devices

    devices.start("off")
    return live.stream(flags) if flags.stream else videos.predict_all(flags)


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(predict, argv)


if __name__ == "__main__":
    sys.exit(main())

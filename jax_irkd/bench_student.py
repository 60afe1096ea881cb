"""How fast networks are on this machine: a run through Flax, exported files, ONNX files.

    python -m jax_irkd.bench_student runs/ntu/ours student.irkd student.onnx

Times are wall-clock, of uint8 frames in to probabilities out, after compilation. Calls of all
networks take turns, so that a busy moment hits them alike.
"""

import sys
from collections.abc import Sequence

from jax_irkd.deployment.choices import ENGINES, WHICH
from jax_irkd.errors import UserError
from jax_irkd.host import commands, parsing


def parse(argv: Sequence[str]):
    parser = parsing.parser("jax_irkd.bench_student", __doc__)
    parser.add_argument("networks", nargs="+", help="run folders, .irkd and .onnx files")
    parser.add_argument("--batch", type=int, default=1, help="clips per call")
    parser.add_argument("--repeats", type=int, default=20, help="calls of each network")
    parser.add_argument("--which", choices=WHICH, default="last", help="a run's checkpoint")
    parser.add_argument(
        "--engine",
        default="auto",
        help=f"{', '.join(ENGINES)}; several with commas: each runs what it can",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    return parser.parse_args(argv)


def bench(argv: list[str]) -> None:
    """Measure, and show a table or lines of JSON."""
    flags = parse(argv)
    if flags.batch < 1 or flags.repeats < 1:
        raise UserError(f"--batch={flags.batch} and --repeats={flags.repeats} must be positive")
    with commands.importing():
        import json

        from jax_irkd.deployment import timing
        from jax_irkd.deployment.classifier import open_classifier
        from jax_irkd.deployment.onnx_file import is_onnx
        from jax_irkd.host import devices

    devices.start("off")
    asked = flags.engine.split(",")
    classifiers = {
        path if len(asked) == 1 else f"{path} {engine}": open_classifier(path, flags.which, engine)
        for path in flags.networks
        for engine in asked
        if len(asked) == 1 or engine != "jax" or not is_onnx(path)  # which JAX cannot run
    }
    timings = timing.measure(classifiers, flags.batch, flags.repeats)
    if flags.json:
        for measured in timings:
            print(json.dumps(measured._asdict()))
    else:
        print(timing.machine())
        print(timing.table(timings))


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(bench, argv)


if __name__ == "__main__":
    sys.exit(main())

"""A trained network as one file: for jax alone (.irkd) or for onnxruntime and TensorRT (.onnx).

    python -m jax_irkd.export --run=runs/ntu/ours --out=student.irkd
    python -m jax_irkd.export --run=runs/ntu/ours --out=student.onnx --format=onnx
    python -m jax_irkd.export --run=runs/ntu/ours --out=small.irkd --precision=int8

The program takes uint8 frames and returns probabilities, for any batch size, on CPUs and CUDA. It
is compared with the Flax model before the file is written.
"""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from jax_irkd.deployment.archive import export_run
from jax_irkd.deployment.precision import PRECISIONS
from jax_irkd.errors import UserError
from jax_irkd.host import devices


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jax_irkd.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", required=True, help="a run's folder, WORKDIR/METHOD")
    parser.add_argument("--out", required=True, help="the file to write")
    parser.add_argument("--format", choices=["irkd", "onnx"], default="irkd")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--which", choices=["last", "best", "ema"], default="last")
    parser.add_argument(
        "--no_measure", action="store_true", help="do not measure the accuracy of bf16 and int8"
    )
    flags = parser.parse_args(argv)
    try:
        logging.getLogger("absl").setLevel(logging.ERROR)
        devices.start("off")
        manifest = export_run(
            flags.run,
            flags.out,
            which=flags.which,
            kind=flags.format,
            precision=flags.precision,
            measure=not flags.no_measure,
        )
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(Path(flags.out), manifest))
    return 0


def describe(path: Path, manifest: Mapping) -> str:
    """Two lines on what was written."""
    text = (
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {manifest['precision']}, "
        f"{manifest['num_segments']} {manifest['modality']} frames of {manifest['height']}x"
        f"{manifest['width']}, {len(manifest['class_names'])} classes; differs from the Flax model "
        f"by at most {manifest['distance']:.1e}"
    )
    accuracy = manifest.get("accuracy")
    return f"{text}\n{accuracy['summary']}" if accuracy else text


if __name__ == "__main__":
    sys.exit(main())

"""A trained network as one file: for jax alone (.irkd) or for onnxruntime and TensorRT (.onnx).

    python -m jax_irkd.export --run=runs/ntu/ours --out=student.irkd
    python -m jax_irkd.export --run=runs/ntu/ours --out=student.onnx
    python -m jax_irkd.export --run=runs/ntu/ours --out=small.onnx --precision=int8

The program takes uint8 frames and returns probabilities, for any batch size, on CPUs and CUDA. It
is compared with the Flax model before the file is written.
"""

import sys
from collections.abc import Mapping, Sequence

from jax_irkd.deployment.choices import PRECISIONS, WHICH
from jax_irkd.errors import plural
from jax_irkd.host import commands, parsing


def parse(argv: Sequence[str]):
    parser = parsing.parser("jax_irkd.export", __doc__)
    add = parser.add_argument
    add("--run", required=True, help="a run's folder, WORKDIR/METHOD")
    add("--out", required=True, help="the file to write")
    add("--format", choices=["irkd", "onnx"], help="of the file; by its name if not given")
    add("--opset", type=int, help="of an ONNX file, 17 or more, for the runtime it is for")
    add("--precision", choices=PRECISIONS, default="float32", help="fp16 is for .onnx files")
    add("--which", choices=WHICH, default="last", help="a checkpoint")
    add("--max_drop", type=float, default=1.0, help="points of top-1 that fewer bits may lose")
    add("--calibration_clips", type=int, default=64, help="training clips for int8 in .onnx files")
    add("--no_measure", action="store_true", help="do not measure what fewer bits lose")
    return parser.parse_args(argv)


def export(argv: list[str]) -> None:
    """Write the file and say what it is."""
    flags = parse(argv)
    with commands.importing():
        from jax_irkd.deployment.archive import export_run
        from jax_irkd.host import devices

    devices.start("off")
    manifest = export_run(
        flags.run,
        flags.out,
        which=flags.which,
        kind=flags.format,
        precision=flags.precision,
        opset=flags.opset,
        measure=not flags.no_measure,
        max_drop=flags.max_drop,
        clips=flags.calibration_clips,
    )
    print(describe(flags.out, manifest))


def describe(path: str, manifest: Mapping) -> str:
    """Two lines on what was written."""
    from pathlib import Path

    text = (
        f"{path}: {Path(path).stat().st_size / 2**20:.1f} MiB, {manifest['precision']}, "
        f"{plural(manifest['num_segments'], manifest['modality'] + ' frame')} of "
        f"{manifest['height']}x{manifest['width']}, "
        f"{plural(len(manifest['class_names']), 'class', 'classes')}"
    )
    if manifest["precision"] == "float32":  # fewer bits differ by design: by how much comes next
        text += f"; differs from the Flax model by at most {manifest['distance']:.1e}"
    accuracy = manifest.get("accuracy")
    return f"{text}\n{accuracy['summary']}" if accuracy else text


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(export, argv)


if __name__ == "__main__":
    sys.exit(main())

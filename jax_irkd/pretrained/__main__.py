"""Writes what a run has learnt as a small weights file, for other runs to start from.

    python -m jax_irkd.pretrained --run=runs/start/teacher --out=weights.safetensors

Names and layout are torchvision's. The classifier is left out, as the next run has classes of its
own; numbers are float16, which is half the size. Start from it by --config.weights.teacher=FILE
or, in an infrared network, --config.weights.student=FILE.
"""

import argparse
import logging
import sys
from pathlib import Path

import numpy as np

from jax_irkd.errors import UserError
from jax_irkd.pretrained import files, torchvision
from jax_irkd.runs.network import load_network


def write_start(run: str, out: str) -> Path:
    """Writes the backbone of the last checkpoint of `run` to `out`, in float16."""
    network, _ = load_network(Path(run).expanduser())
    state = torchvision.to_torchvision(network.variables)
    small = {k: v.astype(np.float16) for k, v in state.items() if k not in torchvision.HEAD}
    files.write(out, small)
    return Path(out)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jax_irkd.pretrained",
        description="Write what a run has learnt as a weights file to start other runs from.",
    )
    parser.add_argument("--run", required=True, help="the folder of a finished run")
    parser.add_argument("--out", required=True, help="a name that ends in .safetensors")
    options = parser.parse_args(arguments)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        path = write_start(options.run, options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB; start from it by --config.weights.…={path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

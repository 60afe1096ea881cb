"""Write what a run has learnt as a small weights file, for other runs to start from.

    python -m jax_irkd.pretrained --run=runs/start/teacher --out=weights.safetensors

Names and layout are torchvision's. The classifier is left out, as the next run has classes of its
own; numbers are float16, which is half the size. Start from it by --config.weights.teacher=FILE
or, in an infrared network, --config.weights.student=FILE.
"""

import sys
from collections.abc import Sequence

from jax_irkd.host import commands
from jax_irkd.host.files import expanded


def parse(argv: Sequence[str]):
    parser = commands.parser("jax_irkd.pretrained", __doc__)
    parser.add_argument("--run", required=True, help="the folder of a finished run")
    parser.add_argument("--out", required=True, help="a name that ends in .safetensors")
    return parser.parse_args(argv)


def write(argv: list[str]) -> None:
    """Write the backbone of the last checkpoint and say how large it is."""
    given = parse(argv)
    with commands.importing():
        from pathlib import Path

        import numpy as np

        from jax_irkd.pretrained import files, torchvision
        from jax_irkd.runs.network import load_network

    network, _ = load_network(expanded(given.run))
    state = torchvision.to_torchvision(network.variables)
    small = {k: v.astype(np.float16) for k, v in state.items() if k not in torchvision.HEAD}
    files.write(given.out, small)
    size = Path(given.out).stat().st_size / 1e6
    print(f"{given.out}: {size:.1f} MB; start from it by --config.weights.…={given.out}")


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(write, argv)


if __name__ == "__main__":
    sys.exit(main())

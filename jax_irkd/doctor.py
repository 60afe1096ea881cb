"""Is this machine ready: versions, devices, memory, disk, data, and two steps of training.

With a config on a GPU or TPU also: do the run's own programs compile, and do they fit its memory.

python -m jax_irkd.doctor [--config=configs/ntu.py] [--workdir=runs/ntu]

A green line is well, a yellow one worth knowing, a red one keeps training from working. Each that
is not green says what to do. Exit code 0 without a red line, 1 otherwise.
"""

import sys
from collections.abc import Sequence

from jax_irkd.host import commands


def define(values) -> None:
    """The flags beside --config."""
    from absl import flags

    flags.DEFINE_string("workdir", "", "where runs shall lie", flag_values=values)
    flags.DEFINE_bool("programs", False, "only compile the programs", flag_values=values)


def examine(argv: list[str]) -> int:
    """Run every check and show what it found; 1 with a red line."""
    with commands.importing():
        import os
        from pathlib import Path

        from jax_irkd import command_line
        from jax_irkd.host.files import expanded
        from jax_irkd.host.terminal import make_console
        from jax_irkd.inspection import checkup

        asked = command_line.parse(argv, define, __doc__)
    if asked.flags.programs and asked.config is not None:
        from jax_irkd.inspection import compilation

        compilation.tell(asked.config)
        return 0
    # Else this process would take most of a GPU's memory, and the one that compiles has too little.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    name = Path(asked.config_file).stem if asked.config_file else ""
    workdir = expanded(asked.flags.workdir or Path("runs", name))
    return checkup.report(asked.config, workdir, argv, make_console(200))


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(examine, argv)


if __name__ == "__main__":
    sys.exit(main())

"""Algorithm 1 of the paper: train the RGB teacher, distil the infrared student, evaluate, report.

python -m jax_irkd.main --config=configs/ntu.py:method=ours --workdir=runs/ntu

Any field of the configuration is an option too: --config.student_training.num_epochs=40. The same
command again continues an interrupted run, and shows the results of a finished one.
"""

import sys
from collections.abc import Sequence

from jax_irkd.host import commands


def define(values) -> None:
    """The flags beside --config."""
    from absl import flags

    add = {"flag_values": values}
    flags.DEFINE_string("workdir", "", "where runs lie; default runs/CONFIG_NAME", **add)
    flags.DEFINE_bool("restart", False, "delete what the method's folder holds, begin anew", **add)
    flags.DEFINE_bool("deterministic", False, "bit-equal reruns on GPUs, slower", **add)
    flags.DEFINE_bool("profile", False, "trace steps 5 to 8 into WORKDIR/METHOD/profile", **add)
    busy = "if in use; auto waits for a teacher"
    flags.DEFINE_enum("busy", "auto", ["auto", "wait", "refuse"], busy, **add)
    modes, said = ["auto", "on", "off"], "several processes by jax.distributed"
    flags.DEFINE_enum("distributed", "auto", modes, said, **add)


def train(argv: list[str]) -> None:
    """Read the configuration, run the algorithm, show the table of the workdir."""
    with commands.importing():
        from jax_irkd import command_line

        asked = command_line.parse(argv, define, __doc__)
        config = command_line.need_config(asked)

        from pathlib import Path

        import jax

        from jax_irkd import algorithm
        from jax_irkd.host import devices
        from jax_irkd.host.files import expanded
        from jax_irkd.reporting import write

    given = asked.flags
    devices.start(given.distributed, given.deterministic)
    workdir = expanded(given.workdir or f"runs/{Path(asked.config_file).stem}")
    algorithm.run(config, workdir, given.restart, given.profile, given.busy)
    if jax.process_index() == 0:
        write.print_table(workdir)


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(train, argv, resumes=True)


if __name__ == "__main__":
    sys.exit(main())

"""A whole run on the data set in memory, as a process that can be killed."""

import argparse
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")


def stop_at(step: int) -> None:
    """Send this process a signal while the student makes its step `step`."""
    from jax_irkd.training.loop import Trainer

    observe = Trainer._observe

    def observed(trainer, pending):
        if pending and pending[0] == step - 1 and trainer.phase.modality == "infrared":
            os.kill(os.getpid(), signal.SIGTERM)
        return observe(trainer, pending)

    Trainer._observe = observed


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("method")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--eval_every", type=float, default=4.0, help="epochs")
    parser.add_argument("--save_every", type=int, default=2, help="steps")
    parser.add_argument("--sync_bn", action="store_true")
    parser.add_argument("--num_devices", type=int, default=0)
    parser.add_argument("--stop_at", type=int, default=0, help="a student's step, in process 1")
    arguments = parser.parse_args()

    from jax_irkd import algorithm
    from jax_irkd.data import loading
    from jax_irkd.errors import FULL, UserError
    from jax_irkd.host import devices
    from jax_irkd.host.interrupts import INTERRUPTED, Interrupted
    from jax_irkd.training import setup
    from jax_irkd.training.steps import AXIS
    from tests.helpers import fakes

    devices.start("auto")
    if arguments.stop_at and os.environ.get("PROCESS_ID") == "1":
        stop_at(arguments.stop_at)
    axis = AXIS if arguments.sync_bn else None
    setup.make_model = lambda *args, **kwargs: fakes.TinyModel(axis_name=axis)
    loading.open_dataset = lambda *args: fakes.dataset(clips=24)
    config = fakes.config(
        arguments.method,
        num_epochs=arguments.epochs,
        batch_size=8,
        learning_rate=0.01,
        eval_every=arguments.eval_every,
    )
    config.num_devices, config.input.eval_batch_size = arguments.num_devices, 8
    config.allow_weak_teacher, config.checkpoints.every = True, arguments.save_every
    try:
        algorithm.run(config, arguments.workdir)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # as the command does it
        if error.errno not in FULL:
            raise
        print(f"error: the disk is full: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

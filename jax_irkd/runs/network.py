"""The trained network in a run's folder."""

import sys
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jax_irkd.errors import UserError
from jax_irkd.models.tsn import TSN
from jax_irkd.training import setup
from jax_irkd.training.checkpoints import Checkpoints, DamagedCheckpoint, select
from jax_irkd.training.evaluation import Network


def load_network(folder: str | Path, which: str = "last") -> tuple[Network, dict]:
    """The trained network in a run's folder and what was saved beside it.

    `which` is last, best (by top-1 on the test split) or ema. The meta data hold `class_names`,
    `modality`, `config` and `step`. Raises UserError when there is nothing to load.
    """
    folder = Path(folder)
    if not (folder / "checkpoints").is_dir():
        raise UserError(
            f"{folder} holds no run (no checkpoints folder); train one, or check the path"
        )
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        steps = checkpoints.steps()[::-1]
        if which == "best" and checkpoints.best_step() is not None:
            steps.insert(0, checkpoints.best_step())
        for step in steps:
            try:
                leaves, meta = checkpoints.read(step)
                break
            except DamagedCheckpoint as error:
                print(f"{folder}: checkpoint {step} is damaged ({error})", file=sys.stderr)
        else:
            raise UserError(
                f"{folder}/checkpoints holds no readable checkpoint; train the run again"
            )
    params = select(leaves, "ema" if which == "ema" else "params/model")
    if not params:
        raise UserError(f"{folder} has no {which} parameters; train with training.ema_decay > 0")
    variables = {"params": params, "batch_stats": select(leaves, "batch_stats/model")}
    return Network(_saved_model(meta), variables), meta


def _saved_model(meta: Mapping) -> TSN:
    role = "teacher" if meta["modality"] == "rgb" else "student"
    section = dict(meta["config"][f"{role}_model"]) | {"sync_bn": False}
    return setup.make_model(
        ConfigDict(section),
        len(meta["class_names"]),
        meta["config"]["dtype"],
        input_offset=meta["input_offset"],
    )

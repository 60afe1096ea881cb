"""The trained network in a run's folder."""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jax_irkd.data.spec import ROLES
from jax_irkd.errors import UserError, once
from jax_irkd.host.files import read_json
from jax_irkd.models.tsn import TSN
from jax_irkd.runs.calibrating import kept
from jax_irkd.runs.identity import digest
from jax_irkd.runs.results import IDENTITY, RESULTS, finished
from jax_irkd.training import setup
from jax_irkd.training.checkpoints import Checkpoints, DamagedCheckpoint
from jax_irkd.training.evaluation import Network
from jax_irkd.training.examining import AVERAGED, HELD, TESTED
from jax_irkd.training.leaves import select
from jax_irkd.training.logs import CHECKPOINTS


def load_network(folder: str | Path, which: str = "last") -> tuple[Network, dict]:
    """The trained network in a run's folder and what was saved beside it.

    `which` is last, best (by top-1 on the validation subjects; said where there were none and it is
    the best on the test split) or ema. The meta data hold `class_names`, `modality`, `config`,
    `step`, under `figures` what this network reached on the test split, empty where it was not
    tested, and its `calibration` (see `runs.calibrating`) or None. Raises UserError when there is
    nothing to load, where the best network was not kept (`checkpoints.best=0`), and where the
    checkpoint of a finished run is damaged: its results are not those of an older one.
    """
    folder = Path(folder)
    with _checkpoints(folder) as checkpoints:
        steps = checkpoints.steps()[::-1]
        best = _best_step(folder, checkpoints) if which == "best" else None
        if best is not None:
            steps.insert(0, best)
            if checkpoints.metric == TESTED:
                once(
                    f"{folder} kept no validation subjects aside (input.validation): its best "
                    "checkpoint is the best on the test split, so its figures are too good"
                )
        for step in steps:
            try:
                leaves, meta = checkpoints.read(step)
                break
            except DamagedCheckpoint as error:
                _refuse_older(folder, step, steps, error)
                print(f"{folder}: checkpoint {step} is damaged ({error})", file=sys.stderr)
        else:
            raise UserError(
                f"{folder / CHECKPOINTS} holds no readable checkpoint; train the run again"
            )
        figures = checkpoints.figures(step)
    params = select(leaves, "ema" if which == "ema" else "params/model")
    if not params:
        raise UserError(
            f"{folder} has no {which} parameters; train with "
            f"--config.{ROLES[meta['modality']]}_training.ema_decay=0.999 or another share above 0"
        )
    variables = {"params": params, "batch_stats": select(leaves, "batch_stats/model")}
    figures = {k: v for k, v in figures.items() if not k.startswith(HELD)}
    averaged = {k: v for k, v in figures.items() if k.startswith(AVERAGED)}
    if which == "ema":
        figures = {name.removeprefix(AVERAGED): value for name, value in averaged.items()}
    else:
        figures = {k: v for k, v in figures.items() if k not in averaged}
    found = {"figures": figures, "calibration": kept(folder, meta["step"], which == "ema")}
    return Network(_saved_model(meta), variables), meta | found


class NotKept(UserError):
    """The best network of a run, asked for where it is not on disk."""


def _best_step(folder: Path, checkpoints: Checkpoints) -> int | None:
    """The step of the best network, None where none was evaluated. Raises NotKept where it went.

    Of the steps on disk one is always the best; which of all was is written down as training goes.
    """
    steps, kept = checkpoints.steps(), checkpoints.best_step()
    standing: Mapping = {}
    with contextlib.suppress(DamagedCheckpoint):  # `load_network` will say it
        standing = checkpoints.describe(steps[-1])[0].get("standing", {}) if steps else {}
    reached = -1.0 if kept is None else checkpoints.figures(kept)[checkpoints.metric]
    if standing.get("value", -1.0) <= reached:
        return kept
    if standing["step"] in steps:
        return standing["step"]
    raise NotKept(
        f"{folder}: its best network, of step {standing['step']}, is not on disk (checkpoints.best "
        "says how many are kept); take the last one, or train it anew, with "
        "--config.checkpoints.best=1 and --restart"
    )


def describe_network(folder: str | Path) -> tuple[dict, str]:
    """What was saved beside the last network of a run, and a digest of its variables.

    Nothing large is read. Raises UserError when there is none.
    """
    folder = Path(folder)
    with _checkpoints(folder) as checkpoints:
        steps = checkpoints.steps()[::-1]
        for step in steps:
            try:
                meta, checksums = checkpoints.describe(step)
            except DamagedCheckpoint as error:
                _refuse_older(folder, step, steps, error)
                continue
            parts = ("params/model/", "batch_stats/model/")
            own = {name: value for name, value in checksums.items() if name.startswith(parts)}
            return meta, digest({"variables": own, "modality": meta["modality"]})
    raise UserError(f"{folder / CHECKPOINTS} holds no readable checkpoint; train the run again")


def _checkpoints(folder: Path) -> Checkpoints:
    if not (folder / CHECKPOINTS).is_dir():
        if (finished(folder) or {}).get("method") == "tstdd":
            raise UserError(
                f"{folder} holds TSTDDs, three networks on optical flow and support vector "
                "machines, of which no single network can be taken; train another method"
            )
        runs = sorted(path.parent for path in folder.glob(f"*/{CHECKPOINTS}"))
        way = f"name one of those in it, as {runs[0]}" if runs else "train one, or check the path"
        raise UserError(f"{folder} holds no run (no {CHECKPOINTS} folder); {way}")
    try:
        identity = read_json(folder / IDENTITY)
    except UserError:
        identity = {}
    held = isinstance(identity, dict) and identity.get("input.validation")
    metric = f"{HELD}{TESTED}" if held else TESTED
    return Checkpoints(folder / CHECKPOINTS, read_only=True, metric=metric)


def _refuse_older(folder: Path, step: int, steps: list[int], error: DamagedCheckpoint) -> None:
    """Raises UserError where the figures of a finished run would be taken for another step's."""
    results = finished(folder)
    if results is None:
        return
    older = [other for other in steps if other < step]
    rest = f"training goes on after step {max(older)}" if older else "it is trained anew"
    raise UserError(
        f"{folder}: checkpoint {step} is damaged ({error}), and the results of this run are of "
        f"step {results.get('steps', step)}; delete {folder / RESULTS} and run its command again: "
        + rest
    )


def _saved_model(meta: Mapping) -> TSN:
    section = dict(meta["config"][f"{ROLES[meta['modality']]}_model"]) | {"sync_bn": False}
    return setup.make_model(
        ConfigDict(section),
        len(meta["class_names"]),
        meta["config"]["dtype"],
        input_offset=meta["input_offset"],
    )

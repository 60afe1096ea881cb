"""Where a run's scalars go beside metrics.jsonl: TensorBoard, W&B, MLflow, or a class of yours.

A logger is made with (folder, facts) and has `write(step, kind, scalars, when)` and `close()`.
`facts` holds the name of the phase and the configuration. metrics.jsonl is always written: it is
the record that a run continues from, and pages are made from.
"""

import importlib
import importlib.util
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jax_irkd.errors import UserError, nearest, one_line
from jax_irkd.fields import leaves
from jax_irkd.host.files import write_whole
from jax_irkd.training.events import FOLDER, Events

RECORD = "jsonl"
Scalars = Mapping[str, float]
Facts = Mapping[str, Any]


class Logger(Protocol):
    """What `config.loggers` names."""

    def __init__(self, folder: Path, facts: Facts): ...

    def write(self, step: int, kind: str, scalars: Scalars, when: float) -> None:
        """Scalars of one step that are finite, of `kind` train, time or eval; Unix time `when`."""

    def close(self) -> None: ...


class TensorBoard:
    """Events in FOLDER/tensorboard, written anew from the record at every start."""

    replays = True

    def __init__(self, folder: Path, facts: Facts):
        for old in folder.glob(f"{FOLDER}/events.out.tfevents.*"):
            old.unlink()
        self._events = Events(folder / FOLDER)

    def write(self, step: int, kind: str, scalars: Scalars, when: float) -> None:
        for name, value in scalars.items():
            self._events.add_scalar(f"{kind}/{name}", value, step, when)

    def close(self) -> None:
        self._events.close()


class WandB:
    """A run of Weights & Biases, continued where it was stopped; WANDB_MODE=offline needs no net.

    Project `jax_irkd` unless WANDB_PROJECT names another; curves run over the column `step`.
    """

    def __init__(self, folder: Path, facts: Facts):
        import wandb

        self._run = wandb.init(
            project=None if os.environ.get("WANDB_PROJECT") else "jax_irkd",
            name=f"{folder.parent.name}/{folder.name}",
            id=_kept(folder / "wandb_id", lambda: uuid.uuid4().hex[:8]),
            resume="allow",
            dir=str(folder),
            config=dict(facts.get("config") or {}),
            job_type=facts.get("name"),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, kind: str, scalars: Scalars, when: float) -> None:
        named = {f"{kind}/{name}": value for name, value in scalars.items()}
        self._run.log(named | {"step": step})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, continued where it was stopped, at MLFLOW_TRACKING_URI.

    Experiment `jax_irkd` unless MLFLOW_EXPERIMENT_NAME names another.
    """

    def __init__(self, folder: Path, facts: Facts):
        import mlflow

        self._client = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "jax_irkd"
        known = self._client.get_experiment_by_name(name)
        where = known.experiment_id if known else self._client.create_experiment(name)
        title = f"{folder.parent.name}/{folder.name}"

        def begin() -> str:
            run = self._client.create_run(where, run_name=title).info.run_id
            for field, value in leaves(facts.get("config") or {}):
                self._client.log_param(run, field, str(value)[:500])
            return run

        self._run = _kept(folder / "mlflow_id", begin)
        self._client.update_run(self._run, status="RUNNING")

    def write(self, step: int, kind: str, scalars: Scalars, when: float) -> None:
        from mlflow.entities import Metric

        found = [Metric(f"{kind}/{k}", v, int(1000 * when), step) for k, v in scalars.items()]
        self._client.log_batch(self._run, metrics=found)

    def close(self) -> None:
        self._client.set_terminated(self._run)


_KINDS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
NAMES = (RECORD, *_KINDS)


def check(names: Sequence[str]) -> None:
    """Raises UserError for a logger that is not known or whose library is not installed."""
    for name in names:
        _class_of(name)


def make_loggers(names: Sequence[str], folder: Path, facts: Facts) -> list["Guarded"]:
    """The loggers of `config.loggers`, the record apart. Raises UserError as `check` does."""
    kinds = {name: _class_of(name) for name in dict.fromkeys(names) if name != RECORD}
    return [Guarded(name, kind, folder, facts) for name, kind in kinds.items()]


def _class_of(name: str):
    if name in _KINDS or name == RECORD:
        if name in ("wandb", "mlflow") and importlib.util.find_spec(name) is None:
            raise UserError(f"logger {name!r} is not installed: pip install 'jax-irkd[{name}]'")
        return _KINDS.get(name)
    module, _, attribute = name.rpartition(".")
    if not module:
        raise UserError(
            f"unknown logger {name!r}{nearest(name, NAMES)}, or the dotted path of a class"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"logger {name!r} cannot be imported: {one_line(error)}") from error


class Guarded:
    """A logger that cannot stop a run: what it raises is said once, and it gets nothing more."""

    def __init__(self, name: str, kind: type, folder: Path, facts: Facts):
        self._name, self._inner = name, None
        self.replays = getattr(kind, "replays", False)
        self._try(lambda: setattr(self, "_inner", kind(folder, facts)))

    def write(self, step: int, kind: str, scalars: Scalars, when: float) -> None:
        if self._inner is not None:
            self._try(lambda: self._inner.write(step, kind, scalars, when))

    def close(self) -> None:
        if self._inner is not None:
            self._try(self._inner.close)

    def _try(self, act) -> None:
        try:
            act()
        except Exception as error:  # of a library or a network, which are not ours
            self._inner = None
            said = one_line(error)
            logging.error("logger %s: %s. It gets nothing more of this run.", self._name, said)


def _kept(path: Path, make) -> str:
    """The text of `path`, made and written at the first call."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, make())
    return path.read_text("utf-8").strip()

"""Checkpoints that can be trusted: latest and best kept, every leaf verified when it is read.

A thin wrapper over Orbax. A checkpoint holds NumPy arrays under flat names, so it restores on any
number of devices and processes, and a JSON part with the checksums, the configuration and the class
names. One that is damaged is set aside and the newest good one is used.
"""

import contextlib
import json
import logging
import os
import shutil
import sys
import traceback
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from jax_irkd.errors import FULL, UserError
from jax_irkd.host.devices import barrier
from jax_irkd.host.files import write_whole
from jax_irkd.training.leaves import checksum, flatten, unflatten
from jax_irkd.training.parallel import any_process

Meta = dict[str, Any]
_UNFINISHED = ".orbax-checkpoint-tmp"
_METRICS = "metrics"  # Orbax's name for the item and its file
# Orbax wants a metric with every save; scores are never negative.
_UNSCORED = -1.0


class DamagedCheckpoint(Exception):
    """A checkpoint whose content is not what was saved."""


class _Manager(ocp.CheckpointManager):
    """Orbax's, for which a damaged file of metrics is a step without metrics."""

    def __init__(self, metric: str, *args, **options):
        self._needed = metric
        super().__init__(*args, **options)

    def metrics(self, step: int):
        try:
            found = super().metrics(step)
        except Exception as error:  # whatever damage makes Orbax stumble over
            logging.error("%s/%d: its metrics cannot be read (%s)", self.directory, step, error)
            found = None
        good = isinstance(found, dict) and isinstance(found.get(self._needed), int | float)
        return found if good else {self._needed: _UNSCORED}


class Checkpoints:
    """The checkpoints in `folder`; keeps the newest `latest` and the `best` by `metric`.

    Saving is asynchronous. `close` (or leaving a `with` block) waits for the last save.
    A save that fails, a full disk say, is reported and leaves earlier checkpoints as they are.
    """

    def __init__(
        self,
        folder: Path,
        *,
        latest: int = 2,
        best: int = 1,
        metric: str = "top1",
        read_only: bool = False,
    ):
        self.folder = Path(folder).absolute()
        self._read_only = read_only
        self._policy = policies.AnyPreservationPolicy(
            [
                policies.LatestN(latest),
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[metric],
                    n=best,
                ),
            ]
        )
        self.metric = metric
        self.failed_saves = 0
        self._manager = self._open()
        self._quiet = contextlib.ExitStack()
        if not read_only:
            self._quiet.enter_context(_quiet_threads())

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _open(self) -> ocp.CheckpointManager:
        if not self._read_only and jax.process_index() == 0:
            for leftover in self.folder.glob(f"*{_UNFINISHED}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            best_fn=lambda metrics: metrics[self.metric],
            best_mode="max",
            enable_async_checkpointing=True,
            create=not self._read_only,
            read_only=self._read_only,
        )
        return _Manager(self.metric, self.folder, options=options, item_names=("state", "meta"))

    def save(
        self, step: int, state: PyTree, meta: Mapping, metrics: dict[str, float] | None = None
    ) -> bool:
        """Start to save `state` under `step`. False when this or the save before it failed."""
        newest = self._manager.latest_step()
        if newest is not None and step <= newest:
            raise UserError(
                f"{self.folder} already holds step {newest}, not earlier than {step}; "
                "use another --workdir or --restart"
            )
        leaves = flatten(state)
        checksums = {name: checksum(leaf) for name, leaf in leaves.items()}
        content = {
            "meta": dict(meta),
            "meta_checksum": _text_checksum(meta),
            "checksums": checksums,
        }
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves), meta=ocp.args.JsonSave(content)
        )
        good = self.wait()
        scores = metrics or {self.metric: _UNSCORED}
        try:
            self._manager.save(step, args=arguments, metrics=scores, force=True)
        except (OSError, ValueError, RuntimeError) as error:
            self._report_failure(step, error)
            return False
        return good

    def score(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Put `metrics` beside the state saved under `step`; False when that is not there.

        So a state is on disk before its evaluation begins, and is written once.
        """
        if any_process(self.settled() < step):
            return False
        try:
            if jax.process_index() == 0:
                path = self.folder / str(step) / _METRICS / _METRICS
                write_whole(path, json.dumps(dict(metrics)))
        except OSError as error:  # the next start evaluates it again
            self._report_failure(step, error)
        barrier("scored")
        self._manager.reload()
        return True

    def settled(self) -> int:
        """The newest step on disk, 0 for none, once the save under way has ended."""
        self.wait()
        return max(self.steps(), default=0)

    def wait(self) -> bool:
        """Wait for the save under way. False when it failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:  # Orbax wraps what its writer threads raise in many types
            self._report_failure(None, error)
            return False
        return True

    def _report_failure(self, step: int | None, error: Exception) -> None:
        self.failed_saves += 1
        full = getattr(error, "errno", None) in FULL or any(
            os.strerror(number) in str(error) for number in FULL
        )
        reason = "the disk is full" if full else f"{type(error).__name__}: {error}"
        name = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        logging.error(
            "%s could not be written to %s: %s. Earlier checkpoints are intact.",
            name, self.folder, str(reason)[:500],
        )  # fmt: skip
        with contextlib.suppress(Exception):
            self._manager.close()
        self._manager = self._open()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def restore(self, template: PyTree, fresh: str = "") -> tuple[PyTree, Meta] | None:
        """The newest good checkpoint in the shape of `template`, and what was saved beside it.

        None when there is none. A damaged checkpoint is moved to `damaged_checkpoints/STEP` in the
        run's folder. `fresh` as in `unflatten`.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                leaves, meta = self.read(step)
            except DamagedCheckpoint as error:
                self._set_aside(step, str(error))
                continue
            return unflatten(template, leaves, f"{self.folder}/{step}", fresh), meta
        return None

    def best_step(self) -> int | None:
        """The step with the best metric, None when no checkpoint has one."""
        step = self._manager.best_step()
        return step if step is not None and self.is_scored(step) else None

    def is_scored(self, step: int) -> bool:
        """Whether `step` was saved with metrics."""
        return self._manager.metrics(step)[self.metric] != _UNSCORED

    def figures(self, step: int) -> dict[str, float]:
        """The metrics saved with `step`; none where it was not evaluated."""
        found = dict(self._manager.metrics(step) or {})
        return found if found.get(self.metric, _UNSCORED) != _UNSCORED else {}

    def describe(self, step: int) -> tuple[Meta, dict[str, int]]:
        """The JSON part of `step` and the checksums of its leaves, without reading these.

        Raises DamagedCheckpoint.
        """
        try:
            with _quiet_threads():
                restored = self._manager.restore(
                    step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
                )["meta"]
            meta, checksums = restored["meta"], restored["checksums"]
            expected = restored["meta_checksum"]
        except Exception as error:  # as in `read`
            raise DamagedCheckpoint(f"{type(error).__name__}: {str(error)[:200]}") from error
        if _text_checksum(meta) != expected:
            raise DamagedCheckpoint("its description changed on disk")
        return meta, checksums

    def read(self, step: int) -> tuple[dict[str, np.ndarray], Meta]:
        """Leaves by name and the JSON part of `step`. Raises DamagedCheckpoint."""
        try:
            with _quiet_threads():
                content = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore()
                    ),
                )
                leaves = {name: np.asarray(leaf) for name, leaf in content["state"].items()}
                meta, expected = content["meta"]["meta"], content["meta"]["checksums"]
                meta_checksum = content["meta"]["meta_checksum"]
        except Exception as error:  # damage surfaces as anything, from KeyError to a C++ status
            raise DamagedCheckpoint(f"{type(error).__name__}: {str(error)[:200]}") from error
        if set(leaves) != set(expected):
            raise DamagedCheckpoint(
                f"leaves {sorted(set(leaves) ^ set(expected))[:3]} do not match"
            )
        wrong = [name for name, leaf in leaves.items() if checksum(leaf) != expected[name]]
        if wrong:
            raise DamagedCheckpoint(f"{len(wrong)} leaves changed on disk, {wrong[0]} first")
        if _text_checksum(meta) != meta_checksum:
            raise DamagedCheckpoint("its description changed on disk")
        return leaves, meta

    def _set_aside(self, step: int, reason: str) -> None:
        logging.error(
            "CHECKPOINT %s/%d IS DAMAGED (%s). It is set aside and an earlier one is used.",
            self.folder, step, reason,
        )  # fmt: skip
        if self._read_only:
            return
        self._manager.close()
        barrier("damaged checkpoint read")
        if jax.process_index() == 0:
            target = self.folder.parent / "damaged_checkpoints" / str(step)
            target.parent.mkdir(exist_ok=True)
            while target.exists():
                target = target.with_name(target.name + "_")
            (self.folder / str(step)).rename(target)
        barrier("damaged checkpoint set aside")
        self._manager = self._open()

    def close(self) -> None:
        self.wait()
        self._manager.close()
        self._quiet.close()


def _text_checksum(meta: Mapping) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


@contextlib.contextmanager
def _quiet_threads():
    """Drops what Orbax's threads print of a damaged file or a full disk, pages of it.

    The failure itself reaches whoever waits for the save or the restore.
    """
    hooks = sys.unraisablehook, sys.excepthook
    logger = logging.getLogger("absl")

    def unraisable(what) -> None:
        if not _of_orbax(what.exc_traceback):
            hooks[0](what)

    def uncaught(kind, error, trace) -> None:
        if not _of_orbax(trace):
            hooks[1](kind, error, trace)

    sys.unraisablehook, sys.excepthook = unraisable, uncaught
    logger.addFilter(_not_of_orbax)
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = hooks
        logger.removeFilter(_not_of_orbax)


def _of_orbax(trace: TracebackType | None) -> bool:
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace)]
    return not files or any("orbax" in file or "asyncio" in file for file in files)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname

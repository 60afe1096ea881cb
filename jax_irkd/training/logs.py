"""What a run writes while it runs: metrics.jsonl, and what `config.loggers` names."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_irkd.errors import FULL, once
from jax_irkd.host.files import write_whole
from jax_irkd.training.loggers import Guarded, make_loggers

LOG = "metrics.jsonl"
CHECKPOINTS = "checkpoints"  # the folder beside it


class RunLog:
    """Scalars by step, each step once however often the run was interrupted.

    `metrics.jsonl` is the record: lines later than `first_step` belong to steps that will be run
    again and are dropped, and so are the figures of that step where it is not `examined`.
    TensorBoard events are written anew from it; other `loggers` get what comes. Lines that a full
    disk does not take are kept and written when there is space again.
    """

    def __init__(
        self,
        folder: Path,
        first_step: int,
        examined: bool = True,
        loggers: Sequence[str] = ("tensorboard",),
        facts: Mapping[str, Any] | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOG
        again = first_step + 1, first_step if not examined else first_step + 1
        lines = [x for x in read_log(folder) if x["step"] < again[x["kind"] == "eval"]]
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file, self._waiting = self._path.open("ab", buffering=0), b""
        self._loggers = make_loggers(loggers, folder, facts or {})
        for line in lines:
            self._tell(line, [logger for logger in self._loggers if logger.replays])

    def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Append a line of `kind` train, time or eval; NaN and infinity become null."""
        finite = {k: float(v) if math.isfinite(v) else None for k, v in scalars.items()}
        line = {"step": step, "kind": kind, "time": round(time.time(), 3)} | finite
        said = bool(self._waiting)
        self._waiting += json.dumps(line).encode() + b"\n"
        if not self.flush() and not said:
            logging.error("%s cannot be written, the disk is full; its lines wait", self._path)
        self._tell(line, self._loggers)

    def flush(self) -> bool:
        """Whether every line so far is in the file."""
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if error.errno not in FULL:
                raise
        return not self._waiting

    def _tell(self, line: Mapping[str, Any], loggers: Sequence[Guarded]) -> None:
        hidden = ("step", "kind", "time")
        known = {k: v for k, v in line.items() if k not in hidden and v is not None}
        for logger in loggers:
            logger.write(line["step"], line["kind"], known, line["time"])

    def close(self) -> None:
        self.flush()
        self._file.close()
        for logger in self._loggers:
            logger.close()


def has_log(folder: str | Path) -> bool:
    """Whether a run has begun to log in `folder`."""
    return (Path(folder) / LOG).exists()


def read_log(folder: Path) -> list[dict]:
    """The lines of `folder`/metrics.jsonl; what is no line of a log, cut by a crash say, is not.

    A log that cannot be read is named once, and has no lines.
    """
    path = Path(folder) / LOG
    try:
        texts = path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        once(f"cannot read {path} ({error.strerror or error}): the curves of this run are left out")
        return []
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int) and "kind" in line:
            lines.append({"time": 0.0} | line)
    return lines

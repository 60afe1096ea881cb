"""A run's folder: what came out, written and read."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_irkd.data.groups import performances_of
from jax_irkd.errors import UserError, once, one_line
from jax_irkd.host.files import read_json, write_whole
from jax_irkd.metrics import classification
from jax_irkd.runs.provenance import provenance, used
from jax_irkd.training.evaluation import Scores
from jax_irkd.training.logs import CHECKPOINTS, has_log, read_log

# The files of a run's folder; its log is `training.logs`', its checkpoints are `training`'s.
IDENTITY = "config.json"  # what decides the outcome, from the first step on
RESULTS = "results.json"  # the last file that a run writes
SCORES = "scores.npz"
PAGE = "report.html"
_SAVED = f"{CHECKPOINTS}/[0-9]*"
_AGAIN = (
    f"delete {RESULTS} there and run the same command again: what is trained is tested once more"
)


def is_finished(folder: str | Path) -> bool:
    """Whether the run in `folder` has ended."""
    return (Path(folder) / RESULTS).exists()


def is_run(folder: str | Path) -> bool:
    """Whether `folder` holds a run, ended or not."""
    return is_finished(folder) or has_log(folder)


def has_begun(folder: str | Path) -> bool:
    """Whether there is anything of a run in `folder` that a new start would lose."""
    kept = (Path(folder).glob(pattern) for pattern in (_SAVED, f"streams/*/{_SAVED}"))
    return is_finished(folder) or any(any(paths) for paths in kept)


def finished(folder: str | Path) -> dict | None:
    """The results of a run that has ended, None otherwise. Raises UserError when unreadable."""
    if not is_finished(folder):
        return None
    path = Path(folder) / RESULTS
    results = read_json(path, _AGAIN)
    known = ("metrics", "seconds", "config", "versions")
    if not isinstance(results, dict) or not all(
        isinstance(results.get(name, {}), dict) for name in known
    ):
        raise UserError(f"{path} holds no results; {_AGAIN}")
    return results


def write_results(folder: Path, scores: Scores, results: dict) -> dict:
    """Add the figures of `scores` to `results`; write both, the results last."""
    num_classes = len(results["class_names"])
    figures = classification.summarize(scores.logits, scores.labels, num_classes)
    results = results | {"metrics": figures, "num_clips": len(scores.labels)} | provenance()
    results |= {"used": used()}
    buffer = io.BytesIO()
    arrays = {"clip_id": scores.clip_ids, "label": scores.labels, "logits": scores.logits}
    np.savez_compressed(buffer, **arrays, labels_count_from=0)  # those of `predict` count from 1
    write_whole(folder / SCORES, buffer.getvalue())
    return save_results(folder, results)


def save_results(folder: Path, results: dict) -> dict:
    """Write results.json, the old one or the new one whole at every moment."""
    write_whole(folder / RESULTS, json.dumps(results, indent=1))
    return results


def read_scores(folder: str | Path) -> Scores:
    """The scores of a finished run, in the order of its test split.

    Raises UserError when there are none, when they cannot be read or a clip comes twice.
    """
    path = Path(folder) / SCORES
    if not path.exists():
        raise UserError(
            f"{folder} has no {SCORES}: it is no run's folder, or the run has not ended; train "
            "it to its end with python -m jax_irkd.main"
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            ids, labels, logits = (saved[name] for name in ("clip_id", "label", "logits"))
    except Exception as error:  # NumPy and zipfile raise whatever damage makes them stumble over
        raise UserError(f"{path} cannot be read ({one_line(error)}); {_AGAIN}") from error
    ids = ids.astype(str)
    if labels.dtype.kind not in "iu" or logits.dtype.kind != "f":
        raise UserError(f"{path} holds no scores; {_AGAIN}")
    if not len(ids) == len(labels) == len(logits) or logits.ndim != 2:
        raise UserError(f"{path} holds arrays that do not fit together; {_AGAIN}")
    if len(set(ids)) < len(ids):
        raise UserError(f"{path} holds {len(ids) - len(set(ids))} clips more than once")
    return Scores(ids, labels.astype(np.int64), logits)


TITLES = {
    "teacher": "RGB teacher",
    "baseline": "Infrared only",
    "ours": "Ours (DKD + MGCAM)",
    "best": "Best (FitNet)",
    "dkd": "DKD",
    "mgcam": "MGCAM",
    "tstdd": "TSTDDs",
    "ccskd": "CCSKD",
    "fitnet": "FitNet",
    "reviewkd": "ReviewKD",
    "simkd": "SimKD",
}


def title_of(method: str) -> str:
    """What tables and pages call a method: `FitNet + DKD`; a dotted path stays as it is."""
    parts = method.split("+")
    if len(parts) > 1:
        return " + ".join(map(title_of, parts))
    return TITLES.get(method, method if "." in method else method.upper())


class Run(NamedTuple):
    """A finished run: its folder, results.json, metrics.jsonl and, where saved, its scores."""

    name: str
    folder: Path
    results: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    clip_ids: np.ndarray | None
    labels: Int[np.ndarray, " n"] | None
    logits: Float[np.ndarray, "n k"] | None

    @property
    def method(self) -> str:
        return self.results.get("method", self.name)

    @property
    def title(self) -> str:
        title = title_of(self.method)
        return title if self.name == self.method else f"{title}, {self.name}"

    @property
    def colour(self) -> str:
        return self.method if self.method in ("teacher", "baseline") else "student"

    @property
    def class_names(self) -> list[str]:
        names = self.results.get("class_names")
        if names is None:
            count = 0 if self.logits is None else self.logits.shape[1]
            names = [f"class {index}" for index in range(count)]
        return [str(name) for name in names]

    @property
    def metric(self) -> str:
        """What runs on this data are compared by: mAP on PKU-MMD, as in the paper, else top-1."""
        return "mAP" if str(self.results.get("dataset", "")).startswith("pku") else "top1"

    def figure(self, key: str) -> float | None:
        """A test figure, None where it is missing or not a number."""
        return number(self.results.get("metrics", {}).get(key))


def data_of(results: Mapping[str, Any]) -> str:
    """The data set of a run as every table calls it; generated data are always called so."""
    name, generated = str(results.get("dataset") or ""), results.get("generated")
    return f"{name} ({generated})" if generated else name


def paired(first: Run, second: Run):
    """Logits and labels of two runs over the same clips in the same order, else None."""
    if first.logits is None or second.logits is None:
        return None
    orders = [np.argsort(run.clip_ids, kind="stable") for run in (first, second)]
    ids = [run.clip_ids[order] for run, order in zip((first, second), orders)]
    if not np.array_equal(*ids):
        return None
    pair = [(run.logits[o], run.labels[o]) for run, o in zip((first, second), orders)]
    return pair if np.array_equal(pair[0][1], pair[1][1]) else None


def aligned(groups: Sequence[Sequence[Run]]) -> list[list[tuple]] | None:
    """Logits and labels of all runs, the same clips in the same order; None where they differ."""
    first = groups[0][0]
    pairs = [[paired(first, run) for run in runs] for runs in groups]
    if any(pair is None for runs in pairs for pair in runs):
        return None
    return [[second for _, second in runs] for runs in pairs]


class Common(NamedTuple):
    """Groups of runs on the clips that all have: which each got right, and what clips show."""

    right: list[Bool[np.ndarray, "s n"]]
    performances: Int[np.ndarray, " n"]


def right_or_wrong(groups: Sequence[Sequence[Run]]) -> Common | None:
    """For every group of runs, one a seed: which clips each got right, of those that all have.

    None where scores are missing or no clip is common.
    """
    if any(run.logits is None for runs in groups for run in runs):
        return None
    tables = [[_right(run) for run in runs] for runs in groups]
    ids = sorted(set.intersection(*(set(table) for runs in tables for table in runs)))
    if not ids:
        return None
    right = [np.array([[table[i] for i in ids] for table in runs]) for runs in tables]
    return Common(right, performances_of(ids))


def _right(run: Run) -> dict[str, bool]:
    right = run.logits.argmax(1) == run.labels
    return dict(zip(run.clip_ids.tolist(), right.tolist(), strict=True))


def number(value: Any) -> float | None:
    ok = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if ok else None


def read_runs(workdir: str | Path) -> list[Run]:
    """All finished runs of a workdir: teacher, baseline, then the others by name, `ours` last.

    One whose files cannot be read is named on stderr and left out: it is no reason to stop others.
    """
    order, runs = {"teacher": 0, "baseline": 1, "ours": 3}, []
    for path in sorted(Path(workdir).glob(f"*/{RESULTS}")):
        try:
            runs.append(read_run(path.parent))
        except UserError as error:
            once(f"{error}; until then this run is left out")
    return sorted(runs, key=lambda run: (order.get(run.method, 2), run.name))


def read_run(folder: str | Path, name: str = "") -> Run:
    """A run, called `name` (default: its folder's name); what it has not yet written is empty.

    Raises UserError for a file that cannot be read.
    """
    folder = Path(folder)
    scores = read_scores(folder) if (folder / SCORES).exists() else Scores(None, None, None)
    return Run(name or folder.name, folder, finished(folder) or {}, read_log(folder), *scores)

"""A run's folder: what came out, written and read."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jax_irkd.metrics import classification
from jax_irkd.runs.provenance import provenance
from jax_irkd.training.evaluation import Scores
from jax_irkd.training.logs import read_log


def finished(folder: Path) -> dict | None:
    """The results of a run that has ended, None otherwise."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_results(folder: Path, scores: Scores, results: dict) -> dict:
    """Add the figures of `scores` to `results`; write both, the results last."""
    num_classes = len(results["class_names"])
    figures = classification.summarize(scores.logits, scores.labels, num_classes)
    results = results | {"metrics": figures, "num_clips": len(scores.labels)} | provenance()
    np.savez_compressed(
        folder / "scores.npz",
        clip_id=scores.clip_ids,
        label=scores.labels,
        logits=scores.logits,
    )
    return save_results(folder, results)


def save_results(folder: Path, results: dict) -> dict:
    """Write results.json, the old one or the new one whole at every moment."""
    temporary = folder / "results.partial"
    temporary.write_text(json.dumps(results, indent=1))
    temporary.replace(folder / "results.json")
    return results


TITLES = {
    "teacher": "RGB teacher",
    "baseline": "Infrared only",
    "ours": "Ours (DKD + MGCAM)",
    "dkd": "DKD",
    "mgcam": "MGCAM",
    "tstdd": "TSTDDs",
    "ccskd": "CCSKD",
}


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
        title = TITLES.get(self.method, self.method.upper())
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

    def figure(self, key: str) -> float | None:
        """A test figure, None where it is missing or not a number."""
        return number(self.results.get("metrics", {}).get(key))


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


def number(value: Any) -> float | None:
    ok = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if ok else None


def read_runs(workdir: str | Path) -> list[Run]:
    """All finished runs of a workdir: teacher, baseline, then the others by name, `ours` last."""
    folders = [path.parent for path in Path(workdir).glob("*/results.json")]
    order = {"teacher": 0, "baseline": 1, "ours": 3}
    runs = [read_run(folder) for folder in folders]
    return sorted(runs, key=lambda run: (order.get(run.method, 2), run.name))


def read_run(folder: str | Path) -> Run:
    """One finished run. Raises FileNotFoundError without results.json, ValueError if unreadable."""
    folder = Path(folder)
    try:
        results = json.loads((folder / "results.json").read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / 'results.json'} is not JSON: {error}") from None
    clip_ids, labels, logits = _read_scores(folder / "scores.npz")
    return Run(folder.name, folder, results, read_log(folder), clip_ids, labels, logits)


def _read_scores(
    path: Path,
) -> tuple[np.ndarray | None, Int[np.ndarray, " n"] | None, Float[np.ndarray, "n k"] | None]:
    if not path.exists():
        return None, None, None
    with np.load(path, allow_pickle=False) as scores:
        return scores["clip_id"].astype(str), scores["label"], scores["logits"]

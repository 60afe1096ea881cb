"""What a run is: what decides its outcome, and what its results say of it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jax_irkd.data.loading import Dataset
from jax_irkd.fields import leaves

# Fields that change where or how fast a run computes, not what.
_CIRCUMSTANCES = (
    "data_dir", "cache_dir", "threads", "readers", "eval_batch_size", "eval_every", "remat"
)  # fmt: skip
# Fields that came later, with the value at which a run is the same as before they were there.
_LATER = {
    "dataset.leave_out": [],
    "input.validation": 0.0,
    "training.patience": 0,
    "training.min_steps": 0,
    "model.frozen": "none",
    "training.class_weights": "none",
    "training.sampling": "uniform",
    "training.extra_clips": 0,
    "input.unpaired": True,
    "input.erasing": 0.0,
    "input.mixup": 0.0,
    "input.cutmix": 0.0,
    "eval.clips": 1,
    "eval.crops": 1,
}


def identity_of(
    config: ConfigDict, phase: str, teacher: str = "", *, data: str = "", weights: str = ""
) -> dict[str, Any]:
    """What decides the outcome of a phase: a flat dict of config fields.

    A teacher's identity leaves out the student and the method, so that all methods share it.
    `teacher`, `data` and `weights` are digests of the content: where things lie does not count.
    """
    full = json.loads(config.to_json_best_effort())
    role = "teacher" if phase == "teacher" else "student"
    chosen = {"seed": full["seed"], "weights": weights or full["weights"][role]}
    if data:
        chosen["data"] = data
    if role == "student":
        chosen |= {"method": phase, "distillers": full["distillers"], "teacher": teacher}
    if phase == "tstdd":
        chosen["tstdd"] = full["tstdd"]
    return settings_of(full, role) | decisive(dict(leaves(chosen)))


def settings_of(full: Mapping[str, Any], role: str = "") -> dict[str, Any]:
    """How a configuration, as results hold it, trains and tests a network: flat.

    `role` is teacher or student; without one it is what both share. Seed, weights and distillers
    are not among it.
    """
    chosen = {name: full.get(name) for name in ("protocol", "dtype", "dataset", "input")}
    if role:
        chosen |= {"model": full.get(f"{role}_model"), "training": full.get(f"{role}_training")}
    # Of the section `eval` what decides the scores; detection can be asked of a finished run.
    chosen["eval"] = {name: full.get("eval", {}).get(name, 1) for name in ("clips", "crops")}
    flat = dict(leaves(chosen))
    if flat.get("training.patience"):  # then how often it is evaluated decides its end
        flat["training.evaluated"] = flat["training.eval_every"]
    return decisive(flat)


def decisive(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without circumstances, and without what stands at the value at which nothing changes.

    An older version may have written either down.
    """
    kept = {k: v for k, v in fields.items() if k not in _LATER or v != _LATER[k]}
    if kept.get("model.temporal") == "none":
        # Nothing is shifted: the same run as before these two fields were there.
        kept = {k: v for k, v in kept.items() if not k.startswith("model.temporal")}
    return {k: v for k, v in kept.items() if k.rsplit(".", 1)[-1] not in _CIRCUMSTANCES}


def facts_of(config: ConfigDict, dataset: Dataset, method: str, modality: str) -> dict[str, Any]:
    """What results say of every run: its data, protocol, method, seed and configuration."""
    return {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "generated": dataset.generated,
        "protocol": config.protocol,
        "method": method,
        "modality": modality,
        "seed": config.seed,
        "class_names": list(dataset.class_names),
        "config": json.loads(config.to_json_best_effort()),
    }


def digest(identity: Mapping) -> str:
    """A short hash of a run's identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

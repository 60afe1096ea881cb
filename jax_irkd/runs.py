"""What a configuration asks for, and a run's folder: what came out, and how to load it again."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_irkd import distillers, metrics, steps
from jax_irkd.checkpoints import Checkpoints, DamagedCheckpoint, select
from jax_irkd.data import augment, loading
from jax_irkd.data.loading import MODALITIES
from jax_irkd.errors import UserError
from jax_irkd.evaluation import Network, Scores
from jax_irkd.models.tsn import TSN
from jax_irkd.steps import AXIS

# Fields that change where or how fast a run computes, not what.
_CIRCUMSTANCES = ("data_dir", "cache_dir", "threads", "eval_batch_size", "eval_every")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "jax-irkd")


def make_model(section: ConfigDict, num_classes: int, dtype: str, **overrides) -> TSN:
    """The clip model of a config section. Raises UserError for a field TSN does not have."""
    fields = dict(section) | overrides
    sync = fields.pop("sync_bn", False)
    if dtype == "auto":
        dtype = "bfloat16" if jax.default_backend() == "gpu" else "float32"
    try:
        return TSN(
            num_classes=num_classes,
            dtype=jnp.dtype(dtype),
            axis_name=AXIS if sync else None,
            **fields,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"the model cannot be made from {fields}: {error}") from error


def make_distillers(section: Mapping[str, Mapping[str, Any]]) -> dict:
    """The distillers of a config. Raises UserError for an unknown one, field or value."""
    made = {}
    for name, fields in section.items():
        try:
            kind = distillers.get(name)
            known = [f.name for f in dataclasses.fields(kind) if f.name not in ("parent", "name")]
            unknown = sorted(set(fields) - set(known))
            if unknown:
                raise ValueError(f"no field {unknown[0]!r}; it has {known}")
            axis = {"axis_name": AXIS} if "axis_name" in known else {}
            made[name] = kind(**dict(fields) | axis)
        except (TypeError, ValueError) as error:
            raise UserError(f"distiller {name}: {str(error).splitlines()[0]}") from error
    return made


def make_reader(
    config: ConfigDict, dataset: loading.Dataset, split: str, modalities: tuple[str, ...]
) -> loading.ClipReader:
    """Reads the clips of the protocol's `split` (train or test)."""
    protocols = config.dataset.protocols
    if config.protocol not in protocols:
        raise UserError(f"unknown protocol {config.protocol!r}; choose one of {sorted(protocols)}")
    sizes = {"rgb": config.dataset.rgb_size, "infrared": config.dataset.infrared_size}
    return loading.ClipReader(
        records=dataset.records(protocols[config.protocol][split]),
        modalities=modalities,
        num_segments=config.input.num_segments,
        sizes={name: tuple(sizes[name]) for name in modalities},
        faults=loading.Faults(config.input.max_broken),
    )


def make_augmentation(inputs: ConfigDict) -> Callable:
    """`augment.prepare_training` as the section `input` of a configuration asks for it."""
    return functools.partial(
        augment.prepare_training,
        resolution=inputs.resolution,
        scales=tuple(inputs.scales),
        flip=inputs.flip,
        colour_jitter=inputs.colour_jitter,
    )


def check_fit(config: ConfigDict, made: Mapping[str, nn.Module], num_classes: int) -> None:
    """Raises UserError when a distiller asks for what the two networks do not give.

    Traces shapes only: nobody trains a teacher for hours to read then that a layer does not exist.
    """
    inputs, key, outputs = config.input, jax.random.key(0), []
    for section, modality in ((config.student_model, "infrared"), (config.teacher_model, "rgb")):
        model = steps.alone(make_model(section, num_classes, config.dtype))
        size = (2, inputs.num_segments, inputs.resolution, inputs.resolution, MODALITIES[modality])
        forward = functools.partial(model.init_with_output, train=False)
        outputs.append(jax.eval_shape(forward, key, jax.ShapeDtypeStruct(size, jnp.float32))[0])
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    for distiller in made.values():
        try:
            jax.eval_shape(steps.alone(distiller).init, key, *outputs, labels)
        except ValueError as error:
            raise UserError(str(error).splitlines()[0]) from error


def identity(config: ConfigDict, phase: str, teacher: str = "") -> dict[str, Any]:
    """What decides the outcome of a phase: a flat dict of config fields.

    A teacher's identity leaves out the student and the method, so that all methods share it.
    """
    full = json.loads(config.to_json_best_effort())
    role = "teacher" if phase == "teacher" else "student"
    chosen = {name: full[name] for name in ("protocol", "seed", "dtype", "dataset", "input")}
    chosen |= {"model": full[f"{role}_model"], "training": full[f"{role}_training"]}
    chosen["weights"] = full["weights"][role]
    if role == "student":
        chosen |= {"method": phase, "distillers": full["distillers"], "teacher": teacher}
    if phase == "tstdd":
        chosen["tstdd"] = full["tstdd"]
    flat = _flat(chosen)
    if flat.get("model.temporal") == "none":
        # Nothing is shifted: the same run as before these two fields were there.
        flat = {k: v for k, v in flat.items() if not k.startswith("model.temporal")}
    return {k: v for k, v in flat.items() if k.rsplit(".", 1)[-1] not in _CIRCUMSTANCES}


def _flat(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def digest(identity: Mapping) -> str:
    """A short hash of a run's identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def claim(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Make `folder` hold runs of the configuration `wanted` only.

    Raises UserError, naming the fields, when it holds another, and when it cannot be written.
    """
    path = folder / "config.json"
    if path.exists():
        held = json.loads(path.read_text())
        names = [k for k in sorted(set(held) | set(wanted)) if held.get(k) != wanted.get(k)]
        if names:
            shown = [f"{k} is {held.get(k)!r}, asked for {wanted.get(k)!r}" for k in names[:3]]
            raise UserError(
                f"{folder} holds a run with another configuration ({len(names)} fields: "
                f"{'; '.join(shown)}); use another --workdir, or --restart to begin it anew"
            )
        return
    if jax.process_index() != 0:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(wanted, indent=1, sort_keys=True))
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; use another --workdir"
        ) from error


def finished(folder: Path) -> dict | None:
    """The results of a run that has ended, None otherwise."""
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


def write_results(folder: Path, scores: Scores, results: dict) -> dict:
    """Add the figures of `scores` to `results`; write both, the results last."""
    num_classes = len(results["class_names"])
    figures = metrics.summarize(scores.logits, scores.labels, num_classes)
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


def provenance() -> dict[str, Any]:
    """Versions, devices, commit and command of this process."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    root = Path(__file__).parent.parent
    git = subprocess.run(
        ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "versions": versions | {"python": platform.python_version()},
        "devices": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "processes": jax.process_count(),
            "total": jax.device_count(),
        },
        "git_commit": git.stdout.strip() or None,
        "command": "python -m jax_irkd.main " + shlex.join(sys.argv[1:]),
    }


def load(folder: str | Path, which: str = "last") -> tuple[Network, dict]:
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
    return make_model(
        ConfigDict(section),
        len(meta["class_names"]),
        meta["config"]["dtype"],
        input_offset=meta["input_offset"],
    )

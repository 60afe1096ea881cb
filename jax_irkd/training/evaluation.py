"""Trained networks and their scores on a split."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.host import failures, memory
from jax_irkd.host.terminal import Progress
from jax_irkd.training.parallel import (
    any_process,
    devices_of,
    gather_names,
    on_devices,
    replicate,
    split,
)
from jax_irkd.training.phase import Network
from jax_irkd.training.programs import Views, bind_evaluation, evaluation_batch


class Scores(NamedTuple):
    """Logits and labels of every clip of a split, in the split's order."""

    clip_ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


class Stopped(Exception):
    """An evaluation that was asked to stop before its last batch."""


def evaluate(
    network: Network,
    config: ConfigDict,
    reader: loading.ClipReader,
    asked: Callable[[], bool] = lambda: False,
) -> Scores:
    """Logits of every clip of `reader`, each once, in order.

    Of its centre crop and the centres of its segments, or the mean over the views in time and space
    that `eval.clips` and `eval.crops` ask for.

    Raises Stopped between two batches as soon as `asked` says so in any process.
    """
    memory.hand_back()  # what training has freed, and below what a compiler has
    devices = devices_of(config)
    total = len(devices) * jax.process_count()
    modality = reader.modalities[0]
    views = Views.of(config, modality)
    batch_size = evaluation_batch(config, views, total)
    sizes = config.input.resolution, config.input.eval_scale
    step = _eval_on(tuple(devices), network.model, modality, *sizes, views)
    batches = loading.evaluation_batches(
        reader,
        batch_size=batch_size // jax.process_count(),
        process=(jax.process_index(), jax.process_count()),
        threads=config.input.threads,
        views=views.clips,
    )
    parts, variables = [], replicate(network.variables, devices)
    quiet = jax.process_index() > 0
    with Progress(f"evaluate {modality}", len(reader.records), 0, "clips", quiet) as progress:
        for batch in batches:
            if any_process(asked()):
                raise Stopped
            names = gather_names(batch.pop("clip_id"))
            with failures.told(failures.OF_AN_EVALUATION):
                scores = jax.device_get(step(variables, split(batch, len(devices))))
            if not parts:
                memory.hand_back()
            parts.append(scores | {"clip_id": names})
            progress.update(min(len(parts) * batch_size, len(reader.records)))
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    kept = joined["mask"] > 0
    order = np.argsort(joined["index"][kept], kind="stable")
    return Scores(*(joined[key][kept][order] for key in ("clip_id", "label", "logits")))


@functools.lru_cache(maxsize=8)
def _eval_on(
    devices: tuple, model: nn.Module, modality: str, resolution: int, scale: float, views: Views
):
    step = bind_evaluation(model, modality, resolution, scale, views)
    return on_devices(step, devices, in_axes=(None, 0))

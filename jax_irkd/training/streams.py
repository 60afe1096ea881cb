"""The batches of a phase: pairs, or clips of its modality, and single clips beside pairs."""

from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from jax_irkd.data import loading, workers
from jax_irkd.host import processor

FEW = 4  # cores: with fewer, threads read as many clips


def batches(
    reader: loading.ClipReader,
    single: loading.ClipReader | None,
    config: ConfigDict,
    training: ConfigDict,
    first_step: int = 0,
    balanced: tuple[list[int] | None, list[int] | None] = (None, None),
) -> Iterator[loading.Batch]:
    """This process's share of every step's clips, from `first_step` on, for ever.

    `batch_size` clips of `reader` a step over all processes; where there is a reader of `single`
    clips, `extra_clips` of them lie in the entry `extra`. `clip_id` has the names of all. With
    labels in `balanced`, of the one and the other, every class comes equally often.
    """
    count = jax.process_count()
    options = {"first_step": first_step, "process": (jax.process_index(), count)}
    options["threads"] = config.input.threads
    own = loading.training_batches(
        reader,
        seed=config.seed,
        batch_size=training.batch_size // count,
        balanced=balanced[0],
        processes=processes(config),
        **options,
    )
    if single is None:
        yield from own
        return
    others = loading.training_batches(
        single,
        seed=(config.seed + 1) % 2**32,
        batch_size=training.extra_clips // count,
        balanced=balanced[1],
        **options,
    )
    for batch, extra in zip(own, others):
        names = np.concatenate([batch.pop("clip_id"), extra.pop("clip_id")])
        yield batch | {"extra": extra, "clip_id": names}


def processes(config: ConfigDict) -> int:
    """How many processes read the clips of a step; 0: threads of this one do.

    With `input.readers` auto threads do on CPUs, where the network is slower than they are.
    """
    wanted = config.input.readers
    if wanted == "auto":
        quick = jax.default_backend() != "cpu" and processor.cores() >= FEW
        wanted = "processes" if quick and workers.can_start() else "threads"
    return processor.threads(config.input.threads) if wanted == "processes" else 0

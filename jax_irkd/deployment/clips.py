"""Clips of a run's data set, or of rendered films, for what is measured on an exported network."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.data.frames import fit
from jax_irkd.data.sampling import frame_indices, segment_positions
from jax_irkd.data.spec import InputSpec
from jax_irkd.data.synthetic import staging
from jax_irkd.training.setup import make_reader, open_data

RENDERED = 10
PADDING, UNKNOWN = -2, -1  # labels of what is no clip, and of clips of no class of the run


class SplitClips(NamedTuple):
    """What the clips are, and batches of uint8 clips `b t h w c` with their labels."""

    name: str
    batches: Iterator[tuple[np.ndarray, np.ndarray]]


def of_split(meta: Mapping[str, Any], split: str) -> SplitClips:
    """Every clip of a run's train, validation or test split under the test protocol.

    Raises UserError where its data set is not built or has no such split.
    """
    config, modality, name, reader = _opened(meta, split)

    def batches():
        size = min(config.input.eval_batch_size, len(reader.records))
        for batch in loading.evaluation_batches(reader, batch_size=size, threads=2):
            yield batch["clips"][modality], np.where(batch["mask"] > 0, batch["label"], PADDING)

    return SplitClips(name, batches())


def evenly(meta: Mapping[str, Any], split: str, count: int) -> SplitClips:
    """At most `count` clips, spread evenly over a split, one at a time. Raises as `of_split`."""
    _, modality, name, reader = _opened(meta, split)
    total = len(reader.records)
    places = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))

    def batches():
        for place in places:
            clip = reader.centre(int(place))
            if clip["mask"] > 0:  # what cannot be read is black, and nobody's example
                yield clip["clips"][modality][None], np.array([clip["label"]])

    return SplitClips(name, batches())


def _opened(meta: Mapping[str, Any], split: str):
    config, modality = ConfigDict(meta["config"]), meta["modality"]
    dataset = open_data(config)
    name = f"{split} split of {dataset.name} ({config.protocol})"
    return config, modality, name, make_reader(config, dataset, split, (modality,))


def staged(
    clip: staging.ClipNumbers, spec: InputSpec, *, seed: int, people: bool = True
) -> UInt8[np.ndarray, "t h w c"]:
    """The film of a generated clip as a network reads it."""
    rgb, infrared = staging.film(clip, seed, people=people)
    film = rgb if spec.modality == "rgb" else infrared
    chosen = frame_indices(segment_positions(spec.num_segments), len(film))
    return np.stack([fit(film[i], spec.size) for i in chosen]).reshape(spec.shape)


def rendered(spec: InputSpec) -> SplitClips:
    """One clip of each of ten generated actions."""

    def batches():
        for action in range(1, RENDERED + 1):
            clip = staged(staging.ClipNumbers(1, 2, action, 1, action), spec, seed=0)
            yield clip[None], np.array([UNKNOWN])

    return SplitClips(f"{RENDERED} rendered clips (agreement only)", batches())

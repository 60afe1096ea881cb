"""Class probabilities of a video's overlapping windows.

A clip's logits are the mean of its frames' (TSN), so that a frame which several windows share has
to be looked at only once. A network whose segments see each other (`temporal`) gets whole windows.
"""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from jax_irkd.data import augment
from jax_irkd.models.tsn import TSN
from jax_irkd.training.evaluation import Network
from jax_irkd.video import windows

Score = Callable[[UInt8[np.ndarray, "b t h w c"]], Float[jax.Array, "b k"]]


class Scores(NamedTuple):
    """Probabilities of windows and the frames [start, stop) of each, in order."""

    probabilities: Float[np.ndarray, "w k"]
    spans: Int[np.ndarray, "w 2"]


def make_watch(
    network: Network, config: ConfigDict, modality: str
) -> Callable[[Iterable[windows.Window]], Scores]:
    """A function from a video's windows to their scores, by what the network allows."""
    size = config.input.eval_batch_size
    if isinstance(network.model, TSN) and network.model.temporal == "none":
        logits = make_logits(network, config, modality)
        return functools.partial(
            frame_scores, logits=logits, batch_size=size * config.input.num_segments
        )
    return functools.partial(
        window_scores, score=make_score(network, config, modality), batch_size=size
    )


def make_logits(network: Network, config: ConfigDict, modality: str) -> Score:
    """Logits of a batch of uint8 clips under the centre crop of the test protocol.

    Compiled once for each shape.
    """
    prepare = functools.partial(
        augment.prepare_evaluation,
        resolution=config.input.resolution,
        scale=config.input.eval_scale,
    )

    @jax.jit
    def logits(variables, clips):
        ready = prepare({modality: clips})[modality]
        return network.model.apply(variables, ready, train=False).logits.astype(jnp.float32)

    return functools.partial(logits, jax.device_put(network.variables, jax.local_devices()[0]))


def make_score(network: Network, config: ConfigDict, modality: str) -> Score:
    """`make_logits` as probabilities."""
    logits = make_logits(network, config, modality)
    return lambda clips: jax.nn.softmax(logits(clips))


def window_scores(windows: Iterable[windows.Window], score: Score, batch_size: int) -> Scores:
    """Each window as a clip of its own.

    The last batch is padded and the padding's scores are dropped. At most two batches of frames
    are held: one is decoded while the one before is being classified.
    """
    spans = []

    def clips():
        for window in windows:
            spans.append((window.start, window.stop))
            yield window.frames

    parts = list(_in_batches(clips(), score, batch_size))
    return Scores(np.concatenate(parts), np.array(spans)) if parts else _nothing()


def frame_scores(windows: Iterable[windows.Window], logits: Score, batch_size: int) -> Scores:
    """Each frame once, `batch_size` of them at a time, in however many windows it is.

        p(window) = softmax(mean_t logits(frame_t))

    The same as `window_scores` for a network whose segments do not see each other. `logits` gets
    clips of one segment. Of a video the logits of its frames are held, and two batches of frames.
    """
    spans, members, place = [], [], {}

    def frames():
        for window in windows:
            spans.append((window.start, window.stop))
            members.append([])
            for index, frame in zip(window.indices, window.frames, strict=True):
                new = index not in place
                members[-1].append(place.setdefault(index, len(place)))
                if new:
                    yield frame[None]

    parts = list(_in_batches(frames(), logits, batch_size))
    if not parts:
        return _nothing()
    means = np.concatenate(parts)[np.array(members)].mean(axis=1)
    return Scores(np.asarray(jax.nn.softmax(means)), np.array(spans))


def _in_batches(clips: Iterable[np.ndarray], compute: Score, batch_size: int):
    """Results of `compute`, batch by batch; one is computed while the next one is made."""
    clips, pending, count = iter(clips), None, 0
    while group := list(itertools.islice(clips, batch_size)):
        batch = np.zeros((batch_size, *group[0].shape), np.uint8)
        batch[: len(group)] = group
        if pending is not None:
            yield np.asarray(pending)
        pending, count = compute(batch), len(group)
    if pending is not None:
        yield np.asarray(pending)[:count]


def _nothing() -> Scores:
    return Scores(np.zeros((0, 0), np.float32), np.zeros((0, 2), np.int64))

"""A run's network and the test protocol, applied to a video's overlapping windows."""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jax_irkd.data import augment
from jax_irkd.data.spec import CHANNELS
from jax_irkd.detection.consensus import Frames, Score, WindowScores, scores
from jax_irkd.models.tsn import frame_logits, no_past, streams
from jax_irkd.training.evaluation import Network
from jax_irkd.video.windows import Window


def make_watch(
    network: Network, config: ConfigDict, modality: str
) -> Callable[[Iterable[Window]], WindowScores]:
    """A function from a video's windows to their scores, by what the network allows."""
    size, segments = config.input.eval_batch_size, config.input.num_segments
    return functools.partial(
        scores,
        score=make_score(network, config, modality),
        frames=make_frames(network, config, modality),
        batch_size=size,
        frames_at_once=size * segments,
    )


def make_score(network: Network, config: ConfigDict, modality: str) -> Score:
    """Probabilities of a batch of uint8 clips under the centre crop of the test protocol.

    Compiled once for each shape.
    """

    @jax.jit
    def score(variables, clips):
        ready = _prepare(clips, config, modality)
        logits = network.model.apply(variables, ready, train=False).logits
        return jax.nn.softmax(logits.astype(jnp.float32))

    return functools.partial(score, jax.device_put(network.variables, jax.local_devices()[0]))


def make_frames(network: Network, config: ConfigDict, modality: str) -> Frames | None:
    """The frames of `make_score`'s clips one after the other, where the network allows that."""
    model = network.model
    if not streams(model):
        return None

    @jax.jit
    def step(variables, frames, past):
        ready = _prepare(frames[:, None], config, modality)[:, 0]
        return frame_logits(model, variables, ready, past)

    variables = jax.device_put(network.variables, jax.local_devices()[0])
    side = config.input.resolution
    start = no_past(model, (side, side, CHANNELS[modality]))
    return Frames(functools.partial(step, variables), start)


def _prepare(clips, config: ConfigDict, modality: str):
    chosen = config.input
    sizes = {"resolution": chosen.resolution, "scale": chosen.eval_scale}
    return augment.prepare_evaluation({modality: clips}, **sizes)[modality]

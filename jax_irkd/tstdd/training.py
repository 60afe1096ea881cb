"""Training the network of one stream, epoch by epoch, from wherever an earlier call stopped."""

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jax_irkd.errors import UserError
from jax_irkd.host import processor
from jax_irkd.host.interrupts import Interrupted, StopRequest
from jax_irkd.host.terminal import Progress
from jax_irkd.reporting.wording import percent
from jax_irkd.training import objective
from jax_irkd.training.checkpoints import Checkpoints
from jax_irkd.training.logs import CHECKPOINTS, RunLog
from jax_irkd.training.optimizers import make_optimizer
from jax_irkd.training.window import LogWindow
from jax_irkd.tstdd import pictures
from jax_irkd.tstdd.flow import FlowCache
from jax_irkd.tstdd.network import StreamNet, tube_descriptors
from jax_irkd.tstdd.pictures import STREAMS, LabelledClip


class _State(NamedTuple):
    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree


class TrainedStream(NamedTuple):
    """A trained stream: its name, network and variables."""

    name: str
    model: StreamNet
    variables: PyTree


def stored_flow(cache: FlowCache, clip: LabelledClip) -> np.ndarray:
    """The kept flow of a clip. Raises UserError when it has gone since it was computed."""
    flow = cache.read(clip.clip_id)
    if flow is None:
        raise UserError(
            f"the flow of clip {clip.clip_id} is gone from {cache.folder}; run again to compute it"
        )
    return flow


def steps_of(training: ConfigDict, clips: int) -> tuple[int, int]:
    """Steps per epoch and in all."""
    per_epoch = max(clips // training.batch_size, 1)
    return per_epoch, max(round(training.num_epochs * per_epoch), 1)


class StreamTrainer:
    """One stream in FOLDER/streams/NAME; one picture of every clip an epoch, saved after each."""

    def __init__(
        self,
        name: str,
        clips: Sequence[LabelledClip],
        cache: FlowCache,
        config: ConfigDict,
        num_classes: int,
        folder: Path,
    ):
        self.name, self.clips, self.cache, self.folder = name, clips, cache, folder
        self.section, self.config = config.tstdd, config
        training = config.tstdd.training
        self.batch_size = min(training.batch_size, len(clips))
        self.per_epoch, self.num_steps = steps_of(training, len(clips))
        self.tx, self.schedule = make_optimizer(training, self.num_steps, self.per_epoch)
        self.model = StreamNet(num_classes, self.section.width, self.section.dropout)
        self.seed = (config.seed, STREAMS.index(name))
        self.key = jax.random.fold_in(jax.random.key(self.seed[0]), self.seed[1])

    def run(self, stop: StopRequest) -> TrainedStream:
        """Train to the end. Raises Interrupted, with the step saved, once `stop` was requested."""
        state = self._initial()
        folder = self.folder / "streams" / self.name / CHECKPOINTS
        with Checkpoints(folder, latest=1) as self.checkpoints:
            restored = self.checkpoints.restore(state)
            state, meta = restored or (state, {})
            self._window, self._unseen = LogWindow(meta.get("window")), []
            if int(state.step) < self.num_steps:
                state = self._train(state, stop)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        return TrainedStream(self.name, self.model, variables)

    def _initial(self) -> _State:
        side = self.section.resolution
        shape = (1, side, side, pictures.channels(self.name, self.section.stack))
        init = functools.partial(self.model.init, train=False)
        init = jax.jit(init, compiler_options={"xla_backend_optimization_level": 1})  # runs once
        variables = init(self.key, jnp.zeros(shape))
        params, zero = variables["params"], jnp.zeros((), jnp.int32)
        return _State(zero, params, variables["batch_stats"], self.tx.init(params))

    def _train(self, state: _State, stop: StopRequest) -> _State:
        first = int(state.step)
        # Every stream continues the steps of the one before it in the common log.
        before = self.seed[1] * self.num_steps
        update = functools.partial(_update, model=self.model, tx=self.tx)
        update = jax.jit(update, donate_argnums=0)
        with (
            contextlib.closing(self._log(before + first)) as log,
            ThreadPoolExecutor(processor.threads(self.config.input.threads)) as pool,
            Progress(f"train {self.name} stream", self.num_steps, first) as progress,
        ):
            for step, batch in enumerate(self._batches(first, pool), first + 1):
                state, terms = update(state, *batch)
                self._unseen.append(terms)
                if step % self.config.log_every == 0 or step == self.num_steps:
                    self._observe(log, before, step, progress)
                asked = stop.requested and step < self.num_steps
                if asked or step % self.per_epoch == 0 or step == self.num_steps:
                    self._fetch()
                    meta = {"stream": self.name, "window": self._window.saved}
                    self.checkpoints.save(step, jax.device_get(state), meta)
                if asked:
                    self.checkpoints.wait()
                    raise Interrupted(
                        f"{stop.requested}: saved step {step} of {self.num_steps} of the "
                        f"{self.name} stream in {self.folder}; run the same command again to "
                        "continue"
                    )
        return state

    def _batches(self, first: int, pool: Executor) -> Iterator[tuple]:
        """Pictures, labels and key of every step from `first` on, the next batch under way already.

        Each epoch is a permutation of the clips; what is left over sits out.
        """

        def one(index, epoch):
            flow = stored_flow(self.cache, self.clips[index])
            return pictures.draw(self.name, flow, self.section, [*self.seed, epoch, index])

        def start(step):
            epoch, place = divmod(step, self.per_epoch)
            order = np.random.default_rng([*self.seed, epoch]).permutation(len(self.clips))
            chosen = order[place * self.batch_size : (place + 1) * self.batch_size].tolist()
            return chosen, [pool.submit(one, index, epoch) for index in chosen]

        pending = start(first)
        for step in range(first, self.num_steps):
            chosen, futures = pending
            if step + 1 < self.num_steps:
                pending = start(step + 1)
            images = np.stack([future.result() for future in futures])
            yield images, np.array([self.clips[i].label for i in chosen], np.int32), self.key

    def _log(self, first: int) -> RunLog:
        facts = {"name": "tstdd", "config": json.loads(self.config.to_json_best_effort())}
        return RunLog(self.folder, first, loggers=self.config.loggers, facts=facts)

    def _fetch(self) -> dict[str, float]:
        """Count the terms of all steps so far; those of the last."""
        values: dict[str, float] = {}
        for terms in jax.device_get(self._unseen):
            values = {key: float(value) for key, value in terms.items()}
            self._window.add(values)
        self._unseen = []
        return values

    def _observe(self, log: RunLog, before: int, step: int, progress: Progress) -> None:
        values = self._window.close(self._fetch())
        scalars = {f"{self.name}_{key}": value for key, value in values.items()}
        rate = float(self.schedule(step - 1))
        log.write(before + step, "train", scalars | {"learning_rate": rate})
        accuracy = percent(values["accuracy"], 0)
        progress.update(step, f"loss {values['loss']:.3f}  accuracy {accuracy}")


def _update(state: _State, images, labels, key, *, model: StreamNet, tx):
    def loss_fn(params):
        outputs, changed = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            rngs={"dropout": jax.random.fold_in(key, state.step)},
            mutable=["batch_stats"],
        )
        loss = objective.cross_entropy(outputs.logits, labels)
        accuracy = jnp.mean(outputs.logits.argmax(-1) == labels)
        return loss, (changed["batch_stats"], {"loss": loss, "accuracy": accuracy})

    gradients, (batch_stats, terms) = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return _State(state.step + 1, params, batch_stats, opt_state), terms


class Describer:
    """Descriptors of clips from the maps of a trained stream.

    Pictures go through the network in batches of a power of two, so that it is compiled a few
    times only.
    """

    def __init__(self, stream: TrainedStream, cache: FlowCache, config: ConfigDict):
        self.stream, self.cache, self.section = stream, cache, config.tstdd
        self.layers = tuple(config.tstdd.layers)
        self.largest = config.input.eval_batch_size

        def maps(variables, images):
            features = stream.model.apply(variables, images, train=False).features
            return {layer: features[layer] for layer in self.layers}

        self._maps = jax.jit(maps)

    def __call__(self, clip: LabelledClip) -> dict[str, np.ndarray]:
        """Tube descriptors of each layer, `n f`."""
        section, flow = self.section, stored_flow(self.cache, clip)
        starts = pictures.moments(len(flow), section.stack, section.stride)
        images = pictures.make(self.stream.name, flow, section, starts)
        images = pictures.crop(images, section.resolution)
        maps = self._forward(images.astype(np.float32))
        length = max(round(section.tube / section.stride), 1)
        return {layer: tube_descriptors(found, length) for layer, found in maps.items()}

    def _forward(self, images: np.ndarray) -> dict[str, np.ndarray]:
        parts = []
        for first in range(0, len(images), self.largest):
            part = images[first : first + self.largest]
            size = 1 << (len(part) - 1).bit_length()
            padded = np.pad(part, [(0, size - len(part)), (0, 0), (0, 0), (0, 0)])
            found = jax.device_get(self._maps(self.stream.variables, padded))
            parts.append({layer: value[: len(part)] for layer, value in found.items()})
        return {layer: np.concatenate([part[layer] for part in parts]) for layer in self.layers}

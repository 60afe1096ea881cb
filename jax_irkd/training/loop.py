"""The loop of both phases: restore, update, log, evaluate, save.

A phase without distillers trains a network alone (the teacher on RGB, the baseline on infrared);
with distillers a student learns from a frozen teacher.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.data.spec import ROLES
from jax_irkd.errors import UserError
from jax_irkd.host import failures, memory
from jax_irkd.host.interrupts import Interrupted, StopRequest
from jax_irkd.host.terminal import Progress, console
from jax_irkd.models.folding import without_norms
from jax_irkd.training import balance, imbalance, setup, steps, streams
from jax_irkd.training.checkpoints import Checkpoints
from jax_irkd.training.divergence import Divergence
from jax_irkd.training.evaluation import Scores, Stopped, evaluate
from jax_irkd.training.examining import Examiner
from jax_irkd.training.logs import CHECKPOINTS, RunLog
from jax_irkd.training.optimizers import make_optimizer
from jax_irkd.training.parallel import devices_of, on_devices, placed, replicate
from jax_irkd.training.phase import Network, Phase
from jax_irkd.training.profiling import Clock, StepTrace
from jax_irkd.training.programs import bind_update, fresh_state
from jax_irkd.training.window import LogWindow


class Trainer:
    """One phase in one folder: `run` trains to the end, from wherever an earlier call stopped.

    With `profile` a trace of a few steps is written into `folder`/profile.
    """

    def __init__(
        self,
        phase: Phase,
        config: ConfigDict,
        dataset: loading.Dataset,
        folder: Path,
        profile: bool = False,
    ):
        self.phase, self.config, self.folder = phase, config, Path(folder)
        self.profile, training = profile, phase.training
        self.reader = setup.make_reader(config, dataset, "train", phase.modalities)
        self.clock, self._stop = Clock(), StopRequest()
        asked = self._stop.is_asked
        self.examiner = Examiner(config, dataset, phase.modality, training.patience, asked)
        self._against = imbalance.measures(config, dataset, phase)
        self._single = (
            setup.make_single_reader(config, dataset, training) if phase.distillers else None
        )
        self.devices = devices_of(config, training.batch_size, training.accumulation)
        self.steps_per_epoch, self.num_steps = setup.lengths(training, len(self.reader.records))
        self.eval_every = max(round(training.eval_every * self.steps_per_epoch), 1)
        self.tx, self.schedule = make_optimizer(
            training,
            self.num_steps,
            self.steps_per_epoch,
            getattr(phase.model, "partial_bn", False),
            getattr(phase.model, "frozen", "none"),
        )
        self.meta = {
            "name": phase.name,
            "modality": phase.modality,
            "class_names": list(dataset.class_names),
            "range": dataset.range,
            "input_offset": getattr(phase.model, "input_offset", False),
            "dataset": dataset.fingerprint,
            "generated": dataset.generated,
            "config": json.loads(config.to_json_best_effort()),
            "computed_in": setup.computed_in(config.dtype),
        }
        self.last = 0  # the step after which training ended
        compared = training.batch_size // training.accumulation  # gathered over the devices
        self._watch = balance.PullWatch(phase.distillers, phase.shares, self.num_steps, compared)
        self._divergence = Divergence(self.folder, config.max_rejected)

    def run(self) -> tuple[Network, Scores]:
        """Train; the network after the last step and its scores on the test split.

        Raises Interrupted after a signal, with the state saved, and UserError when updates keep
        being rejected because they are not finite, the last checkpoint could not be written or
        the device fails in a way that something helps against.
        """
        role, total = ROLES[self.phase.modality], len(self.devices) * jax.process_count()
        with failures.told(setup.too_little_memory(self.config, role, total)):
            return self._run()

    def _run(self) -> tuple[Network, Scores]:
        memory.hand_back()  # of an earlier phase
        keep = self.config.checkpoints
        folder = self.folder / CHECKPOINTS
        metric = self.examiner.metric
        with Checkpoints(
            folder, latest=keep.latest, best=keep.best, metric=metric
        ) as self.checkpoints:
            try:
                state = self._initial_state()
            except ValueError as error:  # a distiller's option that does not fit this model
                raise UserError(str(error).splitlines()[0]) from error
            # Older checkpoints know no balance: it is measured anew.
            restored = self.checkpoints.restore(state, fresh="balance")
            state, meta = restored or (state, {})
            self._window = LogWindow(meta.get("window"))
            self.last = int(state.step)
            self._resume(meta)
            if not self._is_done():
                state = self._train(state, self.last)
                self.last = int(state.step)
                self._check_saved(self.last)
        network = self._network(state)
        test = self.examiner.test
        return network, self.examiner.scores or evaluate(network, self.config, test)

    def _resume(self, meta: Mapping) -> None:
        """Take up what a checkpoint says of the evaluations up to its step."""
        self.examiner.resume(meta)
        here = self.meta["computed_in"]
        if self.last and (before := meta.get("computed_in", here)) != here:
            text = f"warning: computed in {before} up to step {self.last}, from here on in {here}"
            console.print(f"{text} (dtype=auto goes by the machine)", highlight=False)
        if self.last and (figures := self.checkpoints.figures(self.last)):
            self.examiner.count(self.last, figures)

    def _is_unexamined(self, step: int) -> bool:  # the process ended before its evaluation did
        return bool(step) and self._is_milestone(step) and not self.checkpoints.is_scored(step)

    def _is_done(self) -> bool:
        ended = self.last >= self.num_steps or self.examiner.is_out_of_patience
        return ended and not self._is_unexamined(self.last)

    def _initial_state(self) -> steps.TrainState:
        phase = self.phase
        state = fresh_state(self.config, phase, self.tx)
        if phase.pretrained is None:
            return state
        variables = phase.pretrained(self._network(state).variables)
        state.params["model"] = variables["params"]
        state.batch_stats["model"] = variables["batch_stats"]
        return state._replace(ema=jax.tree.map(jnp.copy, variables["params"]) if state.ema else {})

    def _network(self, state: steps.TrainState, ema: bool = False) -> Network:
        params = state.ema if ema else state.params["model"]
        return Network(
            self.phase.model, {"params": params, "batch_stats": state.batch_stats["model"]}
        )

    def make_update(self, teacher: nn.Module | None, measure: bool = False):
        """One step on all devices; with `measure` it takes the gradients of the terms apart."""
        update = bind_update(
            self.config,
            self.phase,
            teacher_model=teacher,
            tx=self.tx,
            schedule=self.schedule,
            steps_per_epoch=self.steps_per_epoch,
            measure=measure,
            class_weights=self._against.weights,
        )
        return on_devices(update, self.devices, in_axes=(None, None, 0, 0), donate=(0,))

    def _batches(self, first: int) -> Iterator[tuple[list[str], loading.Batch]]:
        training, labels = self.phase.training, self._against[1:]
        read = streams.batches(self.reader, self._single, self.config, training, first, labels)
        return placed(read, self.devices)

    def _train(self, state: steps.TrainState, first: int) -> steps.TrainState:
        teacher, variables = without_norms(*(self.phase.teacher or (None, None)))
        updates = {measure: self.make_update(teacher, measure) for measure in (False, True)}
        compiled: set[bool] = set()
        # The state too: the first step would compile for one device, the second for all again.
        state, variables = replicate((state, variables), self.devices)
        batches = self._batches(first)
        writes = jax.process_index() == 0
        unexamined = self._is_unexamined(first)
        about = (first, not unexamined, self.config.loggers, self.meta)
        trace = StepTrace(
            self.folder / "profile", first, self.num_steps, wanted=self.profile and writes
        )
        self.log = RunLog(self.folder, *about) if writes else None
        self.clock.begin(first)
        # Only there has XLA ended the process: on GPUs and TPUs, at what it cannot compile.
        watched = self._watched = writes and jax.default_backend() != "cpu"
        if writes and (told := failures.last_time(self.folder)):
            console.print(told, highlight=False)
        pending = None
        title = f"train {self.phase.name} ({self.phase.modality})"
        bar = Progress(title, self.num_steps, first, quiet=not writes)
        closing = contextlib.closing(self.log) if self.log else contextlib.nullcontext()
        reading = contextlib.closing(batches)  # in other threads or processes
        with closing, reading, self._stop as stop, bar as self.progress, trace:
            if unexamined:
                self._save_and_evaluate(first, state)
            for step in range(first + 1, self.num_steps + 1):
                if self.examiner.is_out_of_patience:
                    break
                trace.before(step)
                with jax.profiler.StepTraceAnnotation(self.phase.name, step_num=step):
                    batch = self._next(batches, step)
                    asked = np.full((len(self.devices), 1), stop.requested is not None)
                    measure = balance.is_due(step, len(self.phase.distillers))
                    compiles = measure not in compiled
                    compiled.add(measure)
                    with (
                        self.clock.timed("start" if compiles else "steps"),
                        failures.compiling(self.folder, watched and compiles),
                    ):
                        state, terms = updates[measure](state, variables, batch, asked)
                # Terms are fetched one step late, so that the device never waits for the host,
                # and before their step is saved, so that a crash loses none of them.
                told = self._observe(pending)
                alone = jax.process_count() == 1
                stopping = (stop.requested is not None) if alone else told
                pending = (step, terms)
                if stopping or self._is_milestone(step) or self._is_saved(step):
                    stopping |= self._observe(pending)
                    pending = None
                self._log_time(step, compiles)
                if stopping and step < self.num_steps:
                    self._save(step, state)
                    raise Interrupted(self._resume_hint(step, stop.requested))
                self._save_and_evaluate(step, state)
                trace.after(step, state)
        self.clock.end()
        if writes:
            console.print(self.clock, highlight=False)
            if told := self._divergence.words():
                console.print(told, highlight=False)
            if self.examiner.is_out_of_patience:
                console.print(f"training ends early: {self.examiner}", highlight=False)
        return state

    def _next(self, batches: Iterator[tuple[list[str], loading.Batch]], step: int) -> loading.Batch:
        """The clips of `step`, cut for the devices; their names stay here."""
        with self.clock.timed("data"):
            names, batch = next(batches)
        self._divergence.read(step, names)
        return batch

    def _observe(self, pending: tuple[int, steps.Terms] | None) -> bool:
        """Log the terms of an earlier step. True when a process was asked to stop."""
        if pending is None:
            return False
        step, terms = pending[0], {k: float(v) for k, v in jax.device_get(pending[1]).items()}
        stop = terms.pop("stop") > 0
        warnings = self._watch.see(step, terms)
        for warning in warnings or () if self.log else ():
            console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
        due = step % self.config.log_every == 0 or step == self.num_steps
        line = self._window.line(terms, due)
        if self.log and line:
            self.log.write(step, "train", line)
        self.progress.update(step, _worded(terms))
        newest, writes = self.checkpoints.settled, jax.process_index() == 0
        self._divergence.see(step, int(terms["rejected"]), newest, writes)
        return stop

    def _log_time(self, step: int, compiled: bool) -> None:
        if compiled:
            memory.hand_back()
            self.clock.lap(step)  # no lap like the others
        elif self.log and step % self.config.log_every == 0:
            self.log.write(step, "time", self.clock.lap(step))

    def _is_milestone(self, step: int) -> bool:
        return step == self.num_steps or step % self.eval_every == 0

    def _is_saved(self, step: int) -> bool:
        return step % self.config.checkpoints.every == 0

    def _save_and_evaluate(self, step: int, state: steps.TrainState) -> None:
        """Save where it is time to, and before every evaluation: a kill in it loses no step."""
        milestone = self._is_milestone(step)
        due = (milestone or self._is_saved(step)) and step not in self.checkpoints.steps()
        if due and not self._divergence.rejected:  # nothing doubtful in a good one's place
            self._save(step, state)
        if not milestone:
            return
        try:
            with self.clock.timed("evaluation"):
                figures = self._evaluate(step, state)
        except Stopped:  # the next start evaluates this step
            if self._divergence.rejected:
                self._save(step, state)
            raise Interrupted(self._resume_hint(step, self._stop.requested)) from None
        if self._is_told() and not self.checkpoints.score(step, figures):
            self._save(step, state, figures)  # there may be space by now

    def _is_told(self) -> bool:
        """Whether the log is on disk: a checkpoint newer than it would leave a gap in it."""
        return not self.log or self.log.flush() or jax.process_count() > 1

    def _evaluate(self, step: int, state: steps.TrainState) -> dict[str, float]:
        averaged = self._network(state, ema=True) if state.ema else None
        with failures.compiling(self.folder, self._watched, speaks=False):  # the first time
            figures = self.examiner.examine(step, self._network(state), averaged)
        self._watched = False
        if self.log:
            self.log.write(step, "eval", figures)
        return figures

    def _save(
        self, step: int, state: steps.TrainState, figures: dict[str, float] | None = None
    ) -> None:
        if not self._is_told():
            return
        with self.clock.timed("checkpoints"):
            state = jax.device_get(state)
            kept = self.examiner.standing | {"step": step, "window": self._window.saved}
            self.checkpoints.save(step, state, self.meta | kept, figures)

    def _check_saved(self, last: int) -> None:
        if (newest := self.checkpoints.settled()) < last:
            raise UserError(
                f"the checkpoint of the last step, {last}, could not be written to "
                f"{self.folder}; free space there and run the same command again: it continues "
                f"after step {newest}"
            )

    def _resume_hint(self, step: int, signal_name: str | None) -> str:
        newest = self.checkpoints.settled()
        lost = "" if newest == step else f" (step {step} could not be saved)"
        asked = signal_name or "a signal to another process"
        return (
            f"{asked}: saved step {newest} of {self.num_steps} in {self.folder}{lost}; "
            "run the same command again to continue"
        )


def _worded(terms: Mapping[str, float]) -> str:
    hidden = ("gradient_norm", "rejected", "learning_rate")
    shown = {k: v for k, v in terms.items() if k not in hidden and "/" not in k}
    return "  ".join(
        f"{k} {100 * v:.0f} %" if k == "accuracy" else f"{k} {v:.3f}" for k, v in shown.items()
    )

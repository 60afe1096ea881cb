"""Where a run's time goes: seconds by activity, and on demand a trace of a few steps."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from jaxtyping import PyTree

from jax_irkd.errors import UserError

ACTIVITIES = ("start", "data", "steps", "evaluation", "checkpoints")
TRACED = (5, 8)  # steps after a start: what comes before compiles or meets cold caches


class Clock:
    """Seconds that a phase has spent on each of `ACTIVITIES`, of this start only.

    `start` is the first step of all, which compiles; `data` waiting for clips, `steps` what none
    of the others took. On a GPU the host waits while the device works, so `data` is the most that
    the device can have stood idle because clips were not read. Copies to it are not in `data`: the
    device waits for them inside a step.
    """

    def __init__(self):
        self.seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._begun: float | None = None

    def begin(self, step: int) -> None:
        """The loop begins, after `step` steps."""
        self._begun = time.monotonic()
        self._step, self._before = step, dict(self.seconds)

    @contextlib.contextmanager
    def timed(self, activity: str) -> Iterator[None]:
        """Count a block as `activity`, and name it in a trace."""
        start = time.monotonic()
        with jax.profiler.TraceAnnotation(activity):
            yield
        self.seconds[activity] += time.monotonic() - start

    def lap(self, step: int) -> dict[str, float]:
        """Steps per second and milliseconds a step by activity, since the lap before."""
        self._settle()
        count = max(step - self._step, 1)
        spent = {name: self.seconds[name] - self._before[name] for name in ACTIVITIES}
        speed = count / max(sum(spent.values()), 1e-9)
        self._step, self._before = step, dict(self.seconds)
        shown = {f"ms/{name}": 1e3 * taken / count for name, taken in spent.items() if taken}
        return {"steps_per_s": speed} | shown

    def _settle(self) -> None:
        """Give to the steps what the other activities have left over."""
        if self._begun is not None:
            others = sum(taken for name, taken in self.seconds.items() if name != "steps")
            self.seconds["steps"] = max(time.monotonic() - self._begun - others, 0.0)

    def end(self) -> None:
        """The loop has ended: what is timed from here on is not a step."""
        self._settle()
        self._begun = None

    def data_share(self) -> float:
        """The part of the time between first and last step that went into waiting for clips."""
        return self.seconds["data"] / max(self.seconds["data"] + self.seconds["steps"], 1e-9)

    def __str__(self) -> str:
        total = max(sum(self.seconds.values()), 1e-9)
        ranked = sorted(self.seconds.items(), key=lambda item: -item[1])
        return "time: " + ", ".join(f"{taken / total:.0%} {name}" for name, taken in ranked)


class StepTrace:
    """A `jax.profiler` trace of steps 5 to 8 after a start, in `folder`; nothing without `wanted`.

    TensorBoard shows it with the plugin xprof; ui.perfetto.dev opens `perfetto_trace.json.gz`.

    Raises UserError when fewer steps are left and when the profiler cannot be used.
    """

    def __init__(self, folder: Path, done: int, total: int, *, wanted: bool):
        self._folder, self._running = folder, False
        self._first, self._last = (done + step for step in TRACED) if wanted else (-1, -1)
        if wanted and self._last > total:
            raise UserError(
                f"--profile traces steps {TRACED[0]} to {TRACED[1]} after a start, but of the "
                f"{total} steps of this phase only {total - done} are left; raise num_epochs of "
                "its training, or leave the flag out"
            )

    def __enter__(self) -> "StepTrace":
        return self

    def before(self, step: int) -> None:
        """Start to trace when `step` is the first one wanted."""
        if step == self._first:
            with _as_user_error(self._folder):
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0  # every Python call: slow, and nothing to see in
                jax.profiler.start_trace(
                    self._folder, create_perfetto_trace=True, profiler_options=options
                )
            self._running = True

    def after(self, step: int, state: PyTree) -> None:
        """Wait for the `state` of the last step wanted and write the trace."""
        if step == self._last:
            jax.block_until_ready(state)
            self._stop()
            print(f"profile: steps {self._first} to {step} are in {self._folder}", flush=True)

    def _stop(self) -> None:
        self._running = False
        with _as_user_error(self._folder):
            jax.profiler.stop_trace()

    def __exit__(self, *error) -> None:
        if self._running:  # the run ends early; what was seen is kept
            self._stop()


@contextlib.contextmanager
def _as_user_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"no profile can be written to {folder}: {reason}; leave --profile out, or use "
            "another --workdir"
        ) from error

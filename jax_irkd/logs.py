"""What a run writes while it runs: metrics.jsonl, TensorBoard events and a progress bar."""

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rich.progress
from jaxtyping import UInt8
from rich.console import Console
from tensorboardX import SummaryWriter

console = Console()


class RunLog:
    """Scalars by step, each step once however often the run was interrupted.

    `metrics.jsonl` is the record: lines later than `first_step` belong to steps that will be run
    again and are dropped. TensorBoard events are written anew from it.
    """

    def __init__(self, folder: Path, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        lines = [line for line in read_log(folder) if line["step"] <= first_step]
        temporary = self._path.with_suffix(".partial")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
        temporary.replace(self._path)
        self._file = self._path.open("a")
        for events in folder.glob("tensorboard/events.out.tfevents.*"):
            events.unlink()
        self._writer = SummaryWriter(str(folder / "tensorboard"), flush_secs=30)
        for line in lines:
            self._to_tensorboard(line)

    def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Append a line of `kind` train, eval or note; NaN and infinity become null."""
        finite = {k: float(v) if math.isfinite(v) else None for k, v in scalars.items()}
        line = {"step": step, "kind": kind, "time": round(time.time(), 3)} | finite
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._to_tensorboard(line)

    def _to_tensorboard(self, line: Mapping) -> None:
        for name, value in line.items():
            if name not in ("step", "kind", "time") and value is not None:
                tag = f"{line['kind']}/{name}"
                self._writer.add_scalar(tag, value, line["step"], walltime=line["time"])

    def close(self) -> None:
        self._file.close()
        self._writer.close()


def write_pictures(
    folder: Path, pictures: Mapping[str, UInt8[np.ndarray, "h w c"]], step: int
) -> None:
    """Show pictures in TensorBoard, by tag, in place of those that an earlier call wrote.

    They lie in an events file of their own: the log is closed when there is something to see.
    """
    events = folder / "tensorboard"
    for earlier in events.glob("events.out.tfevents.*.pictures"):
        earlier.unlink()
    with contextlib.closing(SummaryWriter(str(events), filename_suffix=".pictures")) as writer:
        for tag, picture in pictures.items():
            writer.add_image(tag, picture, step, dataformats="HWC")


def read_log(folder: Path) -> list[dict]:
    """The lines of `folder`/metrics.jsonl; a last line cut short by a crash is dropped."""
    path = Path(folder) / "metrics.jsonl"
    lines = []
    for text in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


class Progress:
    """A bar with rate, ETA and the latest numbers; without a terminal a line every ten seconds."""

    def __init__(
        self, title: str, total: int, first: int = 0, unit: str = "steps", quiet: bool = False
    ):
        self._title, self._total, self._unit, self._quiet = title, total, unit, quiet
        self._first, self._start, self._printed = first, time.monotonic(), time.monotonic()
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[text]}"),
        )
        self._bar = (
            rich.progress.Progress(*columns, console=console)
            if console.is_terminal and not quiet
            else None
        )
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, completed=first, rate="", text="")

    def update(self, done: int, text: str = "") -> None:
        """Show that `done` of the total are done, with `text` behind."""
        now = time.monotonic()
        speed = (done - self._first) / max(now - self._start, 1e-9)
        rate = f"{speed:.3g} {self._unit}/s"
        if self._bar:
            self._bar.update(self._task, completed=done, rate=rate, text=text)
        elif not self._quiet and (now - self._printed > 10 or done == self._total):
            self._printed = now
            left = (self._total - done) / max(speed, 1e-9)
            eta = f"{left // 60:.0f}:{left % 60:02.0f}"
            print(f"{self._title}: {done}/{self._total}  {rate}  ETA {eta}  {text}", flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self._bar:
            self._bar.stop()

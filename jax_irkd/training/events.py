"""TensorBoard's events, written at once.

tensorboardX's own SummaryWriter hands them to a thread through a bounded queue. When the disk is
full the thread dies, the queue fills up, and training would wait in it for ever.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """An import in the block finds no `module`, unless it is there already."""
    hidden = module not in sys.modules
    if hidden:
        sys.modules[module] = None
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


with _without("torch"):  # of which it asks a type only: 1.5 seconds and 0.2 GB
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2

FOLDER = "tensorboard"  # in a run's
_FLUSH_S = 30.0
Picture = UInt8[np.ndarray, "h w c"]


class Events:
    """One file of events in `folder`. Once writing fails nothing more is written, and said so."""

    def __init__(self, folder: Path, suffix: str = ""):
        self._folder, self._writer, self._flushed = folder, None, time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), suffix)
        except OSError as error:
            self._stop(error)

    def add_scalar(self, tag: str, value: float, step: int, when: float) -> None:
        self._add(summary.scalar(tag, value), step, when)

    def add_image(self, tag: str, image: Picture, step: int, when: float) -> None:
        self._add(summary.image(tag, image, dataformats="HWC"), step, when)

    def _add(self, content, step: int, when: float) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write_event(event_pb2.Event(wall_time=when, step=step, summary=content))
            if time.monotonic() - self._flushed > _FLUSH_S:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        self._writer = None
        logging.error(
            "%s: %s. TensorBoard's curves stop here; they are written anew from metrics.jsonl "
            "when the run is started again.", self._folder, error.strerror,
        )  # fmt: skip

    def close(self) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
        except OSError as error:
            self._stop(error)


def write_pictures(folder: Path, pictures: Mapping[str, Picture], step: int) -> None:
    """Show pictures of a run in TensorBoard, by tag, in place of those of an earlier call.

    They lie in an events file of their own: the log is closed when there is something to see.
    """
    folder = folder / FOLDER
    for earlier in folder.glob("events.out.tfevents.*.pictures"):
        earlier.unlink()
    events = Events(folder, ".pictures")
    for tag, picture in pictures.items():
        events.add_image(tag, picture, step, time.time())
    events.close()

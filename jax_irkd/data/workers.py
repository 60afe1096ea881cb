"""Clips read by other processes, into memory that all of them see.

Threads of one Python take turns at everything but decoding: beside an H100 16 of them read 326
clips a second, as many processes 1,427, and it learns from 1,600. Which clip is at which place
follows from the order alone, so the batches are those that threads make.
"""

import collections
import dataclasses
import itertools
import math
import mmap
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np

from jax_irkd.errors import UserError
from jax_irkd.host.interrupts import ENDING, deaf_children, end_with_parent
from jax_irkd.host.memory import keep_freed_memory

DEPTH = 4  # batches that are being read or wait
PARTS = 8  # of a batch, each read by one process
ENDED = (
    "a process that reads clips ended without a word: memory ran out, or a script without "
    "`if __name__ == '__main__':` trains; set input.readers=threads, or a smaller input.threads"
)
Row = dict[str, np.generic]  # what a clip has beside its frames
Fault = tuple[str | None, str]


class Notes:
    """Stands for `Faults` in a process that reads: keeps what is to be counted where it counts."""

    def __init__(self):
        self._taken: list[Fault] = []

    def count(self, clip: str | None = None, reason: str = "") -> None:
        self._taken.append((clip, reason))

    def drain(self) -> list[Fault]:
        taken, self._taken = self._taken, []
        return taken


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the frames of `DEPTH` batches lie: a page for the word to end, then batch by batch."""

    shapes: Mapping[str, tuple[int, ...]]  # of a batch, by modality

    @property
    def size(self) -> int:
        return mmap.PAGESIZE + DEPTH * sum(map(math.prod, self.shapes.values()))

    def views(self, memory: mmap.mmap) -> list[dict[str, np.ndarray]]:
        """The arrays of every batch, uint8, in `memory`."""
        made, offset = [], mmap.PAGESIZE
        for _ in range(DEPTH):
            made.append({})
            for name, shape in self.shapes.items():
                count = math.prod(shape)
                flat = np.frombuffer(memory, np.uint8, count, offset)
                made[-1][name], offset = flat.reshape(shape), offset + count
        return made


def can_start() -> bool:
    """Whether processes can be started unasked: Linux, and no script that would run again in each.

    A new process imports the main program. Ours bears it; whoever trains from a script of their
    own has to ask for processes.
    """
    if not hasattr(os, "memfd_create"):
        return False
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return spec.name.split(".")[0] == "jax_irkd"
    return file is None or Path(file).name == "jax-irkd"  # a notebook, or the command


def batches(
    clips: Sequence, notes: Notes, count: Callable, batch_size: int, workers: int
) -> Iterator[dict]:
    """`clips` in batches for ever, read by as many processes as `workers`.

    `clips` are Grain's, each with its frames in the entry `clips`; what their reader noted in
    `notes` is handed to `count` with the batch it belongs to. Raises UserError where a process
    dies, and what `clips` and `count` raise.
    """
    if not hasattr(os, "memfd_create"):
        raise UserError("input.readers=processes needs Linux; set input.readers=threads")
    shapes = {name: (batch_size, *x.shape) for name, x in clips[0]["clips"].items()}
    notes.drain()  # of the clip that told the shapes: it is read again
    layout, handle = Layout(shapes), os.memfd_create("jax_irkd")
    try:
        os.ftruncate(handle, layout.size)
        memory = mmap.mmap(handle, layout.size)
        slots = layout.views(memory)
        # Without a name in any folder, so that nothing is left of it however this process ends.
        place = f"/proc/{os.getpid()}/fd/{handle}"
        context = multiprocessing.get_context("spawn")
        start = {"initializer": _start, "initargs": (clips, notes, place, layout)}
        pool = ProcessPoolExecutor(workers, mp_context=context, **start)
        try:
            yield from _collected(pool, slots, batch_size, count)
        except BrokenProcessPool as error:
            raise UserError(ENDED) from error
        finally:
            memory[0] = 1
            pool.shutdown(wait=True, cancel_futures=True)
    finally:
        os.close(handle)


def _collected(pool, slots: list, batch_size: int, count: Callable) -> Iterator[dict]:
    """Batch after batch, copied out of its place, which is filled with the next at once."""
    begins = itertools.count(0, batch_size)
    part = -(-batch_size // PARTS)

    def order(slot: int) -> tuple[int, list[Future]]:
        begin = next(begins)
        rows = [range(i, min(i + part, batch_size)) for i in range(0, batch_size, part)]
        return slot, [pool.submit(_read, slot, row, begin) for row in rows]

    with deaf_children():
        waiting = collections.deque(map(order, range(len(slots))))
    while True:
        slot, parts = waiting.popleft()
        rows: list[Row] = []
        for more, faults in (future.result() for future in parts):
            rows += more
            for fault in faults:
                count(*fault)
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        batch["clips"] = {name: frames.copy() for name, frames in slots[slot].items()}
        waiting.append(order(slot))
        yield batch


_own: dict = {}  # of a process that reads


def _start(clips: Sequence, notes: Notes, place: str, layout: Layout) -> None:
    """One core for each process, and an end with the one that started it or at its word.

    Signals are for that one alone, which saves before it ends: a cluster sends them to all.
    """
    for name in (signal.SIGINT, *ENDING):
        signal.signal(name, signal.SIG_IGN)
    cv2.setNumThreads(1)
    keep_freed_memory()
    with open(place, "r+b") as file:
        memory = mmap.mmap(file.fileno(), layout.size)
    _own.update(clips=clips, notes=notes, slots=layout.views(memory))
    end_with_parent(told=lambda: bool(memory[0]))


def _read(slot: int, rows: range, begin: int) -> tuple[list[Row], list[Fault]]:
    """Put clips at `begin` + `rows` of the order into these rows of a batch; the rest of them."""
    made = []
    for row in rows:
        clip = dict(_own["clips"][begin + row])
        for name, frames in clip.pop("clips").items():
            _own["slots"][slot][name][row] = frames
        made.append(clip)
    return made, _own["notes"].drain()

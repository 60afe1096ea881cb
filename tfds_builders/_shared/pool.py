"""Does tasks in several processes, survives a decoder that crashes, and shows progress."""

import collections
import contextlib
import functools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

import cv2
import pebble
from rich import progress as rich_progress

from jax_irkd.host.interrupts import deaf_children, end_with_parent
from jax_irkd.host.memory import keep_freed_memory
from jax_irkd.tfds_builders._shared.cache import (
    Cache,
    EncodingResult,
    EncodingSummary,
    EncodingTask,
    Skip,
)

Task, Outcome = TypeVar("Task"), TypeVar("Outcome")
Encode = Callable[[EncodingTask], EncodingResult]
INLINE = False  # for tests and debuggers: a decoder that crashes then takes this process with it
CRASHES = "crashes the decoder"
CRASHED = "its process ended without a word (crash or out of memory)"
ATTEMPTS = 2  # of a task whose process dies: memory may have been short


def encode_into(cache_folder: str, encode: Encode, task: EncodingTask) -> EncodingSummary:
    """Encodes one task and stores the result; runs in a worker."""
    return Cache(cache_folder).store(task, encode(task))


def encode_all(
    tasks: list[EncodingTask], encode: Encode, cache: Cache, workers: int, show: bool = True
) -> list[EncodingSummary]:
    """Brings every task into the cache and returns the summaries in the order of the tasks.

    Tasks already there are not done again, unless they gave nothing: the reason may be gone.
    A task that kills its worker is reported as skipped. Raises UserError when the disk is full.
    """
    summaries: dict[str, EncodingSummary] = {}
    for task in tasks:
        known = cache.summary(task)
        if known is not None and known.records:
            summaries[task.key] = known
    missing = [task for task in tasks if task.key not in summaries]
    if missing:
        step = functools.partial(encode_into, str(cache.folder), encode)
        with progress_bar("encoding", len(tasks), len(summaries), show) as advance:
            for task, outcome in in_workers(missing, step, min(workers, len(missing))):
                if isinstance(outcome, str):
                    outcome = cache.store(task, _crash(task, outcome))
                summaries[task.key] = outcome
                advance()
    return [summaries[task.key] for task in tasks]


def encode_alone(encode: Encode, task: EncodingTask) -> EncodingResult:
    """Encodes one task in a process of its own that is kept for the next one (Beam's way)."""
    if INLINE:
        return encode(task)
    for _ in range(ATTEMPTS):
        try:
            return _helper().schedule(encode, args=(task,)).result()
        except pebble.ProcessExpired:  # the pool starts another one
            continue
    return _crash(task, CRASHED)


_own = threading.local()


def _helper() -> pebble.ProcessPool:
    """A pool of one process for each thread that asks."""
    if not hasattr(_own, "pool"):
        context = multiprocessing.get_context("spawn")
        _own.pool = pebble.ProcessPool(1, context=context, initializer=_start_worker)
    return _own.pool


def _crash(task: EncodingTask, why: str) -> EncodingResult:
    return EncodingResult([], [Skip(task.key, CRASHES, why)], [])


def in_workers(
    tasks: Iterable[Task], step: Callable[[Task], Outcome], workers: int
) -> Iterator[tuple[Task, Outcome | str]]:
    """Tasks with what `step` made of them, as they end, or with why a task kills its worker."""
    if INLINE:
        for task in tasks:
            yield task, step(task)
        return
    # Forked children inherit locks held by other threads; spawned ones start clean.
    context = multiprocessing.get_context("spawn")
    workers = max(1, workers)
    pool = pebble.ProcessPool(workers, context=context, initializer=_start_worker)
    waiting = collections.deque((task, 1) for task in tasks)
    running: dict[futures.Future, tuple[Task, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < 3 * workers:
                task, attempt = waiting.popleft()
                with deaf_children():  # the first task starts the workers
                    running[pool.schedule(step, args=(task,))] = task, attempt
            for future in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                task, attempt = running.pop(future)
                try:
                    yield task, future.result()
                except pebble.ProcessExpired:  # the other tasks go on
                    if attempt == ATTEMPTS:
                        yield task, CRASHED
                    else:
                        waiting.append((task, attempt + 1))
    finally:
        pool.stop()
        pool.join()


def _start_worker() -> None:
    """One core per worker, and an end with the build."""
    cv2.setNumThreads(1)
    keep_freed_memory()
    end_with_parent()


@contextlib.contextmanager
def progress_bar(label: str, total: int, done: int, show: bool) -> Iterator[Callable[[], None]]:
    """A progress bar with rate and remaining time, counting from what was done before."""
    columns = (
        rich_progress.TextColumn(label),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[rate]}"),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, disable=not show) as bar:
        row = bar.add_task("", total=total, completed=done, rate="")
        begin, count = time.monotonic(), 0

        def advance() -> None:
            nonlocal count
            count += 1
            rate = count / max(time.monotonic() - begin, 1e-9)
            bar.update(row, advance=1, rate=f"{rate:.1f} per s")

        yield advance

"""Encodes tasks in several processes, survives a decoder that crashes, and shows progress."""

import collections
import contextlib
import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool

import cv2
from rich import progress as rich_progress

from jax_irkd.host.memory import keep_freed_memory
from tfds_builders._shared.cache import Cache, Result, Skip, Summary, Task

Encode = Callable[[Task], Result]


def encode_into(cache_folder: str, encode: Encode, task: Task) -> Summary:
    """Encodes one task and stores the result; runs in a worker."""
    return Cache(cache_folder).store(task, encode(task))


def encode_all(
    tasks: list[Task], encode: Encode, cache: Cache, workers: int, show: bool = True
) -> list[Summary]:
    """Brings every task into the cache and returns the summaries in the order of the tasks.

    Tasks already there are not done again, unless they gave nothing: the reason may be gone.
    A task that kills its worker is reported as skipped. Raises UserError when the disk is full.
    """
    summaries: dict[str, Summary] = {}
    for task in tasks:
        known = cache.summary(task)
        if known is not None and known.records:
            summaries[task.key] = known
    missing = [task for task in tasks if task.key not in summaries]
    if missing:
        step = functools.partial(encode_into, str(cache.folder), encode)
        with progress_bar("encoding", len(tasks), len(summaries), show) as advance:
            for task, outcome in _run(missing, step, min(workers, len(missing))):
                if isinstance(outcome, str):
                    crash = Result([], [Skip(task.key, "crashes the decoder", outcome)], [])
                    outcome = cache.store(task, crash)
                summaries[task.key] = outcome
                advance()
    return [summaries[task.key] for task in tasks]


def _run(tasks: list[Task], step: Callable, workers: int) -> Iterator[tuple[Task, Summary | str]]:
    if workers <= 1:
        for task in tasks:
            yield task, step(task)
        return
    queue = collections.deque(tasks)
    while queue:
        for task in (yield from _until_crash(queue, step, workers)):
            yield task, _alone(task, step)


def _until_crash(queue: collections.deque[Task], step: Callable, workers: int):
    """Yields tasks with their summaries; returns the tasks in flight when a worker died."""
    running: dict[futures.Future, Task] = {}
    pool = _pool(workers)
    try:
        while queue or running:
            while queue and len(running) < 3 * workers:
                running[pool.submit(step, queue[0])] = queue[0]
                queue.popleft()
            done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in done:
                summary = future.result()
                yield running.pop(future), summary
    except BrokenProcessPool:
        return list(running.values())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return []


def _alone(task: Task, step: Callable) -> Summary | str:
    """The task in a process of its own: only the one at fault fails again."""
    with _pool(1) as pool:
        try:
            return pool.submit(step, task).result()
        except BrokenProcessPool:
            return "its process ended without a word (crash or out of memory), twice"


def _pool(workers: int) -> futures.ProcessPoolExecutor:
    # Forked children inherit locks held by other threads; spawned ones start clean.
    context = multiprocessing.get_context("spawn")
    return futures.ProcessPoolExecutor(workers, context, initializer=_start_worker)


def _start_worker() -> None:
    """One core per worker, and an end with the build: the pool alone would leave it waiting."""
    cv2.setNumThreads(1)
    keep_freed_memory()
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


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

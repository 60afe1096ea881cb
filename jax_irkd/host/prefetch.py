"""Work that is done beside the work that needs it."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator


def ahead(items: Iterable, depth: int = 2) -> Iterator:
    """`items`, made in a thread of its own at most `depth` ahead of who takes them."""
    ready: queue.Queue = queue.Queue(depth)
    stopped = threading.Event()

    def offer(kind: str, value=None) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, value), timeout=0.1)
                return True
        return False

    def work():
        try:
            for item in items:
                if not offer("item", item):
                    return
            offer("end")
        except BaseException as error:  # Raised again where the items are used.
            offer("error", error)

    thread = threading.Thread(target=work, name="decoder", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stopped.set()
        thread.join()

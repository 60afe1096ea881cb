"""What there is to see of a running stream: its newest picture, its answers, how its source is."""

import collections
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from jax_irkd.deployment.annotate import in_colour
from jax_irkd.deployment.judgement import REASONS

MINUTES = 5  # of answers that are kept for viewers who come later
MOST_ANSWERS = 10_000  # however often answers come
REMARK = 10.0  # seconds for which a change of the source is shown
STALLED = 2.0  # seconds without a frame after which a source that is open counts as stalled
JPEG_QUALITY = 85


class Board:
    """The newest of everything, written by the stream's threads and read by any number of viewers.

    Nothing waits for a viewer: a picture is replaced by the next one, and answers older than
    `MINUTES` are forgotten. `changed` is called after every change, from the thread that made it.
    """

    def __init__(self, source: str, network: str, changed: Callable[[], None] = lambda: None):
        self.source, self.network, self.changed = source, network, changed
        self.started = time.monotonic()
        self._lock = threading.Lock()
        self._answers: collections.deque[tuple[int, float, str]] = collections.deque(
            maxlen=MOST_ANSWERS
        )
        self._count = 0
        self._state, self._text = "starting", ""
        self._remark, self._remarked = "", -REMARK
        self._image: np.ndarray | None = None
        self._shown, self._moment = 0, self.started
        self._jpeg: tuple[int, bytes] = (0, b"")
        self._latency: float | None = None
        self._answered: float | None = None
        self._counts: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        self._recent: collections.deque[float] = collections.deque(maxlen=60)

    @property
    def closed(self) -> bool:
        return self._state == "ended"

    def follow(self, counts: Callable[[], tuple[int, float]]) -> None:
        """`counts()` gives the frames received so far and the share of them that was dropped."""
        self._counts = counts

    def show(self, image: np.ndarray) -> None:
        """The newest picture, `h w`, `h w 1` or RGB `h w 3` of any depth and size."""
        with self._lock:
            if self.closed:
                return
            self._image = image
            self._shown += 1
            self._moment = time.monotonic()
            self._recent.append(self._moment)
            self._state, self._text = "live", ""
        self.changed()

    def tell(self, state: str, text: str = "") -> None:
        """How the source is: `lost`, with the reason, or `ended`, which nothing changes any more:
        the thread that reads goes on for a moment."""
        with self._lock:
            if self.closed:
                return
            self._state, self._text = state, text
        self.changed()

    def remark(self, text: str) -> None:
        """What has changed in the source: its size, its colours, its rate."""
        with self._lock:
            self._remark, self._remarked = text, time.monotonic()
        self.changed()

    def answer(self, line: dict[str, Any]) -> None:
        """One prediction as `predict --json` prints it."""
        now = time.monotonic()
        with self._lock:
            self._count += 1
            self._latency, self._answered = line.get("latency"), now
            self._answers.append((self._count, now, json.dumps(line)))
            while self._answers[0][1] < now - 60 * MINUTES:
                self._answers.popleft()
        self.changed()

    def answers(self, since: int) -> list[tuple[int, str]]:
        """Number and JSON of the answers after number `since`; all that are kept after a `since`
        that this stream has not reached, which is another stream's."""
        with self._lock:
            since = since if since <= self._count else 0
            return [(number, text) for number, _, text in self._answers if number > since]

    @property
    def newest(self) -> int:
        """The number of the newest answer."""
        return self._count

    def picture(self) -> tuple[int, bytes]:
        """Number and JPEG of the newest picture, encoded once however many look; (0, b"") before
        the first."""
        with self._lock:
            number, image = self._shown, self._image
        if image is not None and self._jpeg[0] != number:
            colours = np.ascontiguousarray(in_colour(image)[..., ::-1])
            written, data = cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if written:
                self._jpeg = (number, data.tobytes())
        return self._jpeg

    def status(self) -> dict[str, Any]:
        """How things stand: `state` is starting, live, stalled, lost or ended. Times are seconds,
        `answered` since the newest answer. `reasons` are the words for an answer's `reason`."""
        now = time.monotonic()
        received, dropped = self._counts()
        with self._lock:
            state, text, since = self._state, self._text, now - self._moment
            remark = self._remark if now < self._remarked + REMARK else ""
            recent = [moment for moment in self._recent if moment > now - 2]
            size = None if self._image is None else [*self._image.shape[1::-1]]
        if state == "live" and since > STALLED:
            state, text = "stalled", f"no frame for {since:.0f} s"
        return {
            "state": state,
            "text": text or remark,
            "source": self.source,
            "network": self.network,
            "running": round(now - self.started, 1),
            "frames": received,
            "rate": round(len(recent) / 2, 1),
            "dropped": round(dropped, 4),
            "latency": self._latency,
            "answered": None if self._answered is None else round(now - self._answered, 2),
            "size": size,
            "reasons": REASONS,
        }


def lines_of(answers: list[tuple[int, str]]) -> Iterator[str]:
    """Answers as server-sent events."""
    for number, text in answers:
        yield f"id: {number}\ndata: {text}\n\n"

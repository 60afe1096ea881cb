"""Live sources: read in a thread, newest frames kept, too many dropped, lost sources reopened."""

import collections
import contextlib
import functools
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from jax_irkd.errors import UserError
from jax_irkd.video.archives import words
from jax_irkd.video.decoding import Film
from jax_irkd.video.pixels import Converter, is_deep
from jax_irkd.video.playback import SHORT_SIDE

LAG = 0.5  # seconds behind its own clock after which a source's frames are dropped
SLIP = 2.0  # seconds of late frames only, after which the clock is taken to have slipped
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0  # seconds between attempts to reopen
OPEN_TIMEOUT = READ_TIMEOUT = 5.0
DRIFT = 1e-3  # by which two clocks may differ in speed; quartz differs by 1e-4 at most
JUMP = 10.0  # seconds from frame to frame, forwards, that are another clock; backwards one
IN_PIECES = ("hls", "dash")  # FFmpeg's names of what comes as files of some seconds each
UNTIMED = 0x80  # FFmpeg's flag of formats without time stamps, AVFMT_NOTIMESTAMPS

Timed = tuple[float | None, Callable[[], np.ndarray]]  # seconds by the source, and the picture
Hold = Callable[..., None]  # `_Pace.hold`


class Stream:
    """Frames of a source as they come, each handed out at most once.

    `source` is a camera's number, a device (/dev/video0), a URL, or a file that is played in real
    time. `prepare` turns an RGB frame, shrunk as the builders do, into what is kept; at most
    `capacity` frames wait, the oldest makes room for the newest. A lost source is reopened,
    waiting 0.5, 1, 2, ... at most 10 seconds, until none came for `patience` seconds. `notify` is
    told of losses, `remark` once of a source that stays behind its own clock. With `infrared` the
    grey of a colour film of more than eight bits comes as it is, not its colours in eight bits: the
    pixels that the film has as a file. Use it as a context manager.
    """

    def __init__(
        self,
        source: str,
        prepare: Callable[[np.ndarray], Any],
        *,
        capacity: int = 16,
        patience: float = 30.0,
        infrared: bool = False,
        notify: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
        remark: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    ):
        self.source, self.prepare, self.patience = source, prepare, patience
        self.infrared, self.notify, self.remark = infrared, notify, remark
        self.kind, self.name = kind_of(source), name_of(source)
        self.received = self.dropped = self.reopened = 0
        self._frames: collections.deque = collections.deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._ended = self._slipped = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading. A source that hangs is left to its time-out."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=READ_TIMEOUT + 1)

    @property
    def drop_rate(self) -> float:
        """The share of received frames that were never handed out."""
        return self.dropped / max(self.received, 1)

    def __iter__(self) -> Iterator[tuple[float, Any]]:
        """(time in seconds, prepared frame), until a file ends or `patience` does (UserError)."""
        while True:
            with self._changed:
                # A time-out, because a wait without one would hold back Ctrl-C on some systems.
                while not self._frames and not self._ended and not self._stop.is_set():
                    self._changed.wait(0.5)
                if not self._frames:
                    if self._failure:
                        raise self._failure
                    return
                item = self._frames.popleft()
            yield item

    def _run(self) -> None:
        try:
            self._read_for_ever()
        except Exception as error:
            self._failure = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_for_ever(self) -> None:
        wait, last = FIRST_WAIT, time.monotonic()
        while not self._stop.is_set():
            before, reason = self.received, "it ended"
            try:
                if self._read_once():
                    return
            except (av.FFmpegError, OSError, ValueError) as error:
                silent = isinstance(error, av.error.ExitError)  # a time-out, in FFmpeg's words
                reason = f"nothing came for {READ_TIMEOUT:.0f} s" if silent else words(error)
            if self.received > before:
                wait, last = FIRST_WAIT, time.monotonic()
                self.reopened += 1
            if self._stop.is_set():
                return
            if time.monotonic() - last + wait > self.patience:
                raise UserError(
                    f"no frame from {self.name} for {self.patience:.0f} s ({reason}); check that "
                    "it is switched on and reachable, or wait longer with --patience"
                )
            lost = "was lost" if self.received else "cannot be opened"
            self.notify(f"{self.name} {lost} ({reason}); trying again in {wait:.1f} s")
            self._stop.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _read_once(self) -> bool:
        """Hand out what the source brings until it is lost, or to the end of one that has one."""
        pace = _Pace()
        kinds = {"camera": _camera, "file": _film, "network": _container}
        frames = kinds[self.kind](self.source, self.infrared, pace.hold)
        with contextlib.closing(frames):
            for moment, image in frames:
                self.received += 1
                late, shown = pace.wait(moment, self._stop)
                if self._stop.is_set():
                    return False
                if pace.slipped and not self._slipped:
                    self._slipped = True
                    self.remark(
                        f"{self.name} stayed behind its own clock for {SLIP:.0f} s, as after a "
                        "pause or where this machine is too slow; its frames now count from there"
                    )
                if late > LAG:
                    self.dropped += 1
                    continue
                self._offer(shown, self._prepared(image))
        return pace.whole

    def _prepared(self, image: Callable[[], np.ndarray]) -> Any:
        """A frame as it is kept. Raises UserError: what cannot be used is no lost source, which
        would be reopened for ever."""
        try:
            return self.prepare(image())
        except (av.FFmpegError, OSError, ValueError) as error:
            raise UserError(
                f"the frames of {self.name} cannot be used ({words(error)}); convert them with "
                "ffmpeg, or give a recording as a file without --stream"
            ) from error

    def _offer(self, moment: float, frame: Any) -> None:
        with self._changed:
            if len(self._frames) >= self._capacity:
                self._frames.popleft()
                self.dropped += 1
            self._frames.append((moment, frame))
            self._changed.notify_all()


class _Pace:
    """When frames are due: a source told to `hold` is held back to real time, any may fall behind.

    One of which every frame was late for `SLIP` seconds will not catch up: it has `slipped`, and
    what it is behind by counts as usual from then on.
    """

    def __init__(self) -> None:
        self._hold, self._start, self._least = False, None, np.inf
        self._last, self._seen, self._shown = -np.inf, 0.0, -np.inf
        self._behind: float | None = None  # since when every frame has been late
        self._longest = np.inf
        self.slipped = self.whole = False

    def hold(self, whole: bool, longest: float = np.inf) -> None:
        """Called before the first frame: what comes before its time, as bursts do, waits, but never
        `longest` seconds. A `whole` source has an end."""
        self._hold, self.whole, self._longest, self._least = True, whole, longest, 0.0

    def wait(self, moment: float | None, stop: threading.Event) -> tuple[float, float]:
        """Wait for `moment` (seconds by the source, None: now): how late it is, and when it was
        shown by this machine's clock, which never falls.

        Moments that do not grow are no clock; those frames count as shown when they come, and a
        frame behind one of them no earlier.
        """
        late, shown = self._due(moment, stop)
        self._shown = max(shown, self._shown)
        return late, self._shown

    def _due(self, moment: float | None, stop: threading.Event) -> tuple[float, float]:
        now = time.monotonic()
        if moment is not None and moment < self._last - 1:
            self._begin(moment, now)
        if moment is None or moment <= self._last:
            self._behind = None
            return 0.0, now
        if self._start is None or self._start + moment - now > self._longest:
            self._begin(moment, now)
        self._last = moment
        late = now - self._start - moment
        if self._hold:
            if late < 0:
                stop.wait(-late)
        else:  # Clocks differ, in speed too: late is what is later than usual.
            self._least = min(self._least + DRIFT * (now - self._seen), late)
            self._seen = now
        late = self._catch_up(max(late - self._least, 0.0), moment, now)
        return late, self._start + moment + self._least

    def _begin(self, moment: float, now: float) -> None:
        """A new clock, as of a camera that was started again: `moment` is now."""
        self._start, self._last, self._behind = now - moment, -np.inf, None
        self._least = 0.0 if self._hold else np.inf

    def _catch_up(self, late: float, moment: float, now: float) -> float:
        """`late`, or 0 where the source has been so for too long."""
        if late <= LAG:
            self._behind = None
            return late
        self._behind = now if self._behind is None else self._behind
        if now - self._behind < SLIP:
            return late
        self._start, self._behind, self.slipped = now - moment, None, True
        self._least = 0.0
        return 0.0


def kind_of(source: str) -> str:
    """camera, network or file. Raises UserError for a path that does not exist."""
    if source.isdigit() or source.startswith("/dev/"):
        return "camera"
    if "://" in source:
        return "network"
    if not Path(source).is_file():
        raise UserError(
            f"the stream {source} is no file; give a camera's number (0), a device (/dev/video0), "
            "an rtsp:// or http:// URL, or a video file"
        )
    return "file"


def name_of(source: str) -> str:
    """The source as it may be shown to others: a URL without user and password, and without its
    query, where cameras take passwords too."""
    if "://" not in source:
        return source
    parts = urllib.parse.urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _unheard(*_) -> None:
    """In place of `_Pace.hold`: frames as quickly as they are read."""


def _camera(source: str, infrared: bool = False, hold: Hold = _unheard) -> Iterator[Timed]:
    del hold  # it comes in its own time
    del infrared  # OpenCV gives deep grey or colours of eight bits, never a choice of them
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # What fails is said here.
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    try:
        if not capture.isOpened():
            raise OSError("no camera answers there")
        if int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"Y16 "):
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)  # else OpenCV makes eight bits of sixteen
        while True:
            read, image = capture.read()
            if not read:
                raise OSError("the camera stopped")
            if image.ndim == 3 and image.dtype == np.uint8:
                yield None, lambda image=image: cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            else:
                yield None, lambda image=image: image
    finally:
        capture.release()


def _film(source: str, infrared: bool = False, hold: Hold = _unheard) -> Iterator[Timed]:
    hold(True)
    for shot in Film(source, threads=0, tolerant=True).shots():
        grey = infrared and shot.deep
        yield shot.time, functools.partial(shot.image, SHORT_SIDE, grey=grey)


def _container(source: str, infrared: bool = False, hold: Hold = _unheard) -> Iterator[Timed]:
    # Without a buffer what was read to find out what it is does not come late, but not at all.
    live = "://" in source and not source.startswith("http")
    options = {"fflags": "nobuffer"} if live else {}
    if source.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    with av.open(source, options=options, timeout=(OPEN_TIMEOUT, READ_TIMEOUT)) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        # A camera's frames come in their own time; pieces and whole films in bursts.
        if container.format.name in IN_PIECES or container.duration:
            hold(bool(container.duration), JUMP)
        convert = Converter()
        # Pictures one after the other, as many cameras send them: FFmpeg makes their times up.
        untimed = container.format.flags & UNTIMED
        for frame in _readable(container, stream):
            turned = getattr(frame, "rotation", 0)
            moment = None if untimed else frame.time
            grey = infrared and is_deep(frame, grey=True)
            yield moment, functools.partial(convert, frame, turned, SHORT_SIDE, grey)


def _readable(container, stream) -> Iterator[av.VideoFrame]:
    """Frames between damaged packets, which every radio link has."""
    for packet in container.demux(stream):
        with contextlib.suppress(av.error.InvalidDataError):
            yield from packet.decode()

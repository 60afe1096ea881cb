"""The one reader of films: builders, inventory, predictions and detection read by its rules.

A source is a path, an `archives.Member`, so that a clip inside a zip is read in place, or pictures
(`archives.Stills`, a TIFF of pages). Frames are counted as the decoder hands them out, because an
AVI's packets may be out of order and one keyframe for the whole clip is normal: seeking buys
nothing. What the header says of their number is believed only where nothing else is known.
"""

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame

from jax_irkd.video import stills, timing
from jax_irkd.video.archives import Held, Member, Source, Stills, open_source, words
from jax_irkd.video.avi import count_empty_chunks, count_indexed, missing_bytes
from jax_irkd.video.faults import FAULTS, VideoError, named, named_faults, refuse_no_file
from jax_irkd.video.pixels import Converter
from jax_irkd.video.shot import Shot
from jax_irkd.video.timing import Timing

# XVID counts placeholder frames in the header that no decoder returns.
HEADER_SLACK = 2
AHEAD = 64 << 20  # bytes of packets that are kept
STILLS_RATE = 30.0  # frames per second of pictures, which no file tells

# Titles in another encoding than UTF-8 are no reason to refuse a video; since 19 PyAV agrees.
_OPTIONS: dict[str, Any] = (
    {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "ignore"}
)


class Facts(NamedTuple):
    """What a film says of itself before anything is decoded."""

    timing: Timing
    width: int
    height: int

    @property
    def frames(self) -> int:
        return len(self.timing.times)


class Film:
    """A film that is read from beginning to end, as often as need be.

    `timing` says when its frames are shown. Of the last walk: `read` counts the frames, `rotation`
    is what the header asks for in degrees, and `remarks` says what was unusual. A damaged film
    raises VideoError at the fault, what could be read has come before; with `tolerant`, reading
    goes on behind it. `threads` is the decoder's thread count, 0 lets it choose. `ahead` keeps the
    packets of a small film between `timing` and the walk after it, which then opens it no more.
    """

    def __init__(
        self, source: Source, *, threads: int = 1, tolerant: bool = False, ahead: bool = False
    ):
        self.source, self.threads, self.tolerant = source, threads, tolerant
        self._ahead: tuple | None = None if ahead else ()  # None: nothing was kept yet
        self.read = self.broken = self.rotation = 0
        self.promised = self.streams = 0
        self.resized = ""
        self.convert = Converter()
        self._timing: Timing | None = None

    @property
    def timing(self) -> Timing:
        """From the packets' time stamps, without decoding; after a walk, of what was decoded.

        Raises VideoError for what is no film.
        """
        if self._timing is None:
            self._timing = self._scan()
        return self._timing

    @property
    def whole(self) -> Timing:
        """The timing that the film had before its end was cut off, by the count in its header."""
        if self._is_stills() or len(self.timing.times) >= self.promised or not self._missing():
            return self.timing
        return timing.steady(self.promised, self.timing.rate)

    @property
    def rate(self) -> float:
        return self.timing.rate

    @property
    def seconds(self) -> float:
        return self.timing.end

    @property
    def remarks(self) -> list[str]:
        found = []
        if self.streams > 1:
            found.append(f"holds {self.streams} video streams; the first was used")
        missing = self._missing() if self.tolerant else 0
        total = len(self.timing.times)
        if self.tolerant and (self.broken or missing or self.read < total - HEADER_SLACK):
            cut = f"truncated by {missing} bytes" if missing else "damaged"
            total = max(total, self.promised)
            found.append(f"is {cut}: {self.read} of {total} frames are readable and were used")
        elif self.promised > self.read + HEADER_SLACK:
            found.append(f"promises {self.promised} frames in its header and has {self.read}")
        if lost := stills.gap(self.source):
            found.append(lost)
        if self.read and self._is_stills() and stills.is_deep_colour(self.source):
            found.append("has colours of 16 bits, of which eight are kept")
        if self.rotation:
            found.append(f"is stored rotated; turned by {self.rotation} degrees")
        if self.resized:
            found.append(f"{self.resized}; every frame is cut to the same size")
        return found

    def facts(self) -> Facts:
        """Of the header where that tells, else of the packets. Raises VideoError for what a walk
        would refuse, as far as that shows without decoding.
        """
        if self._is_stills():
            first = next(stills.read(self.source))
            return Facts(self.timing, first.shape[1], first.shape[0])
        with self._opened() as (container, stream):
            frames, rate = stream.frames, float(stream.average_rate or stream.guessed_rate or 0)
            size = stream.width, stream.height
            if not frames and container.duration:
                frames = round(container.duration / 1e6 * rate)
        missing = self._missing()
        if frames and rate and not missing:
            return Facts(timing.steady(frames, rate), *size)
        found = self.timing
        if missing and self.promised > len(found.times):
            raise VideoError(self.source, _progress(len(found.times), self.promised, missing))
        return Facts(found, *size)

    def shots(self) -> Iterator[Shot]:
        """Every frame in order of display. Raises VideoError as the class says, and always when
        there is not one frame.
        """
        planned = self.timing  # before the walk: what is no film is said at once
        self.read = self.broken = 0
        self.resized, size = "", ""
        stamps: list[float | None] = []
        frames = self._pictures() if self._is_stills() else self._decoded(stamps)
        ends = planned.ends()
        for frame in frames:
            place = self.read + self.broken
            self.read += 1
            before, size = size, _size(frame)
            if before and size != before and not self.resized:
                self.resized = f"changes its size at frame {self.read} from {before} to {size}"
            inside = place < len(ends)
            moment = planned.times[place] if inside else place / max(planned.rate, 1e-9)
            yield Shot(self, frame, place, float(moment))
        if self.read + self.broken != len(planned.times) and not self._is_stills():
            # Packets without a frame of their own: only the decoder knows.
            if self.broken:
                kept = min(self.read + self.broken, len(ends))
                self._timing = Timing(planned.times[:kept], float(ends[kept - 1]))
            else:
                self._timing = timing.from_stamps(stamps, planned.rate)

    def _is_stills(self) -> bool:
        return isinstance(self.source, Stills) or stills.is_pages(self.source)

    def _scan(self) -> Timing:
        if self._is_stills():
            with named_faults(self.source, lambda: "is not a readable film of pictures"):
                count = stills.count(self.source)
            if not count:
                raise VideoError(self.source, "has no frames")
            return timing.steady(count, STILLS_RATE, timed=False)
        with contextlib.ExitStack() as stack:
            container, stream = stack.enter_context(self._opened())
            self.promised = stream.frames  # 0 when the header does not say
            rate = float(stream.average_rate or stream.guessed_rate or STILLS_RATE)
            stamps, kept, size = [], [], 0
            with self._faults(lambda: "cannot be read"):
                for packet in container.demux(stream):
                    if packet.size and not packet.is_discard:
                        stamps.append(packet.pts)
                    if self._ahead is None and (size := size + packet.size) < AHEAD:
                        kept.append(packet)
            base = stream.time_base or 0
            if kept and size < AHEAD and not self.broken:
                self._ahead = stack.pop_all(), stream, kept
                weakref.finalize(self, self._ahead[0].close)
        if not stamps:
            cut = f", it is truncated by {self._missing()} bytes" if self._missing() else ""
            raise VideoError(
                self.source, f"has no frames (0 video packets){cut}; record or copy it again"
            )
        if all(stamp is not None for stamp in stamps):
            stamps = sorted(stamps)
        return timing.from_stamps(timing.seconds(stamps, base), rate)

    @contextlib.contextmanager
    def _faults(self, reason) -> Iterator[None]:
        """Faults get the film's name, or are counted and passed over by the tolerant."""
        try:
            yield
        except (VideoError, *FAULTS) as error:
            self._note(error, reason)

    def _note(self, error: Exception, reason: Callable[[], str]) -> None:
        if not self.tolerant:
            raise named(self.source, error, reason())
        self.broken += 1

    @contextlib.contextmanager
    def _opened(self):
        with contextlib.ExitStack() as stack:
            try:
                target = self._target(stack)
                container = stack.enter_context(av.open(target, mode="r", **_OPTIONS))
            except FAULTS as error:
                missing = self._missing()
                cut = f"is truncated by {missing} bytes" if missing else "is not a readable video"
                how = "copy it again" if missing else "give a file that ffmpeg can play"
                raise VideoError(self.source, f"{cut} ({words(error)}); {how}") from error
            yield container, self._stream(container)

    @contextlib.contextmanager
    def _demuxed(self):
        """The stream and its packets."""
        if self._ahead:
            (stack, stream, kept), self._ahead = self._ahead, ()
            with stack:
                yield stream, iter(kept)
            return
        with self._opened() as (container, stream):
            yield stream, container.demux(stream)

    def _target(self, stack: contextlib.ExitStack):
        """What the decoder opens: a path by its name, a member of an archive as an open file."""
        source = self.source
        if isinstance(source, Member | Held):
            file = stack.enter_context(open_source(source))
            if not file.seek(0, 2):
                raise VideoError(source, "is empty (0 bytes); copy it again")
            file.seek(0)
            return file
        refuse_no_file(source)
        return f"file:{os.fspath(source)}"  # else a colon in the name would be a protocol

    def _stream(self, container):
        found = [
            stream
            for stream in container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic  # a cover
        ]
        self.streams = len(found)
        if not found:
            kinds = sorted({stream.type for stream in container.streams})
            held = f"has no video stream, only {', '.join(kinds)}" if kinds else "holds nothing"
            raise VideoError(self.source, f"{held}; give a video file")
        if found[0].codec_context is None:
            raise VideoError(self.source, "is in a codec that nothing here decodes")
        return found[0]

    def _pictures(self) -> Iterator[np.ndarray]:
        with self._faults(lambda: f"is damaged behind {self.read} pictures"):
            yield from stills.read(self.source)
        if not self.read:
            raise VideoError(self.source, "is damaged: none of its pictures can be read")

    def _decoded(self, stamps: list[float | None]) -> Iterator[VideoFrame]:
        missing = self._missing()
        packets = 0
        with self._demuxed() as (stream, demuxed):
            stream.thread_type = "NONE" if self.threads == 1 else "AUTO"
            stream.codec_context.thread_count = self.threads
            if stream.codec_context.name == "mjpeg":  # It marks no frame as damaged by itself.
                stream.codec_context.options = {"err_detect": "explode"}
            said = lambda: _progress(self.read, self.promised, missing)  # noqa: E731
            while True:
                packet, frames = None, []
                try:
                    packet = next(demuxed, None)
                    if packet is not None:
                        packets += bool(packet.size)
                        frames = packet.decode()
                except FAULTS as error:
                    self._note(error, said)
                if packet is None:
                    break  # the tolerant too: where there is no packet they cannot go on
                for frame in frames:
                    if frame.is_corrupt:
                        if not self.tolerant:
                            raise VideoError(self.source, said())
                        self.broken += 1
                        continue
                    if not self.read:
                        self.rotation = 90 * round(getattr(frame, "rotation", 0) / 90)
                    stamps.append(frame.pts)
                    yield frame
            base = stream.time_base or 0
        stamps[:] = timing.seconds(stamps, base)
        self._check_all_there(packets, missing)

    def _check_all_there(self, packets: int, missing: int) -> None:
        """Raises VideoError when frames are lost, as far as the strict are concerned."""
        if not self.read:
            damaged = f"is damaged: none of its {len(self.timing.times)} frames can be decoded"
            cut = f"has no frames, it is truncated by {missing} bytes" if missing else damaged
            raise VideoError(self.source, f"{cut}; copy it again")
        if self.tolerant:
            return
        # All frames may be there although the index behind them, or a recorder's dropped ones, is
        # not; and a header may promise frames that were never written.
        if missing and (not self.promised or self.promised > self.read):
            raise VideoError(self.source, _progress(self.read, self.promised, missing))
        if self.promised - packets <= HEADER_SLACK:
            return
        with named_faults(self.source):
            empty, indexed = count_empty_chunks(self.source), count_indexed(self.source)
        if (self.promised if indexed is None else indexed) - packets > HEADER_SLACK + empty:
            raise VideoError(self.source, _progress(self.read, self.promised, missing))

    def _missing(self) -> int:
        if self._is_stills():
            return 0
        try:
            return missing_bytes(self.source)
        except (OSError, ValueError):
            return 0  # said by whoever opens it


def _size(frame: VideoFrame | np.ndarray) -> str:
    if isinstance(frame, np.ndarray):
        return f"{frame.shape[1]}x{frame.shape[0]}"
    return f"{frame.width}x{frame.height}"


def _progress(count: int, expected: int, missing: int) -> str:
    of = f" of {expected}" if expected else ""
    if missing:
        return f"is truncated by {missing} bytes: {count}{of} frames are readable"
    return f"is damaged: {count}{of} frames are readable before the fault"

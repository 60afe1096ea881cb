"""Videos as users have them: any codec, turned phones, damage. What is readable is used.

The builders refuse a damaged clip, because a data set must be right; here somebody wants an answer.
Decoding goes on behind a fault, and everything unusual becomes a line in `warnings`.
"""

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from jax_irkd.data.frames import fit
from jax_irkd.data.sampling import frame_indices, segment_positions
from jax_irkd.data.spec import InputSpec
from jax_irkd.errors import UserError
from jax_irkd.host.prefetch import ahead
from jax_irkd.video.decoding import COLOURED, COLOURLESS, VideoError, missing_bytes, resize
from jax_irkd.video.windows import Window, spans

SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv", ".y4m"),
)


SHORT_SIDE = 256  # as the builders store frames


COLOURS_EVERY = 16  # frames that a network reads, one is looked at for colours


_WILD = ("*", "?", "[")


# Titles in another encoding than UTF-8 are no reason to refuse a video; since 19 PyAV agrees.
_OPTIONS = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "ignore"}


def find_videos(patterns: Iterable[str]) -> list[Path]:
    """Files, folders (searched for videos, in order) and globs to paths. Raises UserError."""
    found: list[Path] = []
    for pattern in map(str, patterns):
        path = Path(pattern).expanduser()
        if path.is_dir():
            inside = sorted(
                p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()
            )
            if not inside:
                raise UserError(
                    f"no videos in the folder {path} (looked for {' '.join(SUFFIXES)}); "
                    "name the files instead"
                )
            found += inside
        elif not path.exists() and any(sign in pattern for sign in _WILD):
            inside = sorted(p for p in glob.glob(str(path), recursive=True) if os.path.isfile(p))
            if not inside:
                raise UserError(f"no file matches {pattern!r}; check the pattern")
            found += map(Path, inside)
        else:
            found.append(path)
    return list(dict.fromkeys(found))


class VideoFile:
    """One video file.

    `rate` is in frames per second; `expected` the number of frames by the file's packets, `read`
    the number that the last walk decoded. Raises VideoError for what is no video at all.
    """

    def __init__(self, path: str | Path, threads: int = 0):
        self.path, self.threads = Path(path), threads
        self.read = self.broken = 0
        self.rotation = 0
        self.colour = 0.0
        self._picture = Picture()
        with self._opened() as (container, stream):
            self.promised = stream.frames  # 0 when the header does not say
            self.rate = float(stream.average_rate or stream.guessed_rate or 30)
            self.expected = 0
            with contextlib.suppress(av.FFmpegError):  # Counted up to the damage.
                self.expected = _packets(container, stream)
        if not self.expected:
            raise VideoError(self.path, "has no frames (0 video packets); record or copy it again")

    @contextlib.contextmanager
    def _opened(self):
        if not self.path.exists():
            raise VideoError(self.path, "does not exist; check the path")
        if self.path.is_dir():
            raise VideoError(self.path, "is a folder")
        try:
            if not self.path.stat().st_size:
                raise VideoError(self.path, "is empty (0 bytes); copy it again")
            container = av.open(str(self.path), **_OPTIONS)
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise VideoError(
                self.path, f"is not a readable video ({reason}); give a file that ffmpeg can play"
            ) from error
        with container:
            if not container.streams.video:
                kinds = sorted({stream.type for stream in container.streams})
                held = f"has no video stream, only {', '.join(kinds)}" if kinds else "holds nothing"
                raise VideoError(self.path, f"{held}; give a video file")
            yield container, container.streams.video[0]

    @property
    def seconds(self) -> float:
        return self.expected / self.rate

    @property
    def warnings(self) -> list[str]:
        """What was unusual in the last walk."""
        found = []
        missing = missing_bytes(self.path)
        if self.broken or missing or self.read < self.promised - 2:
            cut = f"truncated by {missing} bytes" if missing else "damaged"
            total = max(self.expected, self.promised)
            found.append(f"is {cut}: {self.read} of {total} frames are readable and were used")
        if self.rotation:
            found.append(f"is stored rotated; turned by {self.rotation} degrees")
        return found

    def frames(self) -> Iterator[av.VideoFrame]:
        """Every readable frame, in order. Raises VideoError when there is none."""
        self.read = self.broken = 0
        with self._opened() as (container, stream):
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self.threads
            if stream.codec_context.name == "mjpeg":  # It marks no frame as damaged by itself.
                stream.codec_context.options = {"err_detect": "explode"}
            for frame in self._decoded(container, stream):
                if frame.is_corrupt:
                    self.broken += 1
                    continue
                if not self.read:
                    self.rotation = 90 * round(getattr(frame, "rotation", 0) / 90)
                self.read += 1
                yield frame
        if not self.read:
            raise VideoError(
                self.path,
                f"is damaged: none of its {self.expected} frames can be decoded; copy it again",
            )

    def _decoded(self, container, stream) -> Iterator[av.VideoFrame]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError):
                self.broken += 1
                return
            try:
                decoded = packet.decode()
            except (av.FFmpegError, ValueError):
                self.broken += 1
                continue
            yield from decoded

    def image(self, frame: av.VideoFrame, short_side: int = 0, *, grey: bool = False) -> np.ndarray:
        """The frame upright, RGB uint8 `h w 3`, shrunk to `short_side` unless that is 0.

        `grey` allows `h w` instead, where that is quicker.
        """
        return self._picture(frame, self.rotation, short_side, grey)


class Picture:
    """Decoded frames to upright RGB images.

    The conversion shrinks in passing, by area as the builders do: a tenth of the time that a whole
    1080p image takes, and the same picture but for one grey level of rounding. Grey pictures take
    the luma alone, a third of it.
    """

    def __init__(self):
        self._reformatter = VideoReformatter()

    def __call__(
        self, frame: av.VideoFrame, rotation: int, short_side: int = 0, grey: bool = False
    ) -> np.ndarray:
        shorter = min(frame.height, frame.width)
        if not 0 < short_side < shorter:
            return upright(frame.to_ndarray(format="rgb24"), rotation)
        height, width = (
            max(short_side, round(side * (short_side / shorter)))
            for side in (frame.height, frame.width)
        )
        small = self._reformatter.reformat(
            frame,
            width,
            height,
            "gray" if grey else "rgb24",
            interpolation="AREA",
            dst_color_range="JPEG",  # 0 to 255; grey would otherwise keep the video's range
        )
        return upright(small.to_ndarray(), rotation)


def _packets(container, stream) -> int:
    return sum(1 for packet in container.demux(stream) if packet.size)


def upright(image: np.ndarray, rotation: int) -> np.ndarray:
    """`image` turned counter-clockwise by `rotation` degrees, a multiple of 90."""
    return np.ascontiguousarray(np.rot90(image, round(rotation / 90) % 4))


def prepare_frame(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Any `h w`, `h w 1` or RGB `h w 3` uint8 image as the network was trained on: `h w c`.

    Shrunk as the builders do, to grey for infrared, then fitted.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"a frame is uint8 (h, w), (h, w, 1) or (h, w, 3), not {image.dtype} "
                         f"{image.shape}")  # fmt: skip
    if image.ndim == 3 and image.shape[2] not in (1, 3):
        raise ValueError(f"a frame has 1 or 3 channels, not {image.shape[2]}")
    image = resize(image, SHORT_SIDE)
    grey = image.ndim == 2 or image.shape[2] == 1
    if spec.modality == "infrared" and not grey:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    elif spec.modality == "rgb" and grey:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return fit(image, spec.size).reshape(*spec.shape[1:])


def colourfulness(image: np.ndarray) -> float:
    """Mean of max(r, g, b) - min(r, g, b) over a coarse grid, 0 to 255."""
    coarse = image[::8, ::8].astype(np.int16)
    return float(np.mean(coarse.max(axis=2) - coarse.min(axis=2)))


def modality_warning(colour: float, modality: str) -> list[str]:
    """A line when pictures of this colourfulness are not what the network learned from."""
    if modality == "infrared" and colour > COLOURED:
        return [
            f"is a colour video (channels differ by {colour:.0f} grey levels), the network expects "
            "infrared; it was converted to grey, expect worse results"
        ]
    if modality == "rgb" and colour < COLOURLESS:
        return ["has no colour, the network expects RGB; expect worse results"]
    return []


def windows(footage: VideoFile, spec: InputSpec, length: int, stride: int) -> Iterator[Window]:
    """Overlapping windows of `length` frames every `stride`, in one walk through the video.

    Only the frames that a window needs are converted, and kept until the last window that needs
    them: memory does not grow with the video. What comes behind the last readable frame is cut
    off. Sets `footage.colour`.
    """
    planned = spans(footage.expected, length, stride)
    positions = segment_positions(spec.num_segments)
    needed = [start + frame_indices(positions, stop - start) for start, stop in planned]
    kept: dict[int, np.ndarray] = {}
    current = 0
    # Decoding goes on in a thread of its own while frames are converted here.
    for index, image in _converted(footage, spec, ahead(_chosen(footage, needed), depth=4)):
        kept[index] = prepare_frame(image, spec)
        while current < len(planned) and needed[current][-1] <= index:
            yield _window(planned[current], needed[current], kept)
            current += 1
            oldest = planned[current][0] if current < len(planned) else index + 1
            for old in [old for old in kept if old < oldest]:
                del kept[old]
    total = footage.read
    if current < len(planned) and planned[current][0] < total and kept:
        start = planned[current][0]
        yield _window((start, total), start + frame_indices(positions, total - start), kept)


def _chosen(
    footage: VideoFile, needed: Sequence[np.ndarray]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The frames that one of the windows needs, with their numbers."""
    wanted = set(np.concatenate(needed).tolist())
    for index, frame in enumerate(footage.frames()):
        if index in wanted:
            yield index, frame


def _converted(
    footage: VideoFile, spec: InputSpec, frames: Iterable[tuple[int, av.VideoFrame]]
) -> Iterator[tuple[int, np.ndarray]]:
    """Images of frames, shrunk; for infrared only some in colour, to tell whether there is any."""
    total, seen = 0.0, 0
    for count, (index, frame) in enumerate(frames):
        looked_at = count < spec.num_segments or count % COLOURS_EVERY == 0
        grey = spec.modality == "infrared" and not looked_at
        image = footage.image(frame, SHORT_SIDE, grey=grey)
        if looked_at:
            total, seen = total + colourfulness(image), seen + 1
            footage.colour = total / seen
        yield index, image


def _window(span: tuple[int, int], indices, kept: dict[int, np.ndarray]) -> Window:
    held = np.array(sorted(kept))
    nearest = tuple(int(held[np.abs(held - index).argmin()]) for index in indices)
    return Window(*span, np.stack([kept[index] for index in nearest]), nearest)


def whole_clip(footage: VideoFile, spec: InputSpec) -> Window:
    """The video as one clip of segments. A damaged one is read twice, to place the segments."""
    counted = footage.expected
    (found,) = windows(footage, spec, counted, counted)
    if footage.read < counted - 2:
        footage.expected = footage.read
        (found,) = windows(footage, spec, footage.read, footage.read)
        footage.expected = counted
    return found._replace(stop=footage.read)

"""Clips as JPEG frames, as the data sets store them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from jax_irkd.video.archives import Source, held
from jax_irkd.video.decoding import Film, Shot
from jax_irkd.video.depth import Range, flat_warning
from jax_irkd.video.faults import VideoError, named_faults
from jax_irkd.video.pixels import COLOURED, coarse_sample, colourfulness, resize
from jax_irkd.video.timing import spread

COLOURS_EVERY = 16  # frames that are kept, one is looked at for colours


class CameraCrop(NamedTuple):
    """The part of an RGB frame that the infrared camera sees.

    `matrix` (2x3) maps pixels of an infrared frame of `infrared_size` to pixels of an RGB frame of
    `rgb_size`; both sizes are (width, height).
    """

    matrix: np.ndarray
    infrared_size: tuple[int, int]
    rgb_size: tuple[int, int]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The crop of `h w c` at the resolution of the RGB frame; black where RGB sees nothing."""
        height, width = image.shape[:2]
        fit = np.diag([width / self.rgb_size[0], height / self.rgb_size[1]])
        matrix = fit @ self.matrix
        scale = max(1.0, abs(np.linalg.det(matrix[:, :2])) ** 0.5)
        size = tuple(round(side * scale) for side in self.infrared_size)
        matrix[:, :2] /= scale
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, matrix, size, flags=flags)


class FrameStorage(NamedTuple):
    """How frames are stored: at most `max_frames` of a clip (0: all), shrunk to `short_side`, as
    JPEG of `quality`. `range` brings more than eight bits down; `trusted` takes an infrared file
    for one whatever its colours say.
    """

    max_frames: int = 64
    short_side: int = 256
    quality: int = 90
    range: Range = Range()
    trusted: bool = False


class EncodedClip(NamedTuple):
    """JPEG frames of one clip.

    `indices` are their positions in the source, `total` is the source's frame count, `colour` that
    of `pixels.colourfulness` on average, `flat` says what is wrong with pictures that show nothing.
    """

    frames: list[bytes]
    indices: list[int]
    total: int
    colour: float
    flat: str = ""

    def until(self, stop: int, start: int) -> "EncodedClip":
        """Its frames before `stop` of its source, one at least; it begins at `start`."""
        count = max(1, sum(index < stop for index in self.indices))
        frames, indices = self.frames[:count], self.indices[:count]
        return self._replace(frames=frames, indices=indices, total=stop - start)


class _Kept(NamedTuple):
    """A frame that is waiting for its clip: JPEG bytes, or deep pixels until their range is known;
    a coarse sample of its pixels; its colour, or None where it was not looked at."""

    stored: bytes | np.ndarray
    sample: np.ndarray
    colour: float | None


def evenly_spaced(total: int, count: int) -> list[int]:
    """The middles of `count` equal parts of `range(total)`: floor((i + 1/2) total / count).

    Every index when `count` is 0 or at least `total`. Strictly increasing.
    """
    if count <= 0 or count >= total:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def encode_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """JPEG bytes of an RGB `h w 3` or one-channel `h w` or `h w 1` uint8 image."""
    if image.ndim == 3 and image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape} as JPEG")
    return encoded.tobytes()


def encode_clip(
    source: Source,
    *,
    infrared: bool = False,
    crop: CameraCrop | None = None,
    threads: int = 1,
    **storage,
) -> EncodedClip:
    """At most `max_frames` frames of a whole film, evenly spaced in time, as JPEG.

    `storage` is that of `FrameStorage`. An infrared file holds its picture three times over; it is
    stored as one channel. Raises VideoError, also for a coloured file given as infrared.
    """
    with named_faults(source), held(source) as file:
        film = Film(file, threads=threads)
        return settled(
            [film], lambda: [encode_film(film, None, infrared, crop, FrameStorage(**storage))]
        )[0]


def settled(films: Sequence[Film], encode):
    """What `encode()` gives, done again when a walk found other times than the packets had told."""
    before = [film.timing for film in films]
    made = encode()
    if any(film.timing is not timing for film, timing in zip(films, before)):
        made = encode()
    return made


def encode_film(
    film: Film, stop: float | None, infrared: bool, crop: CameraCrop | None, storage: FrameStorage
) -> EncodedClip:
    """Frames of a film until `stop` seconds (None: its end)."""
    with named_faults(film.source):
        timing = film.timing
        stop = timing.end if stop is None else stop
        indices = spread(timing, storage.max_frames, 0.0, stop)
        (clip,) = _encode_at(film, film.shots(), [indices], infrared, crop, storage)
        return clip._replace(total=film.read)


def encode_ranges(
    source: Source | Film,
    ranges: Sequence[tuple[int, int]],
    *,
    infrared: bool = False,
    crop: CameraCrop | None = None,
    threads: int = 1,
    **storage,
) -> tuple[list[EncodedClip], int, VideoError | None]:
    """One clip for each half-open frame range of a long video, which is decoded once, in order.

    Returns the clips, the number of readable frames and the fault that ended reading, or None. A
    range is cut off at the last readable frame; a clip may therefore be short, or empty (colour
    0). Raises VideoError only when no frame is readable or an infrared video is coloured. Memory:
    the JPEG frames of all clips, and the deep frames of those that are being read.
    """
    faults: list[VideoError] = []
    film, kept = (
        source if isinstance(source, Film) else Film(source, threads=threads),
        FrameStorage(**storage),
    )
    chosen = [_within(film, start, stop, kept.max_frames) for start, stop in ranges]
    shots = _until_fault(film.shots(), faults)
    with named_faults(film.source):
        clips = _encode_at(film, shots, chosen, infrared, crop, kept)
    if faults and not film.read:
        raise faults[0]
    clips = [
        clip._replace(total=max(0, min(stop, film.read) - start))
        for clip, (start, stop) in zip(clips, ranges)
    ]
    return clips, film.read, faults[0] if faults else None


def _within(film: Film, start: int, stop: int, count: int) -> list[int]:
    """Frames of a range, evenly spaced in time."""
    timing = film.timing
    if timing.steady or start >= len(timing.times):
        return [start + index for index in evenly_spaced(stop - start, count)]
    last = min(stop, len(timing.times)) - 1
    return spread(timing, count, timing.times[start], timing.ends()[last])


def _encode_at(
    film: Film,
    shots: Iterator[Shot],
    chosen: Sequence[list[int]],
    infrared: bool,
    crop: CameraCrop | None,
    storage: FrameStorage,
) -> list[EncodedClip]:
    """The clips of these frames, in one walk. Raises VideoError for coloured infrared."""
    wanted = {index for indices in chosen for index in indices}
    waiting = sorted((i for i, c in enumerate(chosen) if c), key=lambda i: chosen[i][-1])
    kept: dict[int, _Kept] = {}
    made: dict[int, EncodedClip] = {}
    colours: list[float] = []
    for shot in shots:
        if shot.index in wanted:
            look = not len(kept) % COLOURS_EVERY
            kept[shot.index] = one = _keep(shot, infrared, crop, storage, look)
            if infrared and one.colour is not None:
                colours.append(one.colour)
        while waiting and chosen[waiting[0]][-1] <= shot.index:
            first = waiting.pop(0)
            made[first] = _clip(chosen[first], kept, infrared, storage)
            oldest = min((chosen[i][0] for i in waiting), default=shot.index + 1)
            for index in [index for index in kept if index < oldest]:
                del kept[index]
    for index in waiting:
        made[index] = _clip(chosen[index], kept, infrared, storage)
    if infrared and colours and not storage.trusted and np.mean(colours) > COLOURED:
        raise VideoError(
            film.source,
            f"is not infrared: its channels differ by {np.mean(colours):.0f} grey levels, at most "
            f"{COLOURED:.0f} are allowed; is it an RGB or a false-colour file? --trust_names takes "
            "it as it is",
        )
    return [made.get(i, EncodedClip([], [], 0, 0.0)) for i in range(len(chosen))]


def _keep(
    shot: Shot, infrared: bool, crop: CameraCrop | None, storage: FrameStorage, look: bool
) -> _Kept:
    if crop:
        image = resize(crop(shot.image()), storage.short_side)
    else:
        image = shot.image(storage.short_side, grey=infrared)
    colour = None
    if look:
        colour = colourfulness(shot.image(storage.short_side) if infrared else image)
    sample = coarse_sample(image)
    if image.dtype != np.uint8:
        return _Kept(image, sample, colour)
    return _Kept(_jpeg(image, infrared, storage), sample.copy(), colour)


def _jpeg(image: np.ndarray, infrared: bool, storage: FrameStorage) -> bytes:
    if image.ndim == 2 and not infrared:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return encode_jpeg(image, storage.quality)


def _clip(
    indices: list[int], kept: dict[int, _Kept], infrared: bool, storage: FrameStorage
) -> EncodedClip:
    """A clip of the frames that there are, those of more than eight bits by one rule for all."""
    indices = [index for index in indices if index in kept]
    if not indices:
        return EncodedClip([], [], 0, 0.0)
    own = [kept[index] for index in indices]
    colours = [one.colour for one in own if one.colour is not None]
    colour = float(np.mean(colours)) if colours else 0.0
    samples = np.concatenate([one.sample.reshape(-1) for one in own])
    deep = [isinstance(one.stored, np.ndarray) for one in own]
    if any(deep) and not all(deep):
        raise ValueError("it mixes pictures of eight bits with pictures of more")
    if any(deep):
        levels = storage.range.of([one.stored for one in own])
        frames = [_jpeg(image, infrared, storage) for image in levels]
        seen = np.concatenate([coarse_sample(image).reshape(-1) for image in levels])
    else:
        frames, seen = [one.stored for one in own], samples
    return EncodedClip(frames, indices, 0, colour, flat_warning(samples, seen))


def _until_fault(frames: Iterator[Shot], faults: list[VideoError]) -> Iterator[Shot]:
    try:
        yield from frames
    except VideoError as error:
        faults.append(error)

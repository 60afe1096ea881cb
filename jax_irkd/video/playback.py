"""Videos as users have them, cut into the windows that a network looks at.

The builders refuse a damaged clip, because a data set must be right; here somebody wants an answer.
The same `decoding.Film` reads, but goes on behind a fault, and everything unusual is a warning.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from jax_irkd.data.frames import fit
from jax_irkd.data.spec import InputSpec
from jax_irkd.errors import UserError
from jax_irkd.host.prefetch import ahead
from jax_irkd.video import finding, formats, grid, stills
from jax_irkd.video.archives import Source, find_files, name_of
from jax_irkd.video.decoding import STILLS_RATE, Film, Shot
from jax_irkd.video.depth import Range, flat_warning
from jax_irkd.video.faults import VideoError
from jax_irkd.video.grid import PlannedWindow
from jax_irkd.video.pixels import COLOURED, COLOURLESS, coarse_sample, colourfulness, resize
from jax_irkd.video.timing import Timing
from jax_irkd.video.windows import Window, walk

SHORT_SIDE = 256  # as the builders store frames
COLOURS_EVERY = 16  # frames that a network reads, one is looked at for colours
MIXED = 0.1  # of the pictures at least, of each kind, in a film that changes between them
LOOKED_AT = 64  # frames at most, for the warnings about a film's pictures

_WILD = ("*", "?", "[")


def find_videos(patterns: Iterable[str]) -> tuple[list[Source], list[VideoError]]:
    """Films of files, folders (searched in order, zip archives too) and globs. Raises UserError.

    Numbered pictures, in a folder or named one by one, are one film. Also what of the folders
    cannot be read but may be films, as links to nothing and archives that are damaged. Hidden files
    are passed over.
    """
    found: list[Source] = []
    lost: list[VideoError] = []
    pictures: list[Source] = []  # that were named
    for pattern in map(str, patterns):
        if "://" in pattern:
            raise UserError(
                f"{pattern} is an address, not a file; fetch it first (curl -L -O '{pattern}'), or "
                f"watch a live source with --stream={pattern}"
            )
        path, named = Path(pattern).expanduser(), []
        if path.is_dir():
            inside, broken = _inside(path)
            found, lost = found + inside, lost + broken
        elif not path.exists() and any(sign in pattern for sign in _WILD):
            inside = sorted(p for p in glob.glob(str(path), recursive=True) if not os.path.isdir(p))
            if not inside:
                raise UserError(f"no file matches {pattern!r}; check the pattern")
            named = [Path(one) for one in inside]
        else:
            named = [path]
        found += named
        pictures += [one for one in named if formats.is_still(one.name)]
    if len(pictures) > 1:
        others = [one for one in found if one not in pictures]
        found = [*others, *stills.films_of(map(name_of, pictures))]
    return list(dict.fromkeys(found)), lost


def _inside(folder: Path) -> tuple[list[Source], list[VideoError]]:
    """All films in a folder and below it, and what cannot be read; an empty one is an error."""
    # A film of numbered pictures is called by its folder, and "." is no name.
    files, broken = find_files(folder if folder.name else folder.resolve())
    sources = [one.source for one in stills.gather(files)[0] if finding.film_name(one.source)]
    found = [Path(source) if isinstance(source, str) else source for source in sources]
    lost = [
        VideoError(one.name, one.why)
        for one in broken
        if one.container or finding.film_name(one.name) or stills.still_of(one.name)
    ]
    if not found and not lost:
        raise UserError(
            f"no videos in the folder {folder} (looked for {' '.join(formats.VIDEOS)} and numbered "
            "pictures); name the files instead"
        )
    return sorted(found, key=name_of), lost


def prepare_frame(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Any `h w`, `h w 1` or RGB `h w 3` image at the size that the network was trained on: `h w c`.

    Shrunk as the builders do, to grey for infrared, then fitted. uint8, or one channel of uint16,
    which `clip_of` brings down when its clip is known.
    """
    image = np.asarray(image)
    deep = image.dtype == np.uint16 and (image.ndim == 2 or image.shape[2:] == (1,))
    if not (image.dtype == np.uint8 or deep) or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(
            "a frame is uint8 (h, w), (h, w, 1) or (h, w, 3), or uint16 of one channel, not "
            f"{image.dtype} {image.shape}"
        )
    if image.ndim == 3 and image.shape[2] not in (1, 3):
        raise ValueError(f"a frame has 1 or 3 channels, not {image.shape[2]}")
    return fitted(image, spec)


def fitted(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """`prepare_frame` for what a film holds, of any depth."""
    image = resize(image, SHORT_SIDE)
    grey = image.ndim == 2 or image.shape[2] == 1
    if spec.modality == "infrared" and not grey:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    elif spec.modality == "rgb" and grey and image.dtype == np.uint8:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return fit(image, spec.size).reshape(*spec.size, -1)


class Pictures:
    """What the pictures of a film look like, from some of them."""

    def __init__(self) -> None:
        self._colours: list[float] = []
        self._samples: list[np.ndarray] = []

    @property
    def colour(self) -> float:
        """`pixels.colourfulness` on average."""
        return float(np.mean(self._colours)) if self._colours else 0.0

    def add(self, image: np.ndarray, coloured: np.ndarray) -> None:
        """One picture, as the network gets it and in the colours that the film has."""
        self._colours.append(colourfulness(coloured))
        if len(self._samples) < LOOKED_AT:
            self._samples.append(coarse_sample(image))

    def warnings(self, modality: str, levels: Range) -> list[str]:
        """Colours that the network does not expect, and pictures in which nothing can be seen."""
        if not self._samples:
            return []
        samples = np.concatenate([sample.reshape(-1) for sample in self._samples])
        flat = flat_warning(samples, levels.levels(samples))
        return self._colour_warning(modality) + ([flat] if flat else [])

    def _colour_warning(self, modality: str) -> list[str]:
        """As cameras that switch between day and night, a film may be of both kinds."""
        coloured = sum(colour > COLOURED for colour in self._colours)
        grey = sum(colour < COLOURLESS for colour in self._colours)
        if min(coloured, grey) < MIXED * len(self._colours):
            return modality_warning(self.colour, modality)
        return [
            f"is in colour in {coloured} and grey in {grey} of {len(self._colours)} pictures "
            f"looked at, the network expects {modality} throughout; cut it where it changes"
        ]


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


def untimed_warning(timing: Timing) -> list[str]:
    """A line when nothing says when the frames were taken."""
    if timing.timed:
        return []
    return [f"is pictures without time stamps; {STILLS_RATE:g} frames per second were assumed"]


def windows(
    film: Film,
    spec: InputSpec,
    planned: Sequence[PlannedWindow],
    levels: Range = Range(),  # noqa: B008 (a tuple)
    pictures: Pictures | None = None,
) -> Iterator[Window]:
    """The windows `planned`, in one walk through the film.

    Only the frames that a window needs are converted, and kept until the last window that needs
    them: memory does not grow with the film. What comes behind the last readable frame is cut off.
    Raises VideoError when no window has a readable frame.
    """
    timing = film.timing
    # Decoding goes on in a thread of its own while frames are converted here.
    chosen = ahead(_chosen(film, planned), depth=4)
    converted = _converted(chosen, spec, pictures or Pictures())
    images = ((index, fitted(image, spec)) for index, image in converted)
    rest = yield from walk(images, planned, spec.channels, levels)
    total = min(film.read + film.broken, len(timing.times))
    begun = list(rest.cut_off(timing, max(total, rest.seen)))
    if not begun and len(rest.planned) == len(planned):
        reason = "is damaged: none of the frames that are looked at can be read; copy it again"
        raise VideoError(film.source, reason)
    yield from begun


def _chosen(film: Film, planned: Sequence[PlannedWindow]) -> Iterator[Shot]:
    """The frames that one of the windows needs."""
    wanted = {index for place in planned for index in place.frames}
    for shot in film.shots():
        if shot.index in wanted:
            yield shot


def _converted(
    shots: Iterable[Shot], spec: InputSpec, pictures: Pictures
) -> Iterator[tuple[int, np.ndarray]]:
    """Images of frames, shrunk; some of them are looked at in colour, too."""
    for count, shot in enumerate(shots):
        infrared = spec.modality == "infrared"
        image = shot.image(SHORT_SIDE, grey=infrared)
        if count < spec.num_segments or count % COLOURS_EVERY == 0:
            pictures.add(image, shot.image(SHORT_SIDE) if infrared else image)
        yield shot.index, image


def whole_clip(
    film: Film,
    spec: InputSpec,
    levels: Range = Range(),  # noqa: B008 (a tuple)
    pictures: Pictures | None = None,
) -> Window:
    """The film as one clip of segments. A damaged one is read twice, to place the segments."""
    for _ in range(2):
        before = film.timing
        place = grid.whole(before, spec.num_segments)
        (found,) = windows(film, spec, [place], levels, pictures)
        if film.timing is before:
            break
    return found._replace(stop=film.read)

"""A stream as an annotated video, written while it runs."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from jax_irkd.deployment.annotate import FilmWriter, draw, in_colour, sized
from jax_irkd.deployment.judgement import Verdict
from jax_irkd.errors import FULL, UserError
from jax_irkd.video import formats

RATE = 30.0  # frames per second that the encoder expects; frames have their own times


def recording_path(target: str) -> Path:
    """A file, or in a folder one named by the time of now.

    Raises UserError for what cannot be written and for a file that is there already: a recording
    cannot be made again.
    """
    path = Path(target).expanduser()
    if path.is_dir():
        return path / f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}.mp4"
    if not formats.is_video(path.name) or path.suffix.lower() == ".avi":
        raise UserError(
            f"--annotate={target} cannot hold a stream; give a folder or a name such as seen.mp4"
        )
    if path.exists():
        raise UserError(f"--annotate={target} exists and is kept; give another name or a folder")
    if not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for --annotate; make it first")
    return path


class Recorder:
    """Frames that were handed out, with the answer of their time; dropped ones are missing.

    Later frames of another size are brought to that of the first. A file that ends in the middle,
    because the machine lost power, can be played up to there. Use it as a context manager.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        self.path, self.names = path, names
        self._writer: FilmWriter | None = None
        self._size = (0, 0)
        # Fonts are looked up now, a quarter of a second, not while frames come in.
        draw(np.zeros((48, 64, 3), np.uint8), Verdict(np.eye(len(names))[0]), names)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error) -> None:
        if self._writer:
            self._writer.close()

    def add(self, image: np.ndarray, moment: float, verdict: Verdict | None) -> None:
        """A frame of any size and depth at `moment` (seconds from the first), with the newest
        answer, None before there is one. Raises UserError when it cannot be written.
        """
        image = sized(in_colour(image))
        try:
            if self._writer is None:
                self._size = image.shape[1::-1]
                self._writer = FilmWriter(self.path, image.shape, RATE, steady=False, live=True)
            if image.shape[1::-1] != self._size:
                image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
            if verdict is not None:
                draw(image, verdict, self.names)
            self._writer.add(image, moment)
        except (av.FFmpegError, OSError) as error:
            if getattr(error, "errno", None) in FULL:
                raise OSError(error.errno, "the disk is full", str(self.path)) from error
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot write {self.path} ({reason})") from error

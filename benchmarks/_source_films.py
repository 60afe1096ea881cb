"""The frames of a clip from the AVI files of NTU RGB+D, as a reader without a data set has them."""

from pathlib import Path

import av
import cv2
import numpy as np

from jax_irkd.data.frames import fit
from jax_irkd.data.sampling import frame_indices

SIZES = {"rgb": (256, 340), "infrared": (256, 308)}  # as the builders store frames


def from_avi(paths: tuple[Path, Path], positions: np.ndarray) -> dict[str, np.ndarray]:
    """The same frames from the source: PyAV decodes from the start to the last one wanted."""
    clip = {}
    for path, modality in zip(paths, SIZES):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            wanted = frame_indices(positions, stream.frames)
            found, kind = {}, "gray" if modality == "infrared" else "rgb24"
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    found[index] = fit(frame.to_ndarray(format=kind), SIZES[modality])
                if index == wanted[-1]:
                    break
        clip[modality] = np.stack([found[index] for index in wanted])
    return clip


def by_seeking(paths: tuple[Path, Path], positions: np.ndarray) -> dict[str, np.ndarray]:
    """The same frames from the source by OpenCV, which seeks to every frame."""
    clip = {}
    for path, modality in zip(paths, SIZES):
        capture, frames = cv2.VideoCapture(str(path)), []
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        code = cv2.COLOR_BGR2GRAY if modality == "infrared" else cv2.COLOR_BGR2RGB
        for index in frame_indices(positions, total):
            capture.set(cv2.CAP_PROP_POS_FRAMES, int(index))
            good, frame = capture.read()
            if not good:
                raise ValueError(f"OpenCV cannot read frame {index} of {path}")
            frames.append(fit(cv2.cvtColor(frame, code), SIZES[modality]))
        capture.release()
        clip[modality] = np.stack(frames)
    return clip

"""Optical flow of a clip, computed once and kept, and the three pictures made of it.

Flow is kept as uint8: 128 is rest, 1 and 255 are `-bound` and `bound` pixels a frame. The
representations are functions of flow in units of the bound, [-1, 1].
"""

import functools
import hashlib
import itertools
import json
import os
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from jax_irkd.data.loading import decode_frame
from jax_irkd.errors import UserError
from jax_irkd.host.files import expanded

Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make_flow(algorithm: str) -> Flow:
    """A function from two grey frames to the flow between them, `h w 2` in pixels (right, down).

    `dis` (Kroeger et al., ECCV 2016) is in every OpenCV, `tvl1` in opencv-contrib only. Raises
    UserError for any other name, and for tvl1 where it is missing.
    """
    if algorithm == "dis":
        create = functools.partial(cv2.DISOpticalFlow_create, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    elif algorithm == "tvl1":
        if not hasattr(cv2, "optflow"):
            raise UserError(
                "flow tvl1 needs opencv-contrib-python-headless in place of opencv-python-headless;"
                " install it, or use --config.tstdd.flow=dis"
            )
        create = cv2.optflow.DualTVL1OpticalFlow_create
    else:
        raise UserError(f"unknown flow {algorithm!r}; choose one of ['dis', 'tvl1']")
    # OpenCV's objects carry something over from the pair before: a new one for each pair, or the
    # flow of a clip would depend on the clips before it.
    return lambda first, second: create().calc(first, second, None)


def clip_flow(frames: UInt8[np.ndarray, "t h w"], flow: Flow) -> Float[np.ndarray, "u h w 2"]:
    """Flow between successive frames, u = t - 1; a clip of a single frame rests for one step."""
    if not len(frames):
        raise ValueError("a clip without frames has no flow")
    fields = [flow(first, second) for first, second in itertools.pairwise(frames)]
    return np.stack(fields or [np.zeros((*frames.shape[1:], 2), np.float32)])


def quantise(flow: Float[np.ndarray, "..."], bound: float) -> UInt8[np.ndarray, "..."]:
    """Flow in pixels as uint8, cut off at `bound`."""
    return np.round(np.clip(flow / bound, -1, 1) * 127 + 128).astype(np.uint8)


def restore(stored: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Stored flow in units of the bound."""
    return (stored.astype(np.float32) - 128) / 127


def stacked_flow(
    flow: Float[np.ndarray, "u h w 2"], start: int, length: int
) -> Float[np.ndarray, "h w two_l"]:
    """`length` fields from `start` on as channels x, y, x, y, ...; the last one is repeated."""
    chosen = flow[np.minimum(np.arange(start, start + length), len(flow) - 1)]
    return np.moveaxis(chosen, 0, 2).reshape(*flow.shape[1:3], 2 * length)


def motion_history(flow: Float[np.ndarray, "u h w 2"], decay: float) -> Float[np.ndarray, "u h w"]:
    """OF-MHI: H_t = max(|flow_t|, decay H_{t-1}), cut off at 1. The motion there was, fading."""
    magnitude = np.minimum(np.linalg.norm(flow, axis=-1), 1)
    for before, now in itertools.pairwise(magnitude):
        np.maximum(now, decay * before, out=now)
    return magnitude


def stacked_difference(flow: Float[np.ndarray, "u h w 2"]) -> Float[np.ndarray, "h w 3"]:
    """OFSDI: the mean over time of |flow_t - flow_{t-1}|, its x, its y and its length.

    Each channel is scaled from its smallest value, 0, to its largest, 1; a flat one is 0.
    """
    change = np.diff(flow, axis=0) if len(flow) > 1 else np.zeros_like(flow)
    length = np.linalg.norm(change, axis=-1, keepdims=True)
    mean = np.concatenate([np.abs(change), length], axis=-1).mean(axis=0)
    low, high = mean.min(axis=(0, 1)), mean.max(axis=(0, 1))
    return np.where(high > low, (mean - low) / np.where(high > low, high - low, 1), 0.0)


class FlowCache:
    """The flow of every stored infrared frame of a clip, one file a clip below `folder`.

    A file appears whole or not at all, and one that cannot be read is made anew: several
    processes may share the folder. Flow of another size, bound, algorithm or dataset lies in
    another subfolder.
    """

    def __init__(
        self, folder: Path, *, fingerprint: str, size: tuple[int, int], bound: float, algorithm: str
    ):
        self.size, self.bound = size, bound
        made = [fingerprint, list(size), bound, algorithm, cv2.__version__]
        digest = hashlib.sha256(json.dumps(made).encode()).hexdigest()
        self.folder = expanded(folder) / digest[:12]
        self._flow = make_flow(algorithm)

    def path(self, clip_id: str) -> Path:
        """Where the flow of a clip lies."""
        name = hashlib.sha256(clip_id.encode()).hexdigest()[:24]
        return self.folder / name[:2] / f"{name}.npz"

    def read(self, clip_id: str) -> UInt8[np.ndarray, "u h w 2"] | None:
        """The stored flow, None where there is none or it is damaged."""
        try:
            with self.path(clip_id).open("rb") as file, np.load(file) as stored:
                flow = stored["flow"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zipfile.zlib.error):
            return None
        right = flow.dtype == np.uint8 and flow.ndim == 4 and flow.shape[1:] == (*self.size, 2)
        return flow if right and len(flow) else None

    def fill(self, clip_id: str, frames: Sequence[bytes]) -> None:
        """Compute and store the flow of a clip, unless it is there.

        Raises ValueError for a frame that is no image and for a clip without frames, UserError
        when the folder cannot be written.
        """
        if self.read(clip_id) is not None:
            return
        decoded = [decode_frame(frame, self.size, "infrared")[..., 0] for frame in frames]
        if not decoded:
            raise ValueError("a clip without frames has no flow")
        flow = quantise(clip_flow(np.stack(decoded), self._flow), self.bound)
        path = self.path(clip_id)
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.savez_compressed(file, flow=flow)
            temporary.replace(path)
        except OSError as error:
            raise UserError(
                f"cannot keep optical flow in {self.folder}: {error.strerror}; name another folder "
                "with --config.tstdd.cache_dir"
            ) from error

"""Raw demo data: people acting NTU RGB+D's classes A001 to A010, filmed in colour and infrared.

    python -m jax_irkd.data.synthetic --out=data/raw --subjects=20 --repetitions=1 --seed=0

Writes pairs of AVI files with the names and folders in which NTU RGB+D is distributed:

    OUT/nturgbd_rgb_s001/nturgb+d_rgb/S001C001P001R001A001_rgb.avi
    OUT/nturgbd_ir_s001/nturgb+d_ir/S001C001P001R001A001_ir.avi

Every random number comes from the seed and the clip's own name, so a file does not depend on how
many clips are made, in which order or by how many processes; the same seed and library versions
give the same pictures.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import cv2
from av.codec.codec import UnknownCodecError
from rich import progress as bars
from rich.console import Console

from jax_irkd.data.built import SYNTHETIC
from jax_irkd.data.synthetic import recording, staging
from jax_irkd.data.synthetic.staging import ClipNumbers
from jax_irkd.errors import UserError, nearest
from jax_irkd.host import processor
from jax_irkd.host.files import read_json, write_whole
from jax_irkd.host.interrupts import deaf_children

SUBJECTS_PER_SETUP = 8  # as in NTU RGB+D's first setup: P001 to P008


LIMITS = {"subjects": 40, "cameras": 3, "repetitions": 2, "classes": 10}


VERSION = 5  # raise it when the pictures change, so that old folders are not taken for new ones


class Summary(NamedTuple):
    """What `generate` did."""

    root: Path
    clips: int
    written: int  # the rest was there already
    rgb_frames: int  # in the files written now
    infrared_frames: int


def generate(
    out: str | os.PathLike,
    *,
    subjects: int | Iterable[int] = 20,
    cameras: Iterable[int] = (1, 2, 3),
    repetitions: int | Iterable[int] = 1,
    classes: Iterable[int] = range(1, 11),
    seed: int = 0,
    workers: int | None = None,
    codec: str = "h264",
    progress: bool = True,
) -> Summary:
    """Writes one pair of AVI files for every subject, camera, repetition and class.

    A number for `subjects` or `repetitions` means the first so many. `workers` processes (all
    cores when None) share the work; one means this process. Clips that an earlier call with
    the same settings has written are kept, so an interrupted call is finished by repeating it.

    Raises UserError for numbers NTU RGB+D does not have and for a folder that holds anything else.
    """
    chosen = {
        "subjects": _numbers("subjects", subjects),
        "cameras": _numbers("cameras", cameras),
        "repetitions": _numbers("repetitions", repetitions),
        "classes": _numbers("classes", classes),
    }
    if codec not in recording.RGB_CODECS:
        raise UserError(f"unknown codec {codec!r}{nearest(codec, sorted(recording.RGB_CODECS))}")
    if seed < 0 or (workers is not None and workers < 1):
        raise UserError(f"seed must be 0 or more and workers 1 or more, not {seed} and {workers}")
    root = Path(out)
    clips = list(_clips(**chosen))
    folders = {clip_path(root, clip, kind).parent for clip in clips for kind in KINDS}
    claim(root, {"version": VERSION, "seed": seed, "codec": codec}, folders)
    missing = [clip for clip in clips if not _complete(root, clip)]
    try:
        make = functools.partial(make_clip, root, seed, codec)
        counts = list(shown(in_parallel(make, missing, workers), len(missing), progress))
    except (OSError, av.FFmpegError, UnknownCodecError) as error:
        raise UserError(f"cannot write the demo data to {root}: {error}") from error
    rgb_frames, infrared_frames = (sum(part) for part in zip((0, 0), *counts))
    return Summary(root, len(clips), len(missing), rgb_frames, infrared_frames)


def clip_path(root: Path, clip: ClipNumbers, modality: str) -> Path:
    """Where NTU RGB+D's archives put the file of `modality`, "rgb" or "ir"."""
    archive = f"nturgbd_{modality}_s{clip.setup:03d}"
    return root / archive / f"nturgb+d_{modality}" / f"{clip.name}_{modality}.avi"


def make_clip(root: Path, seed: int, codec: str, clip: ClipNumbers) -> tuple[int, int]:
    """Films and writes one clip; the numbers of its RGB and infrared frames."""
    rgb, infrared = staging.film(clip, seed)
    recording.write_rgb(clip_path(root, clip, "rgb"), rgb, staging.RGB_RATE, codec)
    recording.write_infrared(clip_path(root, clip, "ir"), infrared, staging.INFRARED_RATE)
    return len(rgb), len(infrared)


def _numbers(name: str, value: int | Iterable[int]) -> list[int]:
    numbers = list(range(1, value + 1)) if isinstance(value, int) else sorted(set(value))
    wrong = [number for number in numbers if not 1 <= number <= LIMITS[name]]
    if wrong or not numbers:
        raise UserError(
            f"{name} must be numbers from 1 to {LIMITS[name]}, at least one; got {value!r}"
        )
    return numbers


def _clips(subjects, cameras, repetitions, classes) -> Iterator[ClipNumbers]:
    for subject in subjects:
        setup = 1 + (subject - 1) // SUBJECTS_PER_SETUP
        for repetition in repetitions:
            for action in classes:
                for camera in cameras:
                    yield ClipNumbers(setup, camera, subject, repetition, action)


def claim(root: Path, settings: dict, folders: Iterable[Path]) -> None:
    """Makes the folders and writes down whose they are, or refuses those of somebody else.

    Where no version was written down, by hands of before, it is the first.
    """
    manifest = root / SYNTHETIC
    try:
        if manifest.exists():
            found = read_json(manifest, "choose another --out or delete the folder")
            if isinstance(found, dict):
                found = {"version": 1} | found
            if found != settings:
                raise UserError(
                    f"{root} holds films made with {found}, not {settings}; choose another --out "
                    "or delete the folder"
                )
        elif root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise UserError(f"{root} is not an empty folder; choose another --out")
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        write_whole(manifest, json.dumps(settings) + "\n")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write the demo data to {root}: {error}") from error


KINDS = ("rgb", "ir")


def _complete(root: Path, clip: ClipNumbers) -> bool:
    return all(clip_path(root, clip, kind).exists() for kind in KINDS)


def in_parallel(make: Callable, items: Sequence, workers: int | None, chunk: int = 4) -> Iterator:
    """`make` of every item in order, by `workers` processes (all cores when None), not by one more
    than there are chunks."""
    workers = min(workers or processor.cores(), max(1, len(items) // chunk))
    if workers == 1:
        yield from map(make, items)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has used JAX may hang
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        try:
            with deaf_children():
                made = pool.map(make, items, chunksize=chunk)
            yield from made
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def shown(done: Iterator, total: int, show: bool, unit: str = "clips") -> Iterator:
    """Passes `done` on under a progress bar with rate and time left, on standard error."""
    columns = (
        "filming", bars.BarColumn(), bars.MofNCompleteColumn(), "{task.fields[rate]}",
        bars.TimeRemainingColumn(),
    )  # fmt: skip
    with bars.Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task("", total=total, rate="")
        for item in done:
            yield item
            speed = bar.tasks[task].speed
            bar.update(task, advance=1, rate=f"{speed:.1f} {unit}/s" if speed else "")

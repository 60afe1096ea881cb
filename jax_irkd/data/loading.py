"""Paired clips from a built dataset: which frames, in which order, decoded where they are needed.

Order and randomness come from Grain and depend only on the seed and the position in the stream, so
that step s of a run reads the same clips wherever, and in however many pieces, it is run.
"""

import dataclasses
import functools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds

from jax_irkd.data import built, workers
from jax_irkd.data.faults import REPLACEMENTS, Faults
from jax_irkd.data.frames import fit
from jax_irkd.data.records import UNREADABLE, Catalogue, Chosen, Concatenated, catalogue, text
from jax_irkd.data.sampling import BalancedOrder, frame_indices, segment_positions
from jax_irkd.data.spec import CHANNELS
from jax_irkd.errors import UserError, nearest
from jax_irkd.host import processor
from jax_irkd.host.files import expanded
from jax_irkd.host.prefetch import ahead


class Clip(TypedDict):
    """One clip: frames `t h w c` of every modality read, as uint8, and what goes with them.

    `mask` is 1 where the clip counts. Training adds `seed`, the clip's own randomness, evaluation
    `index`, the place of its record, or -1.
    """

    clips: dict[str, np.ndarray]
    label: np.int32
    mask: np.float32
    clip_id: np.str_
    seed: NotRequired[np.uint32]
    index: NotRequired[np.int32]


class Batch(TypedDict):
    """Clips, stacked; `clip_id` stays on the host."""

    clips: dict[str, np.ndarray]
    label: np.ndarray
    mask: np.ndarray
    clip_id: NotRequired[np.ndarray]
    seed: NotRequired[np.ndarray]
    index: NotRequired[np.ndarray]


class _SkipDecoding(tfds.decode.SkipDecoding):
    """Leaves a sequence of JPEG bytes as it is; TFDS's own class has no batch method for NumPy."""

    def decode_batch_example_np(self, serialized_image):
        return serialized_image


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One built dataset: random access to its records, class names and a fingerprint.

    The fingerprint is a digest of the content, written when the data set was built (older ones
    have counts and sizes). `generated` says who is to be seen where nobody was filmed, else "".
    `range` is the rule by which it was built from films of more than eight bits (`video.depth`).
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Sequence]
    fingerprint: str
    generated: str = ""
    range: str = "auto"
    _catalogues: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def records(self, splits: Sequence[str]) -> Sequence:
        """The clips of `splits`, one after the other. One that was not built is named and left out.

        Raises UserError when none of them was built.
        """
        missing = [name for name in splits if name not in self.splits]
        if len(missing) == len(splits):
            raise UserError(
                f"dataset {self.name} has none of the splits {missing}; it has "
                f"{sorted(self.splits)}: choose another protocol or build it from more raw files"
            )
        if missing:
            logging.warning("dataset %s has no clips for the splits %s", self.name, missing)
        return Concatenated([self.splits[name] for name in splits if name in self.splits])

    def catalogue(self, splits: Sequence[str], threads: int = 0) -> "Catalogue":
        """Names and labels of the clips of `splits`, in the order of `records`.

        Every record is read for it, once for each data set that is opened.
        """
        wanted = tuple(splits)
        if wanted not in self._catalogues:
            records = self.records(wanted)
            self._catalogues[wanted] = catalogue(records, processor.threads(threads))
        return self._catalogues[wanted]

    def without(self, names: Sequence[str]) -> "Dataset":
        """The data set without the classes `names`, as if nobody had filmed them.

        Raises UserError for a class there is not, and where fewer than two are left.
        """
        for name in names:
            if name not in self.class_names:
                raise UserError(f"no class {name!r} to leave out{nearest(name, self.class_names)}")
        left = [name for name in self.class_names if name not in names]
        if len(left) < 2:
            raise UserError(f"{len(left)} of {len(self.class_names)} classes is left; leave two")
        label_of = {self.class_names.index(name): place for place, name in enumerate(left)}
        label_of[-1] = -1  # what cannot be read may be of any class: it is named when it is read
        splits = {split: self._of_classes(split, label_of) for split in self.splits}
        marked = f"{self.fingerprint} without {', '.join(sorted(names))}"
        changes = {"class_names": tuple(left), "splits": splits, "fingerprint": marked}
        return dataclasses.replace(self, **changes, _catalogues={})

    def only(self, name: str) -> "Dataset":
        """The clips of the class `name`; its label stays."""
        label = self.class_names.index(name)
        splits = {split: self._of_classes(split, {label: label}) for split in self.splits}
        return dataclasses.replace(self, splits=splits, _catalogues={})

    def _of_classes(self, split: str, label_of: Mapping[int, int]) -> Sequence:
        labels = self.catalogue((split,)).labels
        places = [i for i, label in enumerate(labels) if label in label_of]
        return Chosen(self.splits[split], places, label_of)


def open_dataset(name: str, data_dir: str) -> Dataset:
    """The dataset `name` (`builder/config`) that was built into `data_dir`.

    Raises UserError, with the folder looked for and the command that builds it, when it is missing.
    """
    root = expanded(data_dir)
    versions = filter(_version, root.joinpath(name).glob("*/dataset_info.json"))
    newest = max(versions, key=_version, default=None)
    if newest is None:
        raise UserError(
            f"no dataset {name} under {root.absolute()} (looked for {name}/*/dataset_info.json); "
            f"build it: python -m jax_irkd.build {name} --manual_dir=RAW --data_dir={data_dir}"
        )
    folder = newest.parent
    try:
        builder = tfds.builder_from_directory(folder)
        decoders = {modality: _SkipDecoding() for modality in CHANNELS}
        splits = {
            split: builder.as_data_source(split, decoders=decoders) for split in builder.info.splits
        }
    except Exception as error:
        raise UserError(
            f"the dataset in {folder} cannot be read ({type(error).__name__}: {error}); "
            f"build it again with python -m jax_irkd.build {name} --overwrite"
        ) from error
    about, names = built.metadata_of(folder), list(builder.info.features["label"].names)
    built.check(folder, about, builder.info.splits, names)
    fingerprint = built.fingerprint(name, folder, about, builder.info.splits)
    who, levels = str(about.get("generated", "")), str(about.get("range", "auto"))
    return Dataset(name, tuple(names), splits, fingerprint, generated=who, range=levels)


def _version(info: Path) -> tuple[int, ...]:
    """What sorts data sets by age; () for no finished one.

    What --overwrite left behind (`build._exchange`) counts only where nothing took its place.
    """
    match = re.fullmatch(r"(replaced\.)?(\d+)\.(\d+)\.(\d+)", info.parent.name)
    return (not match[1], *map(int, match.groups()[1:])) if match else ()


@dataclasses.dataclass(frozen=True)
class ClipReader:
    """Reads `num_segments` frames of each modality of a record, the same moments in both."""

    records: Sequence
    modalities: tuple[str, ...]
    num_segments: int
    sizes: dict[str, tuple[int, int]]
    faults: Faults | workers.Notes
    num_classes: int = 0  # of the labels; 0: not checked

    def of(self, records: Sequence) -> "ClipReader":
        """The same reader of other records, whose faults are counted anew."""
        faults = Faults(self.faults.max_share, len(records))
        return dataclasses.replace(self, records=records, faults=faults)

    def __call__(self, index: int, rng: np.random.Generator) -> Clip:
        """A training clip. One that cannot be decoded gives way to another, drawn from `rng`.

        Raises UserError where none of `REPLACEMENTS` can be: the disk is gone, or all are broken.
        """
        positions = segment_positions(self.num_segments, rng)
        seed = rng.integers(2**32, dtype=np.uint32)
        broken = []
        while len(broken) < REPLACEMENTS:
            clip = self._try(index, positions)
            if not isinstance(clip, str):
                return clip | {"seed": seed}
            broken.append(clip)
            index = int(rng.integers(len(self.records)))
        raise UserError(
            f"{len(broken)} clips in a row could not be decoded; last: {'; '.join(broken[-2:])}; "
            "check the disk or build the dataset again"
        )

    def centre(self, index: int, views: int = 1) -> Clip:
        """A test clip in several `views`; one that is padding (index -1) or broken has mask 0."""
        positions = segment_positions(self.num_segments, views=views)
        clip = self._try(index, positions) if index >= 0 else "padding"
        if isinstance(clip, str):
            return self._blank(index, views)
        return clip | {"index": np.int32(index)}

    def _try(self, index: int, positions: np.ndarray) -> Clip | str:
        """The clip, or which one cannot be decoded and why."""
        identity = f"record {index}"
        try:
            record = self.records[index]
            identity = text(record["clip_id"])
            label = self._label(record["label"], identity)
            clip = {name: self._decode(record[name], positions, name) for name in self.modalities}
        except UNREADABLE as error:
            reason = f"{type(error).__name__}: {error}"
            self.faults.count(identity, reason)
            return f"{identity} ({reason})"
        self.faults.count()
        return {"clips": clip, "label": label, "mask": np.float32(1), "clip_id": np.str_(identity)}

    def _label(self, label: int, clip: str) -> np.int32:
        """The label. Raises UserError for one that is no class: it would train on silently."""
        if self.num_classes and not 0 <= label < self.num_classes:
            raise UserError(
                f"clip {clip} has the label {label}, but the data set has {self.num_classes} "
                "classes, from 0 on; build it again"
            )
        return np.int32(label)

    def _decode(self, frames: Sequence[bytes], positions: np.ndarray, modality: str) -> np.ndarray:
        chosen = frame_indices(positions, len(frames))
        decoded = {i: decode_frame(frames[i], self.sizes[modality], modality) for i in set(chosen)}
        return np.stack([decoded[i] for i in chosen])

    def _blank(self, index: int, views: int) -> Clip:
        clip = {
            name: np.zeros((views * self.num_segments, *self.sizes[name], CHANNELS[name]), np.uint8)
            for name in self.modalities
        }
        return {
            "clips": clip,
            "label": np.int32(0),
            "mask": np.float32(0),
            "clip_id": np.str_(""),
            "index": np.int32(index),
        }


def decode_frame(encoded: bytes, size: tuple[int, int], modality: str) -> np.ndarray:
    """A JPEG frame as uint8 (height, width, channels), fitted to `size`."""
    return fit(decode(encoded, modality), size).reshape(*size, CHANNELS[modality])


def decode(encoded: bytes, modality: str) -> np.ndarray:
    """A JPEG frame as it was stored. Raises ValueError for one that cannot be read."""
    flag = cv2.IMREAD_GRAYSCALE if modality == "infrared" else cv2.IMREAD_COLOR_RGB
    buffer = np.frombuffer(encoded, np.uint8)
    frame = cv2.imdecode(buffer, flag) if buffer.size else None
    if frame is None:
        raise ValueError(f"a {modality} frame of {buffer.size} bytes is no readable image")
    return frame


def training_batches(
    reader: ClipReader,
    *,
    seed: int,
    batch_size: int,
    first_step: int,
    process: tuple[int, int] = (0, 1),
    threads: int = 0,
    processes: int = 0,
    balanced: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Batches from `first_step` on, for ever; each epoch is a new permutation of the clips.

    With the labels of the reader's clips in `balanced` the order is a `BalancedOrder`.

    `batch_size` is this process's share, `process` its (index, count). Together the processes read
    exactly the clips a single one would have read at each step. `threads` read clips ahead, as
    `processor.threads` counts them, or so many `processes`; one more thread puts the next batch
    together.
    """
    index, count = process
    faults, notes = reader.faults, workers.Notes()
    if processes:
        reader = dataclasses.replace(reader, faults=notes)
    if balanced is None:
        order = grain.MapDataset.source(range(len(reader.records))).seed(seed).shuffle().repeat()
    else:
        order = grain.MapDataset.source(BalancedOrder(balanced, seed)).seed(seed)
    clips = order.random_map(reader)[first_step * batch_size * count + index :: count]
    if processes:
        return ahead(workers.batches(clips, notes, faults.count, batch_size, processes), depth=1)
    return _batched(clips, batch_size, threads)


def evaluation_batches(
    reader: ClipReader,
    *,
    batch_size: int,
    process: tuple[int, int] = (0, 1),
    threads: int = 0,
    views: int = 1,
) -> Iterator[Batch]:
    """Every clip exactly once, in order; the last batch is padded and its padding has mask 0.

    The frames of several `views` of a clip follow each other.
    """
    index, count = process
    total = len(reader.records)
    padding = -total % (batch_size * count)
    positions = [*range(total), *[-1] * padding][index::count]
    clips = grain.MapDataset.source(positions).map(functools.partial(reader.centre, views=views))
    return _batched(clips, batch_size, threads)


def _batched(clips: grain.MapDataset, batch_size: int, threads: int) -> Iterator[Batch]:
    """`clips` in batches, of which the next is made while one is computed with.

    Putting 32 pairs of the paper's size together takes longer than a GPU's step on them.
    """
    count = processor.threads(threads)
    options = grain.ReadOptions(num_threads=count, prefetch_buffer_size=2 * batch_size)
    return ahead(clips.to_iter_dataset(options).batch(batch_size), depth=1)

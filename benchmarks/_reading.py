"""Clips of a generated data set, read as a training reads them."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks._source_films import SIZES
from benchmarks.build import clip_key, make_clips
from jax_irkd.build import make_builder
from jax_irkd.data import loading
from jax_irkd.data.synthetic import raw_ntu
from jax_irkd.tfds_builders._shared.options import BuildOptions

NAME = "ntu_rgbd_ir/ten"
SEGMENTS, BATCH = 8, 8
WARM, SETTLE = 3, 0.5  # batches before the clock starts; seconds to fill the buffers


def make_data(folder: Path, clips: int, frames: int, workers: int = 1) -> list[tuple[Path, Path]]:
    """Films and builds `clips` pairs; the AVI files of each."""
    import tensorflow_datasets as tfds

    raw = folder / "raw"
    make_clips(raw, clips, frames, workers)
    builder = make_builder(NAME, folder / "tfds", BuildOptions())
    builder.show_progress = False
    config = tfds.download.DownloadConfig(manual_dir=raw, try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
    return [raw_ntu.ntu_paths(raw, clip_key(number)) for number in range(clips)]


class Repeated(Sequence):
    """Few clips as a data set of NTU's size: Grain shuffles very short ones slowly."""

    def __init__(self, records: Sequence, length: int = 6720):
        self.records, self.length = records, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        return self.records[index % len(self.records)]


def all_records(folder: Path) -> Repeated:
    """Every clip built in `folder`, over and over."""
    dataset = loading.open_dataset(NAME, str(folder / "tfds"))
    splits = [split for split in dataset.splits if len(dataset.splits[split])]
    return Repeated(dataset.records(splits))


def make_reader(folder: Path, sizes: dict = SIZES) -> loading.ClipReader:
    records = all_records(folder)
    faults = loading.Faults(0.01, len(records))
    return loading.ClipReader(records, ("rgb", "infrared"), SEGMENTS, sizes, faults)


def consume(batches: Iterator, count: int) -> None:
    for _ in range(count):
        next(batches)


def processor_time(stream: Iterator, batches: int) -> float:
    """Seconds of the processors for a clip; the buffer of clips read ahead is full at both ends."""
    time.sleep(SETTLE)
    begin = time.process_time()
    consume(stream, batches)
    time.sleep(SETTLE)
    return (time.process_time() - begin) / (batches * BATCH)

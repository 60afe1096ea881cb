"""The builder both datasets share: encode everything into the cache, then pack it into shards.

Packing follows TFDS's shard-based builder, which needs no TensorFlow at any size (the generator-
based one sorts more than 1 GB through TensorFlow's files). With Apache Beam every shard is a
step of the pipeline and encodes the clips it finds no cached result for.
"""

import abc
import contextlib
import functools
import hashlib
import inspect
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jax_irkd.data import built
from jax_irkd.data.spec import CHANNELS
from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared.cache import (
    Cache,
    EncodingResult,
    EncodingSummary,
    EncodingTask,
)
from jax_irkd.tfds_builders._shared.inventory import Inventory
from jax_irkd.tfds_builders._shared.lock import locked
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.pairs import ALONE, FRAMES
from jax_irkd.tfds_builders._shared.pool import encode_all, encode_alone, progress_bar
from jax_irkd.tfds_builders._shared.records import uncompressed
from jax_irkd.tfds_builders._shared.report import NO_COLOUR, Report

SHARD_BYTES = 128 << 20
COLOURLESS_SHARE = 0.9
REPORT = "build_report.json"


class BuildPlan(NamedTuple):
    """All tasks of a build, the function that encodes one, and the report so far."""

    tasks: list[EncodingTask]
    encode: Callable[[EncodingTask], EncodingResult]
    report: Report


def _jpeg_frames(channels: int) -> tfds.features.FeatureConnector:
    """A clip as JPEG bytes, frame by frame; readers decode only the frames they choose."""
    image = tfds.features.Image(shape=(None, None, channels), encoding_format="jpeg")
    return tfds.features.Sequence(image)


class PairedBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Paired RGB and infrared clips as ArrayRecord, from one scan of the user's folder."""

    SPLITS: Sequence[str] = ()
    KEEPS_UNPAIRED = False  # Whether it knows what to do with clips of one modality.
    TASKS_PER_SHARD = 64  # With Beam, where sizes are not known beforehand.

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # TFDS infers both from the module's name, which in a checkout does not tell the folder.
        cls.code_path = tfds.core.Path(inspect.getfile(cls))
        cls.pkg_dir_path = cls.code_path.parent
        super().__init_subclass__(**kwargs)

    def __init__(self, *, options: BuildOptions | None = None, file_format=None, **kwargs: Any):
        self.options = options or BuildOptions.from_environment()
        if self.options.unpaired and not self.KEEPS_UNPAIRED:
            raise UserError(f"{self.name} has pairs only; --unpaired is for folder_ir")
        self.show_progress = True
        self.report: Report | None = None
        self.holds_lock = False  # Whoever builds holds the folder's lock already.
        self.cache_home: Path | None = None  # Where encoded clips lie if not beside the records.
        self._shards: dict[str, list] = {}
        self._clips: list[tuple[str, ...]] = []
        super().__init__(file_format=file_format or "array_record", **kwargs)

    def paired_info(
        self, classes: Sequence[str] | None, own: Mapping[str, Any], homepage: str | None = None
    ) -> tfds.core.DatasetInfo:
        """What every record has, and features of this dataset's `own`. `classes` None: by `plan`.

        `rgb_frames` and `infrared_frames` count the frames of the films, not those kept.
        """
        features = {
            "clip_id": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=classes),
            **own,
            **{kind: _jpeg_frames(channels) for kind, channels in CHANNELS.items()},
            **dict.fromkeys(FRAMES.values(), np.int32),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage=homepage,
            metadata=tfds.core.MetadataDict(self.options.recorded),
        )

    @abc.abstractmethod
    def plan(self, manual_dir: Path) -> BuildPlan:
        """Scans `manual_dir`. Raises UserError when it does not hold this dataset."""

    @abc.abstractmethod
    def inventory(self, manual_dir: Path) -> Inventory:
        """Looks without building. Raises UserError as `plan` does."""

    @property
    def config_folder(self) -> Path:
        """Where the versions of this configuration lie."""
        return Path(self._data_dir_root, *self.info.full_name.split("/")[:-1])

    @property
    def encoded(self) -> Path:
        """Where encoded clips of all options lie."""
        return (self.cache_home or self.config_folder) / ".encoded"

    @property
    def cache(self) -> Cache:
        return Cache(self.encoded / self.options.digest)

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        config = download_config or tfds.download.DownloadConfig()
        begin = time.monotonic()
        with contextlib.nullcontext() if self.holds_lock else locked(self.config_folder):
            self._remove_leftovers()
            plan = self.plan(Path(dl_manager.manual_dir))
            self._refuse_unreadable(plan.report)
            if config.beam_options or config.beam_runner:
                self._build_with_beam(plan, dl_manager, config)
            else:
                self._build_here(plan, dl_manager, config)
            self._describe(Path(dl_manager.manual_dir))
        self.report = plan.report
        plan.report.seconds = round(time.monotonic() - begin, 1)
        Path(self.data_dir, REPORT).write_text(plan.report.as_json(), encoding="utf-8")

    def _build_here(self, plan: BuildPlan, dl_manager, config) -> None:
        tasks = self._capped(plan.tasks, config)
        summaries = encode_all(
            tasks, plan.encode, self.cache, self.options.processes, self.show_progress
        )
        self._check(plan, summaries)
        self._check_space(plan.report)
        sizes = {summary.key: summary.size for summary in summaries if summary.records}
        groups = {}
        for split in self.SPLITS:
            own = [task for task in tasks if task.split == split and task.key in sizes]
            groups[split] = _by_size(_shuffled(own), sizes)
        self._clips = _rows(tasks, summaries)
        with progress_bar("packing ", len(sizes), 0, self.show_progress) as advance:
            self._write(plan, groups, dl_manager, config, advance)

    def _build_with_beam(self, plan: BuildPlan, dl_manager, config) -> None:
        if config.beam_runner is None:
            runner = config.beam_options.get_all_options().get("runner")
            config = config.replace(beam_runner=runner or "DirectRunner")
        tasks = self._capped(plan.tasks, config)
        groups = {}
        for split in self.SPLITS:
            own = _shuffled([task for task in tasks if task.split == split])
            starts = range(0, len(own), self.TASKS_PER_SHARD)
            groups[split] = [own[i : i + self.TASKS_PER_SHARD] for i in starts]
        self._write(plan, groups, dl_manager, config)
        summaries = [summary for task in tasks if (summary := self.cache.summary(task))]
        self._clips = _rows(tasks, summaries)
        self._check(plan, summaries)

    def _describe(self, manual_dir: Path) -> None:
        """Adds to the metadata what readers check, and whether the films were generated."""
        about = built.describe(
            Path(self.data_dir), self.info.features["label"].names, self._clips, self.info.splits
        )
        who = built.generated(manual_dir)
        self.info.metadata.update(about | ({"generated": who} if who else {}))

    def _capped(self, tasks: list[EncodingTask], config) -> list[EncodingTask]:
        most = config.max_examples_per_split
        if most is None:
            return tasks
        return [
            task
            for split in self.SPLITS
            for task in [task for task in tasks if task.split == split][:most]
        ]

    def _write(
        self,
        plan: BuildPlan,
        groups: dict[str, list[list[EncodingTask]]],
        dl_manager,
        config,
        advance=None,
    ) -> None:
        """Packs split by split: TFDS would run one Beam pipeline again for every split."""
        infos = []
        for split, shards in groups.items():
            if not shards:  # TFDS can write an empty split but not open it.
                continue
            step = functools.partial(
                _examples, str(self.cache.folder), plan.encode, advance or _nothing
            )
            self._shards = {split: [functools.partial(step, tasks) for tasks in shards]}
            try:
                with uncompressed():
                    super()._download_and_prepare(dl_manager, config)
            except (RuntimeError, OSError) as error:
                if "No space left" not in str(error):
                    raise
                raise UserError(self._disk_full("one of the record files was cut off")) from error
            if not self.info.splits[split].num_examples:  # Beam learns of it when all is encoded.
                for path in Path(self.data_dir).glob(f"{self.name}-{split}.*"):
                    path.unlink()
                continue
            infos.append(self.info.splits[split])
            plan.report.splits[split] = self.info.splits[split].num_examples
        self.info.set_splits(tfds.core.SplitDict(infos))

    def _shard_iterators_per_split(self, dl_manager) -> Mapping[str, Sequence[Callable]]:
        del dl_manager
        return self._shards

    def _check(self, plan: BuildPlan, summaries: list[EncodingSummary]) -> None:
        """Adds the summaries to the report; refuses when nothing or too little is left."""
        report = plan.report
        report.add(summaries)
        if not report.built:
            raise UserError(f"nothing could be built. {report.head()}")
        grey = sum(note.reason == NO_COLOUR for note in report.notes)
        if grey > COLOURLESS_SHARE * len(plan.tasks):
            raise UserError(
                f"{grey} of {len(plan.tasks)} RGB videos have no colour; are these infrared files "
                f"under RGB names?\n{report.head()}"
            )
        if report.skipped_share > self.options.max_skipped:
            alone = any(skip.reason in ALONE.values() for skip in report.skipped)
            more = (
                " --unpaired keeps clips of one modality." if self.KEEPS_UNPAIRED and alone else ""
            )
            raise UserError(
                f"{report.skipped_share:.1%} of the {report.unit} would be left out, more than "
                f"--max_skipped={self.options.max_skipped:g} allows; repair the files or run again "
                f"with --max_skipped={report.skipped_share + 0.001:.3f} (what is encoded is kept)."
                f"{more}\n{report.head()}"
            )
        built = {summary.key for summary in summaries if summary.records}
        self.check_built(plan, {summary.key for summary in summaries}, built)

    def check_built(self, plan: BuildPlan, seen: set[str], built: set[str]) -> None:
        """For a data set whose classes depend on what was `built` of the tasks that were `seen`."""

    def _refuse_unreadable(self, report: Report) -> None:
        """A folder that cannot be listed may hold a whole class."""
        found = report.unreadable
        if found and not self.options.skip_unreadable:
            named = "; ".join(f"{one.name} {one.detail}" for one in found[:3])
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise UserError(
                f"nobody knows what is missing: {named}{more}. Repair or remove it, or go on "
                "without it with --skip_unreadable"
            )

    def _check_space(self, report: Report) -> None:
        free = shutil.disk_usage(self.data_dir).free
        needed = int(report.bytes * 1.02) + (1 << 20)
        if free < needed:
            wanted = f"the records need {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} are free"
            raise UserError(self._disk_full(wanted))

    def _disk_full(self, detail: str) -> str:
        return (
            f"the disk is full: {detail}; what is encoded stays in {self.encoded}, free some "
            "space and run the same command again to continue"
        )

    def _remove_leftovers(self) -> None:
        """Half-written datasets of killed builds; nobody else writes while we hold the lock."""
        for folder in self.config_folder.glob(f"incomplete.*_{self.version}"):
            if folder.resolve() != Path(self.data_dir).resolve():
                shutil.rmtree(folder, ignore_errors=True)

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded, and TFDS would say that it is."""

    _log_download_done = _log_download_bytes

    def _post_download_and_prepare_hook(self) -> None:
        if not self.options.keep_cache:
            shutil.rmtree(self.encoded, ignore_errors=True)


def _rows(tasks: list[EncodingTask], summaries: list[EncodingSummary]) -> list[tuple[str, ...]]:
    """Key, split and content of everything that gave records."""
    splits = {task.key: task.split for task in tasks}
    return [(s.key, splits[s.key], s.digest) for s in summaries if s.records]


def _nothing() -> None:
    """Progress under Beam is Beam's."""


def _examples(
    folder: str, encode: Callable, advance: Callable[[], None], tasks: list[EncodingTask]
) -> Iterator[tuple[str, dict]]:
    """The examples of one shard, from the cache or else encoded now."""
    cache = Cache(folder)
    for task in tasks:
        result = cache.load(task)
        if result is None or not result.records:
            result = encode_alone(encode, task)
            cache.store(task, result)
        for record in result.records:
            yield record.key, {**record.scalars, **record.frames}
        advance()


def _shuffled(tasks: list[EncodingTask]) -> list[EncodingTask]:
    """A fixed order that mixes classes, so that reading in order is not one class after another."""
    return sorted(tasks, key=lambda task: hashlib.md5(task.key.encode()).digest())


def _by_size(tasks: list[EncodingTask], sizes: dict[str, int]) -> list[list[EncodingTask]]:
    """Cuts tasks into shards of about SHARD_BYTES; the shard being written is held in memory."""
    shards, filled = [], SHARD_BYTES
    for task in tasks:
        if filled >= SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(task)
        filled += sizes[task.key]
    return shards

"""PKU-MMD phase 1, paired RGB and infrared, one record per action instance.

python -m jax_irkd.build pku_mmd_ir --manual_dir=RAW_FILES --data_dir=DATASETS
tfds build tfds_builders/pku_mmd_ir --manual_dir=RAW_FILES --data_dir=DATASETS
"""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jax_irkd.data.spec import BACKGROUND
from jax_irkd.pku_mmd import annotations
from jax_irkd.pku_mmd.files import SPLITS, scan
from jax_irkd.tfds_builders._shared.builder import BuildPlan, PairedBuilder
from jax_irkd.tfds_builders._shared.inventory import Inventory
from jax_irkd.tfds_builders._shared.report import Report
from jax_irkd.tfds_builders.pku_mmd_ir import inventory, videos
from jax_irkd.video.finding import Skip


class Builder(PairedBuilder):
    """DatasetBuilder for pku_mmd_ir."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Four physical splits for both protocols."}
    SPLITS = SPLITS
    TASKS_PER_SHARD = 4  # Videos of about twenty instances.
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Request PKU-MMD phase 1 at https://www.icst.pku.edu.cn/struct/Projects/PKUMMD.html and download
    RGB_VIDEO, IR_VIDEO, Label_PKUMMD.7z and the Split folder. Unpack the 7z archive; put everything
    anywhere under the manual folder (zip archives are read in place).
    """

    def _info(self) -> tfds.core.DatasetInfo:
        numbers = dict.fromkeys(("camera", "start", "stop", "confidence"), np.int32)
        return self.paired_info(
            self.class_names,
            {"video": tfds.features.Text(), **numbers},
            "https://www.icst.pku.edu.cn/struct/Projects/PKUMMD.html",
        )

    @property
    def class_names(self) -> list[str]:
        """The 51 actions, and the background where it was asked for."""
        return [*annotations.CLASSES, *([BACKGROUND] if self.options.background else [])]

    def inventory(self, manual_dir: Path) -> Inventory:
        return inventory.take(manual_dir, self.options, self.config_folder)

    def plan(self, manual_dir: Path) -> BuildPlan:
        found = scan(manual_dir)
        tasks, skipped = videos.tasks_of(found, self.options)
        repaired = [
            Skip(name, reason, f"row {row}")
            for name, labels in sorted(found.labels.items())
            for row, reason in labels.repaired
        ]
        absent = [name for name in found.listed if name not in found.videos]
        report = Report(
            dataset="pku_mmd_ir",
            unit="instances",
            manual_dir=str(manual_dir),
            options=dataclasses.asdict(self.options),
            found={
                kind: sum(kind in pair for pair in found.videos.values())
                for kind in ("rgb", "infrared")
            }
            | {
                "archives": found.archives,
                "label_files": len(found.labels),
                "videos_in_split_files": len(found.listed),
                "videos_not_on_disk": absent,
            },
            skipped=found.skipped + skipped,
            unlisted=videos.unlisted(found),
            unreadable=found.unreadable,
            notes=found.notes + repaired,
        )
        return BuildPlan(tasks, videos.encode, report)

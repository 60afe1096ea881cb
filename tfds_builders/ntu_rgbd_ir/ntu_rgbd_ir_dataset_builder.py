"""NTU RGB+D 60, paired RGB and infrared clips.

python -m jax_irkd.build ntu_rgbd_ir/ten --manual_dir=RAW_FILES --data_dir=DATASETS
tfds build tfds_builders/ntu_rgbd_ir --config=ten --manual_dir=RAW_FILES --data_dir=DATASETS
"""

import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jax_irkd.tfds_builders._shared.builder import BuildPlan, PairedBuilder
from jax_irkd.tfds_builders._shared.inventory import Inventory
from jax_irkd.tfds_builders._shared.report import Report
from jax_irkd.tfds_builders.ntu_rgbd_ir import clips, inventory, names


@dataclasses.dataclass(kw_only=True)
class NtuConfig(tfds.core.BuilderConfig):
    """The first `classes` actions, A001 onwards."""

    classes: int = 10


class Builder(PairedBuilder):
    """DatasetBuilder for ntu_rgbd_ir."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Four physical splits for both protocols."}
    SPLITS = names.SPLITS
    BUILDER_CONFIGS: ClassVar = [
        NtuConfig(name="ten", description="A001 to A010, the paper's classes.", classes=10),
        NtuConfig(name="sixty", description="All actions, A001 to A060.", classes=60),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Request access to NTU RGB+D at https://rose1.ntu.edu.sg/dataset/actionRecognition/ and download
    "RGB videos" and "IR videos" (nturgbd_rgb_s001.zip … s017.zip, nturgbd_ir_s001.zip … s017.zip).
    Put the archives, or what they unpack to, anywhere under the manual folder.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.paired_info(
            names.CLASSES[: self.builder_config.classes],
            dict.fromkeys(("subject", "camera", "setup", "repetition"), np.int32),
            "https://rose1.ntu.edu.sg/dataset/actionRecognition/",
        )

    def inventory(self, manual_dir: Path) -> Inventory:
        config = self.builder_config
        return inventory.take(
            manual_dir, config.name, config.classes, self.options, self.config_folder
        )

    def plan(self, manual_dir: Path) -> BuildPlan:
        found = clips.scan(manual_dir)
        clips.refuse_wrong_folder(manual_dir, found)
        tasks, unpaired = clips.tasks_of(found, self.builder_config.classes, self.options)
        report = Report(
            dataset=f"ntu_rgbd_ir/{self.builder_config.name}",
            unit="clips",
            manual_dir=str(manual_dir),
            options=dataclasses.asdict(self.options),
            found={
                kind: sum(kind in pair for pair in found.clips.values())
                for kind in ("rgb", "infrared")
            }
            | {"archives": found.archives, "other_files": len(found.other_files)},
            skipped=found.skipped + unpaired,
            unreadable=found.unreadable,
            notes=found.notes,
        )
        return BuildPlan(tasks, clips.encode, report)

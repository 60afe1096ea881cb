"""Paired RGB and infrared clips of one's own classes, one folder per class.

python -m jax_irkd.build folder_ir --manual_dir=RAW_FILES --data_dir=DATASETS
tfds build tfds_builders/folder_ir --manual_dir=RAW_FILES --data_dir=DATASETS
"""

import collections
import dataclasses
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared.builder import BuildPlan, PairedBuilder
from jax_irkd.tfds_builders._shared.inventory import Inventory
from jax_irkd.tfds_builders._shared.pairs import FRAMES
from jax_irkd.tfds_builders._shared.report import Report
from jax_irkd.tfds_builders.folder_ir import clips, inventory, refusals, remarks


class Builder(PairedBuilder):
    """DatasetBuilder for folder_ir. The class names come from the raw folder."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Two splits, given by folders or chosen by name."}
    SPLITS = (*clips.SPLITS, *clips.ALONE)
    KEEPS_UNPAIRED = True
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Put your clips into rgb/CLASS/NAME.mp4 and infrared/CLASS/NAME.mp4, with the same CLASS and NAME
    for the two films of one action (thermal, nir, lwir or ir do for infrared); or into
    train/rgb/…, train/infrared/…, test/rgb/… and test/infrared/… to say yourself what is kept for
    testing.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.paired_info(None, {"subject": tfds.features.Text()})

    def inventory(self, manual_dir: Path) -> Inventory:
        return inventory.take(manual_dir, self.options, self.config_folder)

    def plan(self, manual_dir: Path) -> BuildPlan:
        found = clips.scan(manual_dir)
        refusals.refuse_wrong_folder(manual_dir, found, self.options.unpaired)
        tasks, unpaired = clips.tasks_of(found, self.options)
        names = found.class_names(self.options.unpaired)
        try:
            self.info.features["label"].names = names
        except ValueError as error:  # TFDS keeps the names of what lay there before.
            raise UserError(
                f"the classes of {self.data_dir} have changed ({error}); delete that folder first"
            ) from error
        report = Report(
            dataset="folder_ir",
            unit="clips",
            manual_dir=str(manual_dir),
            options=dataclasses.asdict(self.options),
            found={kind: sum(kind in p for p in found.clips.values()) for kind in FRAMES}
            | {"classes": names, "other_files": len(found.other_files)},
            skipped=found.skipped + unpaired,
            unreadable=found.unreadable,
            notes=[*found.notes, *remarks.remarks(found, tasks, names)],
        )
        return BuildPlan(tasks, clips.encode, report)

    def check_built(self, plan: BuildPlan, seen: set[str], built: set[str]) -> None:
        """Classes are known before their films are encoded: one may have lost all of them."""
        names = self.info.features["label"].names
        clips_of = collections.defaultdict(list)
        for task in plan.tasks:
            if task.key in seen:
                clips_of[names[task.work[0]["label"]]].append(task)
        kept = []
        for name, tasks in clips_of.items():
            own = [(name, clips.side_of(task.split)) for task in tasks if task.key in built]
            if not own:
                raise UserError(
                    f"class {name}: all of its {len(tasks)} clips are left out, and a network "
                    "would have an output of nothing; repair them, or move the class's folders "
                    f"out of {plan.report.manual_dir}\n{plan.report.head()}"
                )
            kept += own
        known = set(plan.report.notes)
        thin = remarks.thin_classes(list(clips_of), kept)
        plan.report.notes += [note for note in thin if note not in known]

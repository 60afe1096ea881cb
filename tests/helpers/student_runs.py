"""Run folders as training leaves them, without training: random networks that give answers.

Width 1 stands for `fakes.TinyModel`, which compiles in a fraction of a ResNet's time.
"""

import json
from pathlib import Path

from jax_irkd.models.tsn import TSN
from jax_irkd.training.checkpoints import Checkpoints
from tests.helpers import fakes, networks

CLASSES = ["drink", "eat meal", "clap", "wave"]


def make_model(section, num_classes: int, dtype: str, **overrides):
    """In place of `runs.make_model`."""
    if section["width"] == 1:
        return fakes.TinyModel(num_classes)
    return TSN(num_classes, depth=18, width=section["width"], temporal=section["temporal"])


def write_run(
    folder: Path, *, modality: str = "infrared", segments: int = 4, size=(48, 56), side: int = 32,
    width: int = 1, temporal: str = "none",
) -> Path:  # fmt: skip
    """A run of TSN depth 18 with `width` channels on frames of `size`, cropped to `side`."""
    config = fakes.config()
    config.input.num_segments, config.input.resolution = segments, side
    config.input.eval_scale = side / min(size)
    config.dataset.rgb_size = config.dataset.infrared_size = size
    config.dataset.name, config.dataset.data_dir = "fake/three", str(folder / "nowhere")
    for section in (config.teacher_model, config.student_model):
        section.depth, section.width, section.head_std = 18, width, 0.001
        section.temporal = temporal
    model = make_model(config.student_model, len(CLASSES), "float32")
    channels = 3 if modality == "rgb" else 1
    variables = networks.draw(model, 1, segments, side, side, channels)
    if width > 1:
        head = variables["params"]["head"]
        head["kernel"] = head["kernel"] * (4 / width)  # Wide ones would be sure of everything.
    meta = {
        "name": "baseline",
        "modality": modality,
        "class_names": CLASSES,
        "dataset": "fake/three:1.0.0",
        "config": json.loads(config.to_json_best_effort()),
        "input_offset": False,
        "step": 7,
    }
    state = {name: {"model": variables[name]} for name in ("params", "batch_stats")}
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.save(7, state, meta)
    results = {"metrics": {"top1": 0.5}, "versions": {"jax": "0.10.2"}, "git_commit": "abc"}
    (folder / "results.json").write_text(json.dumps(results))
    return folder

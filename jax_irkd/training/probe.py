"""What doctor trains for two steps: a network of two layers on pictures made here."""

from pathlib import Path

import cv2
import flax.linen as nn
import jax
import numpy as np

from jax_irkd.config import paper_setup
from jax_irkd.data.loading import Dataset
from jax_irkd.models.outputs import Outputs
from jax_irkd.training.logs import read_log
from jax_irkd.training.loop import Trainer
from jax_irkd.training.phase import Phase

CLASSES = ("dark", "bright")
SIDE = 16


class Probe(nn.Module):
    """A strided convolution and a classifier, with the interface of a clip model."""

    num_classes: int = len(CLASSES)
    axis_name: str | None = None

    @nn.compact
    def __call__(self, clips, *, train, dropout_keys=None) -> Outputs:
        del train, dropout_keys
        frames = clips.reshape(-1, *clips.shape[2:])
        maps = nn.relu(nn.Conv(4, (4, 4), (4, 4))(frames))
        pooled = maps.mean((1, 2)).reshape(*clips.shape[:2], -1).mean(1)
        return Outputs(nn.Dense(self.num_classes)(pooled), {"pooled": pooled})


def make_trainer(folder: Path) -> Trainer:
    """Two steps, then an evaluation and a checkpoint, on all devices, in `folder`."""
    batch = 2 * jax.local_device_count()
    config = paper_setup("baseline", "check", 0)
    config.dataset.protocols = {"check": {"train": ("train",), "test": ("test",)}}
    config.dataset.infrared_size = (SIDE, SIDE)
    config.input.num_segments, config.input.resolution = 2, SIDE
    config.input.eval_batch_size, config.input.threads = batch, 2
    config.input.readers = "threads"  # of two clips
    config.log_every = 1
    training = config.student_training
    training.batch_size, training.num_epochs, training.eval_every = batch, 2.0, 2.0
    splits = {"train": [record(i) for i in range(batch)], "test": [record(i) for i in range(3)]}
    dataset = Dataset("check", CLASSES, splits, "check")
    phase = Phase("doctor", "infrared", Probe(), training)
    return Trainer(phase, config, dataset, folder)


def train_two_steps(folder: Path) -> list[float]:
    """The losses of two steps, saved and tested. Raises RuntimeError where something is missing."""
    trainer = make_trainer(folder)
    _, scores = trainer.run()
    losses = [line["loss"] for line in read_log(folder) if line["kind"] == "train"]
    if len(losses) != 2 or None in losses:
        raise RuntimeError(f"the losses of two steps are {losses}")
    if (tested := len(scores.labels)) != (clips := len(trainer.examiner.test.records)):
        raise RuntimeError(f"{tested} of {clips} clips were tested")
    if trainer.checkpoints.failed_saves:
        raise RuntimeError(f"the checkpoint in {folder} could not be written")
    return losses


def record(number: int) -> dict:
    """A clip of two JPEG frames, dark or bright in turn."""
    label = number % len(CLASSES)
    frame = np.full((SIDE, SIDE, 1), 60 + 120 * label + number % 16, np.uint8)
    encoded = cv2.imencode(".jpg", frame)[1].tobytes()
    return {"clip_id": f"check-{number}", "label": label, "infrared": [encoded] * 2}

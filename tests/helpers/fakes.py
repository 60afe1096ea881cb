"""A dataset in memory: each class is a bright square that moves its own way."""

import functools

import cv2
import flax.linen as nn
import jax
import numpy as np

from jax_irkd import algorithm
from jax_irkd.config import paper_setup
from jax_irkd.data.loading import Dataset
from jax_irkd.models.outputs import Outputs
from jax_irkd.models.tsn import dropout
from jax_irkd.training import setup
from jax_irkd.training.phase import Network, Phase

CLASSES = ("top", "bottom", "side")
SPLITS = ("train_subjects_c1", "train_subjects_c23", "test_subjects_c1", "test_subjects_c23")


def record(label: int, number: int, frames: int = 6, size: int = 32) -> dict:
    """One clip as TFDS returns it: JPEG bytes per frame, fewer infrared frames than RGB ones."""
    rng = np.random.default_rng([label, number])
    return {
        "clip_id": f"S001C001P{number:03d}R001A{label:03d}".encode(),
        "label": label,
        "rgb": [_frame(label, i / frames, size, 3, rng) for i in range(frames)],
        "infrared": [_frame(label, i / (frames - 1), size, 1, rng) for i in range(frames - 1)],
    }


def _frame(label: int, time: float, size: int, channels: int, rng) -> bytes:
    image = rng.integers(0, 60, (size, size + 8, channels), dtype=np.uint8)
    place = int(time * (size - 12)) + 2
    row, column = [(4, place), (size - 12, place), (place, 4)][label % 3]
    image[row : row + 8, column : column + 8] = 255
    return cv2.imencode(".jpg", image)[1].tobytes()


def dataset(clips: int = 18, test: int = 7) -> Dataset:
    """`clips` for training and `test` for testing, spread over the four splits."""

    def part(count, start):
        return [record(i % 3, start + i) for i in range(count)]

    sizes = (clips // 3, clips - clips // 3, test // 2, test - test // 2)
    starts = np.cumsum([0, *sizes])
    splits = {name: part(n, int(s)) for name, n, s in zip(SPLITS, sizes, starts)}
    return Dataset("fake/three", CLASSES, splits, "fake")


def config(method: str = "baseline", **training):
    """A configuration small enough for tests: narrow networks, 32-pixel frames, two segments."""
    made = paper_setup(method, "cross_subject", 0)
    made.dataset.rgb_size = made.dataset.infrared_size = (32, 40)
    made.input.num_segments, made.input.resolution = 2, 32
    made.input.eval_batch_size, made.input.threads = 4, 2
    for model in (made.teacher_model, made.student_model):
        model.depth, model.width, model.dropout = 18, 4, 0.5
    for phase in (made.teacher_training, made.student_training):
        phase.batch_size, phase.num_epochs, phase.learning_rate = 6, 2, 0.05
        phase.eval_every = 1.0
        phase.update(training)
    made.checkpoints.every = 2
    made.num_devices = 1
    made.log_every = 1
    return made


class TinyModel(nn.Module):
    """A clip model that compiles in a second: TSN's interface with one convolution a stage."""

    num_classes: int = 3
    width: int = 4
    dropout: float = 0.5
    norm: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, clips, *, train, dropout_keys=None) -> Outputs:
        batch, segments = clips.shape[:2]
        x = clips.reshape(batch * segments, *clips.shape[2:])
        features = {}
        for level, name in enumerate(("stem", "stage1", "stage2", "stage3", "stage4")):
            stride = (1, 1) if level == 1 else (2, 2)
            x = nn.Conv(self.width, (3, 3), stride, padding=1)(x)
            if self.norm:
                x = nn.BatchNorm(not train, axis_name=self.axis_name, momentum=0.5)(x)
            x = nn.relu(x)
            features[name] = x.reshape(batch, segments, *x.shape[1:])
        pooled = features["stage4"].mean((2, 3))
        if train and self.dropout:
            pooled = dropout(pooled, dropout_keys, self.dropout)
        features["pooled"] = pooled.mean(1)
        return Outputs(nn.Dense(self.num_classes)(pooled).mean(1), features)


def use_tiny_models(monkeypatch) -> None:
    """In place of ResNets, in what trains; the teacher's is wider. No close-ups of them."""

    def tiny(section, num_classes, dtype, **overrides):
        return TinyModel(num_classes, width=6 if section.depth == 50 else 4)

    monkeypatch.setattr(setup, "make_model", tiny)
    # Grad-CAM reads a TSN's head; tests/reporting/test_examples.py has it.
    monkeypatch.setattr(algorithm.examples, "closeups", lambda *args, **kwargs: [])


def phase(config, **fields) -> Phase:
    """The infrared baseline with the tiny model."""
    chosen = {"name": "baseline", "modality": "infrared", "model": TinyModel()}
    return Phase(**(chosen | {"training": config.student_training} | fields))


@functools.cache
def teacher(key: int = 0) -> Network:
    """An untrained RGB network that looks trained."""
    model = TinyModel(width=6)
    init = jax.jit(functools.partial(model.init, train=False))
    return Network(model, init(jax.random.key(key), np.zeros((2, 2, 32, 32, 3))))

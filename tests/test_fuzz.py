"""Seven hundred damaged records, weights files and configurations: a message, never a crash."""

import pickle
import random
import string
from pathlib import Path

import numpy as np
import pytest

from jax_irkd import distillers
from jax_irkd.config import WEIGHTS, distillers_of
from jax_irkd.configs import demo, ntu, pku
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.fields import make_shares
from jax_irkd.training import setup
from jax_irkd.training.optimizers import make_optimizer
from jax_irkd.weights import files
from tests.helpers import FIXTURES, fakes


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip, overwrite, cut, repeat or insert a few bytes."""
    damaged = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, length = int(rng.integers(len(damaged) + 1)), int(rng.integers(1, 65))
        noise = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        match rng.integers(5):
            case 0:
                damaged[at : at + 1] = noise[:1]
            case 1:
                damaged[at : at + length] = noise[: len(damaged[at : at + length])]
            case 2:
                del damaged[at:]
            case 3:
                damaged[at:at] = damaged[at : at + length]
            case 4:
                damaged[at:at] = noise
        if not damaged:
            break
    return bytes(damaged)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_records_are_read_or_counted(seed):
    rng = np.random.default_rng(seed)
    records = [fakes.record(i % 3, i) for i in range(100)]
    for record in records:
        modality = ("rgb", "infrared")[rng.integers(2)]
        match rng.integers(8):
            case 0:
                del record[("rgb", "infrared", "label", "clip_id")[rng.integers(4)]]
            case 1:
                record[modality] = []
            case 2:
                record[modality] = [b"", *record[modality][1:]]
            case _:
                record[modality] = [mutate(frame, rng) for frame in record[modality]]
    faults = loading.Faults(1.0, len(records))
    sizes = {"rgb": (32, 40), "infrared": (32, 40)}
    reader = loading.ClipReader(records, ("rgb", "infrared"), 2, sizes, faults)
    good = 0
    for index in range(len(records)):
        clip = reader.centre(index)
        assert clip["clips"]["rgb"].shape == (2, 32, 40, 3)
        assert clip["clips"]["infrared"].shape == (2, 32, 40, 1)
        good += int(clip["mask"])
    assert faults.read == 100 and sum(faults.clips.values()) == 100 - good
    assert 0 < good < 100


@pytest.mark.parametrize("seed", range(2))
def test_mutated_weights_files_are_read_or_refused(tmp_path, seed):
    rng = np.random.default_rng(seed)
    content = min(FIXTURES.glob("*.safetensors"), key=lambda p: p.stat().st_size).read_bytes()
    refused = 0
    for number in range(100):
        # Damage to the header is the interesting kind: keep it near the front half of the time.
        head = content[:20_000] if number % 2 else content
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(mutate(head, rng) + (content[20_000:] if number % 2 else b""))
        try:
            arrays = files.read(path)
        except UserError as error:
            refused += 1
            assert "damaged.safetensors" in str(error) and "\n" not in str(error)
        else:
            assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert refused > 20


class Bomb:
    """What a hostile weights file would hold: unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.safetensors"])
def test_nothing_in_a_weights_file_is_executed(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(UserError, match=name):
        files.read(tmp_path / name)
    assert not (tmp_path / "executed").exists()


VALUES = ["", "x", "-1", "0", "1e9", "nan", "at", "[1]", "{}", "None", "ours,", "=", "True", "é"]


@pytest.mark.parametrize("module", [ntu, pku, demo])
def test_mutated_options_are_parsed_or_refused(module):
    rng = random.Random(module.__name__)
    names = [
        "method",
        "protocol",
        "seed",
        "classes",
        "weights",
        "".join(rng.choices(string.printable, k=4)),
    ]
    for _ in range(70):
        parts = [f"{rng.choice(names)}={rng.choice(VALUES)}" for _ in range(rng.randint(1, 3))]
        try:
            config = module.get_config(rng.choice([",", ",,", ";"]).join(parts))
        except ValueError as error:
            assert "option" in str(error) or "method" in str(error)
            continue
        try:
            setup.make_distillers(config.distillers)
            make_shares(config.distillers)
        except UserError as error:
            assert "distiller" in str(error)


NUMBERS = [0, -1, 1, 0.5, 1e30, float("nan"), "many", None, (1, 2), {}, True, "graph", "sum"]


@pytest.mark.parametrize("name", distillers.names())
def test_mutated_distiller_fields_are_taken_or_refused(name):
    rng = random.Random(name)
    for _ in range(20):
        fields = distillers_of(name, rng.choice(WEIGHTS))[name].to_dict()
        fields[rng.choice([*fields, "wieght"])] = rng.choice(NUMBERS)
        try:
            setup.make_distillers({name: fields})
            make_shares({name: fields})
        except UserError as error:
            assert str(error) and "\n" not in str(error)


def test_mutated_training_fields_are_taken_or_refused():
    rng = random.Random(0)
    for _ in range(60):
        training = fakes.config().student_training
        field = rng.choice(["optimizer", "schedule"])
        training[field] = rng.choice(["", "SGD", "adam", "cosine", "step", "adamw", "sgd", "x"])
        try:
            make_optimizer(training, rng.choice([1, 2, 100]), rng.choice([1, 7]))
        except UserError as error:
            assert f"unknown {field}" in str(error) and "choose one of" in str(error)

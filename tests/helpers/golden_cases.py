"""Loads the reference cases of `tests/golden` (numpy only)."""

import functools
import hashlib
import json

import numpy as np

from tests.helpers import ROOT

FOLDER = ROOT / "tests" / "golden"


@functools.cache
def index() -> dict:
    return json.loads((FOLDER / "index.json").read_text())


def cases() -> list[dict]:
    return index()["cases"]


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / name) as stored:
        return dict(stored)


def inputs(case: dict) -> dict[str, np.ndarray]:
    """The inputs of a case, maps as `b h w c`."""
    made = {}
    for spec in case["inputs"]:
        made[spec["name"]] = _make(spec, arrays(case["npz"]), made)
    return {name: channels_last(array) for name, array in made.items()}


def _make(spec: dict, stored: dict, made: dict) -> np.ndarray:
    if spec["kind"] == "same_as":
        return made[spec["source"]].copy()
    array = stored[spec["key"]] if spec["kind"] == "stored" else _draw(spec)
    if _digest(array) != spec["sha256"] and "backup" in spec:  # numpy's stream has changed
        array = stored[spec["backup"]]
    assert _digest(array) == spec["sha256"], f"{spec['name']} was not rebuilt bit for bit"
    return array


def _draw(spec: dict) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64(spec["seed"]))
    if spec["kind"] == "labels":
        return rng.integers(0, spec["classes"], size=tuple(spec["shape"]))
    x = rng.standard_normal(tuple(spec["shape"]))
    x = (spec["scale"] * x + spec["shift"]).astype(np.float32)
    return np.maximum(x, np.float32(0)) if spec["relu"] else x


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def gradient_pair(case: dict, name: str, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A gradient (channels last) and its reference, at the entries that were stored."""
    spec, stored = case["grads"][name], arrays(case["npz"])
    gradient = np.moveaxis(gradient, -1, 1) if gradient.ndim == 4 else gradient
    if "full_key" in spec:
        return gradient, stored[spec["full_key"]]
    return gradient.reshape(-1)[stored[spec["sample_index_key"]]], stored[spec["sample_key"]]

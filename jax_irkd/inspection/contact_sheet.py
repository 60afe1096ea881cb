"""A contact sheet: RGB–infrared pairs with their labels, segments as columns."""

import collections
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from jax_irkd.data import augment
from jax_irkd.data.loading import ClipReader, Dataset
from jax_irkd.data.pixels import INFRARED_MEAN, INFRARED_STD, RGB_MEAN, RGB_STD
from jax_irkd.errors import UserError, nearest
from jax_irkd.host import lettering
from jax_irkd.reporting.pictures import strip
from jax_irkd.training.selection import readable
from jax_irkd.training.setup import make_augmentation, make_reader

HEIGHT = 96  # of a frame, in pixels
LINE = 20  # of the text above a pair
MARGIN = 8
CANDIDATES = 8  # records looked at for each one shown, to show many classes

_MOMENTS = {"rgb": (RGB_MEAN, RGB_STD), "infrared": (INFRARED_MEAN, INFRARED_STD)}


def reader_of(config: ConfigDict, dataset: Dataset, split: str) -> ClipReader:
    """Reads pairs of `split`: train or test of the config's protocol, or one of the dataset's."""
    if split in dataset.splits:
        config = config.copy_and_resolve_references()
        config.dataset.protocols = {config.protocol: {"train": (split,), "test": (split,)}}
        split = "test"  # whole: none is kept aside for validation
    elif split not in ("train", "test"):
        choices = ["train", "test", *sorted(dataset.splits)]
        raise UserError(f"unknown split {split!r}{nearest(split, choices)}")
    return make_reader(config, dataset, split, readable(config, dataset, split))


def choose(reader: ClipReader, count: int, seed: int) -> list[int]:
    """Indices of `count` clips drawn at random, of as many classes as can be."""
    rng = np.random.default_rng(seed)
    total = len(reader.records)
    drawn = rng.permutation(total)[: CANDIDATES * count].tolist()
    by_class = collections.defaultdict(list)
    for index in drawn:
        by_class[int(reader.records[index]["label"])].append(index)
    order = [
        (turn, label, index)
        for label, indices in by_class.items()
        for turn, index in enumerate(indices)
    ]
    chosen = sorted(order)[:count]
    return [index for _, _, index in sorted(chosen, key=lambda item: item[1])]


def contact_sheet(
    config: ConfigDict,
    reader: ClipReader,
    class_names: Sequence[str],
    *,
    clips: int = 12,
    training: bool = True,
    augmented: bool = False,
    seed: int = 0,
) -> tuple[UInt8[np.ndarray, "h w 3"], list[str]]:
    """The sheet as a picture, and its captions.

    Frames are those training (or, without `training`, testing) chooses; with `augmented` they are
    cropped, flipped and jittered as the network sees them.
    """
    shown = choose(reader, min(clips, len(reader.records)), seed)
    batch = [_read(reader, index, training, seed) for index in shown]
    batch = [clip for clip in batch if clip["mask"] > 0]
    if not batch:
        raise UserError("none of the clips could be decoded; build the dataset again")
    pictures = [clip["clips"] for clip in batch]
    if augmented:
        pictures = _augmented(config, batch, training)
    captions = [f"{class_names[int(clip['label'])]}  ·  {clip['clip_id']}" for clip in batch]
    cells = [cell(pair, text) for pair, text in zip(pictures, captions)]
    columns = max(1, 8 // config.input.num_segments) if len(cells) > 1 else 1
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    width = max(sum(cell.shape[1] for cell in row) for row in rows)
    lines = [_padded(np.concatenate(_levelled(row), axis=1), width) for row in rows]
    return np.concatenate(lines, axis=0), captions


def _read(reader: ClipReader, index: int, training: bool, seed: int) -> dict:
    if not training:
        return reader.centre(index)
    return reader(index, np.random.default_rng([seed, index]))


def _augmented(config: ConfigDict, batch: list[dict], training: bool) -> list[dict]:
    inputs = config.input
    names = batch[0]["clips"]
    clips = {name: np.stack([clip["clips"][name] for clip in batch]) for name in names}
    if training:
        prepare = make_augmentation(inputs)
        seeds = np.array([clip["seed"] for clip in batch])
        keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(config.seed), s))(seeds)
        prepared = jax.jit(prepare)(clips, keys)
    else:
        prepare = functools.partial(
            augment.prepare_evaluation, resolution=inputs.resolution, scale=inputs.eval_scale
        )
        prepared = jax.jit(prepare)(clips)
    pixels = {name: _pixels(np.asarray(prepared[name]), name) for name in clips}
    return [{name: pixels[name][i] for name in pixels} for i in range(len(batch))]


def _pixels(normalised: np.ndarray, modality: str) -> np.ndarray:
    mean, std = (np.array(part, np.float32) for part in _MOMENTS[modality])
    return np.clip((normalised * std + mean) * 255 + 0.5, 0, 255).astype(np.uint8)


def cell(pair: dict[str, np.ndarray], caption: str) -> np.ndarray:
    """A caption over the RGB frames over the infrared ones, those that there are, with a margin."""
    shown = {name: strip(frames, HEIGHT) for name, frames in pair.items()}
    rows = [x if name == "rgb" else np.repeat(x, 3, axis=2) for name, x in shown.items()]
    width = max(row.shape[1] for row in rows)
    head = Image.new("RGB", (width, LINE), "white")
    path, caption = lettering.lettered(caption)
    font = ImageFont.truetype(path, 13)
    draw = ImageDraw.Draw(head)
    while caption and draw.textlength(caption, font=font) > width:
        caption = caption[:-2].rstrip(" …") + "…" if len(caption) > 2 else ""
    draw.text((0, 2), caption, fill="black", font=font)
    gap = np.full((2, width, 3), 255, np.uint8)
    parts = [np.asarray(head)]
    for row in rows:
        parts += [_padded(row, width), gap]
    whole = np.concatenate(parts[:-1])
    return np.pad(whole, ((MARGIN // 2,) * 2, (MARGIN,) * 2, (0, 0)), constant_values=255)


def _padded(picture: np.ndarray, width: int) -> np.ndarray:
    spare = ((0, 0), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, spare, constant_values=255)


def _levelled(cells: list[np.ndarray]) -> list[np.ndarray]:
    height = max(cell.shape[0] for cell in cells)
    return [
        np.pad(cell, ((0, height - cell.shape[0]), (0, 0), (0, 0)), constant_values=255)
        for cell in cells
    ]

"""What a configuration asks for: networks, distillers, readers and augmentation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jax_irkd import fields
from jax_irkd.data import augment, loading
from jax_irkd.data.groups import grouped, kept_aside
from jax_irkd.data.spec import CHANNELS
from jax_irkd.errors import UserError
from jax_irkd.models.tsn import TSN
from jax_irkd.training import steps
from jax_irkd.training.optimizers import make_optimizer
from jax_irkd.training.parallel import devices_of
from jax_irkd.training.steps import AXIS


def make_model(section: ConfigDict, num_classes: int, dtype: str, **overrides) -> TSN:
    """The clip model of a config section. Raises UserError for a field TSN does not have."""
    chosen = dict(section) | overrides
    sync = chosen.pop("sync_bn", False)
    if dtype == "auto":
        dtype = "bfloat16" if jax.default_backend() == "gpu" else "float32"
    try:
        return TSN(
            num_classes=num_classes,
            dtype=jnp.dtype(dtype),
            axis_name=AXIS if sync else None,
            **chosen,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"the model cannot be made from {chosen}: {error}") from error


def make_distillers(section: Mapping[str, Mapping[str, Any]]) -> dict:
    """`fields.make_distillers` for the training step, which compares clips over all devices."""
    return fields.make_distillers(section, AXIS)


def make_reader(
    config: ConfigDict, dataset: loading.Dataset, split: str, modalities: tuple[str, ...]
) -> loading.ClipReader:
    """Reads the clips of the protocol's `split`: train, validation or test.

    Validation clips are those of the training subjects that `input.validation` keeps aside (see
    `divide`); training then reads the others. Raises UserError where there are none.
    """
    splits, places = _chosen(config, dataset, split)
    records = dataset.records(splits)
    sizes = {"rgb": config.dataset.rgb_size, "infrared": config.dataset.infrared_size}
    return loading.ClipReader(
        records=records if places is None else loading.Chosen(records, places),
        modalities=modalities,
        num_segments=config.input.num_segments,
        sizes={name: tuple(sizes[name]) for name in modalities},
        faults=loading.Faults(config.input.max_broken),
        num_classes=len(dataset.class_names),
    )


def training_labels(config: ConfigDict, dataset: loading.Dataset) -> list[int]:
    """The labels of the clips that training reads, in their order; -1 for an unreadable record."""
    splits, places = _chosen(config, dataset, "train")
    labels = dataset.catalogue(splits, config.input.threads).labels
    return labels if places is None else [labels[place] for place in places]


def _chosen(
    config: ConfigDict, dataset: loading.Dataset, split: str
) -> tuple[Sequence[str], list[int] | None]:
    """The dataset's splits that make up `split`, and which of their clips: None means all."""
    protocols = config.dataset.protocols
    if config.protocol not in protocols:
        raise UserError(f"unknown protocol {config.protocol!r}; choose one of {sorted(protocols)}")
    share = config.input.get("validation", 0.0)
    if split == "validation" and not share:
        raise UserError("no training subjects were kept aside; set input.validation, 0.1 say")
    splits = protocols[config.protocol]["test" if split == "test" else "train"]
    if not share or split == "test":
        return splits, None
    *_, mask = divide(dataset.catalogue(splits, config.input.threads), share)
    return splits, [i for i, kept in enumerate(mask) if kept == (split == "validation")]


def divide(catalogue: loading.Catalogue, share: float) -> tuple[str, list[str], list[bool]]:
    """What clips are grouped by, the groups that validate, and whether each clip does.

    Whole subjects are kept aside, the same for every seed and method (`data.groups`). Raises
    UserError where the clips are all of one, or where a class would be left without training clips.
    """
    kind, groups = grouped(catalogue.clip_ids)
    try:
        aside = kept_aside(groups, share)
    except ValueError:
        raise UserError(
            f"input.validation is {share:g}, but all training clips are of one group ({kind}: "
            f"{groups[0]}), which cannot be divided; set input.validation=0"
        ) from None
    mask = [group in set(aside) for group in groups]
    trained = {label for label, kept in zip(catalogue.labels, mask) if not kept}
    lost = sorted(set(catalogue.labels) - trained - {-1})
    if lost:
        raise UserError(
            f"with input.validation={share:g} ({kind}: {', '.join(aside[:5])}) no training clips "
            f"of {len(lost)} classes are left, class {lost[0]} first; take a smaller share"
        )
    return kind, aside, mask


def check_phase(config: ConfigDict, dataset: loading.Dataset, role: str) -> None:
    """Raises UserError for what the phase of `role` could not be trained and tested with."""
    training = config[f"{role}_training"]
    modality = "rgb" if role == "teacher" else "infrared"
    aside = ("validation",) if config.input.validation else ()
    for split in ("train", *aside, "test"):
        make_reader(config, dataset, split, (modality,))
    devices_of(config, training.batch_size)
    make_optimizer(training, 2, 1)


def make_augmentation(inputs: ConfigDict) -> Callable:
    """`augment.prepare_training` as the section `input` of a configuration asks for it."""
    return functools.partial(
        augment.prepare_training,
        resolution=inputs.resolution,
        scales=tuple(inputs.scales),
        flip=inputs.flip,
        colour_jitter=inputs.colour_jitter,
        hue_jitter=inputs.hue_jitter,
        grey_share=inputs.grey_share,
    )


def check_fit(config: ConfigDict, made: Mapping[str, nn.Module], num_classes: int) -> None:
    """Raises UserError when a distiller asks for what the two networks do not give.

    Traces shapes only: nobody trains a teacher for hours to read then that a layer does not exist.
    """
    inputs, key, outputs = config.input, jax.random.key(0), []
    for section, modality in ((config.student_model, "infrared"), (config.teacher_model, "rgb")):
        model = steps.alone(make_model(section, num_classes, config.dtype))
        size = (2, inputs.num_segments, inputs.resolution, inputs.resolution, CHANNELS[modality])
        forward = functools.partial(model.init_with_output, train=False)
        outputs.append(jax.eval_shape(forward, key, jax.ShapeDtypeStruct(size, jnp.float32))[0])
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    for distiller in made.values():
        try:
            jax.eval_shape(steps.alone(distiller).init, key, *outputs, labels)
        except ValueError as error:
            raise UserError(str(error).splitlines()[0]) from error

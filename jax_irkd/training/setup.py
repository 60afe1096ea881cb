"""What a configuration asks for: networks, distillers, readers and augmentation."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jax_irkd import fields
from jax_irkd.data import augment, loading, mixing
from jax_irkd.data.records import UNREADABLE
from jax_irkd.data.spec import CHANNELS, SEES
from jax_irkd.errors import UserError
from jax_irkd.host import failures
from jax_irkd.models.tsn import TSN
from jax_irkd.training import balance, objective, steps
from jax_irkd.training.optimizers import make_optimizer
from jax_irkd.training.parallel import devices_of
from jax_irkd.training.selection import select
from jax_irkd.training.steps import AXIS

LOOKED_AT = 32  # clips of a set, for the shapes of its films


def computed_in(dtype: str) -> str:
    """The type of a network's numbers here: `auto` is bfloat16 on GPUs and float32 elsewhere."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if jax.default_backend() == "gpu" else "float32"


def make_model(section: ConfigDict, num_classes: int, dtype: str, **overrides) -> TSN:
    """The clip model of a config section. Raises UserError for a field TSN does not have."""
    chosen = dict(section) | overrides
    sync = chosen.pop("sync_bn", False)
    try:
        return TSN(
            num_classes=num_classes,
            dtype=jnp.dtype(computed_in(dtype)),
            axis_name=AXIS if sync else None,
            **chosen,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"the model cannot be made from {chosen}: {error}") from error


def make_network(config: ConfigDict, role: str, num_classes: int) -> TSN:
    """The model of `role`, teacher or student, with what the weights it starts from need."""
    offset = {"input_offset": bool(config.weights.student)} if role == "student" else {}
    return make_model(config[f"{role}_model"], num_classes, config.dtype, **offset)


def make_distillers(section: Mapping[str, Mapping[str, Any]]) -> dict:
    """`fields.make_distillers` for the training step, which compares clips over all devices."""
    return fields.make_distillers(section, AXIS)


def open_data(config: ConfigDict) -> loading.Dataset:
    """The data set that `config` names, without the classes that `dataset.leave_out` does."""
    dataset = loading.open_dataset(config.dataset.name, config.dataset.data_dir)
    left_out = config.dataset.get("leave_out", ())
    return dataset.without(left_out) if left_out else dataset


def frame_sizes(config: ConfigDict) -> dict[str, tuple[int, int]]:
    """Height and width that frames of each modality are read in, before they are cropped."""
    dataset = config.dataset
    return {"rgb": tuple(dataset.rgb_size), "infrared": tuple(dataset.infrared_size)}


def make_reader(
    config: ConfigDict,
    dataset: loading.Dataset,
    split: str,
    modalities: tuple[str, ...],
    single: bool = False,
) -> loading.ClipReader:
    """Reads the clips that `selection.select` chooses; raises UserError as it does."""
    sizes = frame_sizes(config)
    records = select(config, dataset, split, modalities, single).records(dataset)
    return loading.ClipReader(
        records=records,
        modalities=modalities,
        num_segments=config.input.num_segments,
        sizes={name: sizes[name] for name in modalities},
        faults=loading.Faults(config.input.max_broken, len(records)),
        num_classes=len(dataset.class_names),
    )


def make_single_reader(
    config: ConfigDict, dataset: loading.Dataset, training: ConfigDict
) -> loading.ClipReader | None:
    """Reads the infrared clips without partners that go beside pairs; None where none shall.

    Raises UserError where `extra_clips` asks for what is not there, or cannot be divided.
    """
    count = training.get("extra_clips", 0)
    if not count:
        return None
    if not select(config, dataset, "train", ("infrared",), single=True).splits:
        raise UserError(
            f"student_training.extra_clips is {count}, but {dataset.name} has no infrared clips "
            "without partners; build them with --unpaired, or set it to 0"
        )
    devices_of(config, count, training.accumulation)
    return make_reader(config, dataset, "train", ("infrared",), single=True)


def single_words(config: ConfigDict, dataset: loading.Dataset, training: ConfigDict) -> str:
    """What distillation does with infrared clips without partners; "" where there are none."""
    chosen = select(config, dataset, "train", ("infrared",), single=True)
    if not chosen.splits:
        return ""
    count, used = len(chosen.records(dataset)), training.get("extra_clips", 0)
    if not used:
        return (
            f"{count} infrared clips without partners are left out; "
            "--config.student_training.extra_clips=N takes N of them to every step"
        )
    return (
        f"beside the pairs {used} of {count} infrared clips without partners a step: they count in "
        "the cross-entropy only"
    )


def cut_words(reader: loading.ClipReader) -> list[str]:
    """What is lost of films whose shape is not that of the frames that are read of them.

    A sentence for every modality of which a third or more of a film is cut off, going by LOOKED_AT
    clips of the set.
    """
    said = []
    for name in reader.modalities:
        size, shapes = reader.sizes[name], _shapes(reader, name)
        film = max(shapes, key=lambda shape: (_lost(shape, size), shape), default=size)
        if _lost(film, size) < 1 / 3:
            continue
        whole = tuple(round(side * min(size) / min(film)) for side in film)
        fits = all(_lost(shape, whole) < 1 / 3 for shape in shapes)
        way = f"--config.dataset.{name}_size={whole[0]},{whole[1]} leaves them whole"
        said.append(
            f"{name} frames of {film[0]} × {film[1]} (height × width) are read as {size[0]} × "
            f"{size[1]}, without {_lost(film, size):.0%} of them; "
            + (way if fits else "others have another shape: no size leaves all of them whole")
        )
    return said


def _shapes(reader: loading.ClipReader, name: str) -> set[tuple[int, int]]:
    """Heights and widths of the frames of some clips, evenly spaced."""
    found = set()
    for index in range(0, len(reader.records), max(len(reader.records) // LOOKED_AT, 1)):
        try:
            found.add(loading.decode(reader.records[index][name][0], name).shape[:2])
        except UNREADABLE:  # it is named when it is read to learn from
            continue
    return found


def _lost(film: tuple[int, int], size: tuple[int, int]) -> float:
    """The share of a film that is cut off where its frames are read at another shape."""
    scale = max(size[0] / film[0], size[1] / film[1])
    return 1 - math.prod(size) / (math.prod(film) * scale**2)


def lengths(training: ConfigDict, clips: int) -> tuple[int, int]:
    """Steps of an epoch, and of a whole training with so many clips.

    An epoch is one pass over the clips, of few clips so many that `min_steps` are reached.
    """
    least = math.ceil(training.get("min_steps", 0) / training.num_epochs)
    epoch = max(clips // training.batch_size, least, 1)
    return epoch, max(round(training.num_epochs * epoch), 1)


def check_phase(config: ConfigDict, dataset: loading.Dataset, role: str) -> None:
    """Raises UserError for what the phase of `role` could not be trained and tested with."""
    training = config[f"{role}_training"]
    aside = ("validation",) if config.input.validation else ()
    for split in ("train", *aside, "test"):
        make_reader(config, dataset, split, (SEES[role],))
    if role == "student" and config.distillers:
        make_reader(config, dataset, "train", tuple(CHANNELS))
        make_single_reader(config, dataset, training)
    check_shares(config, role)
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
        erasing=inputs.erasing,
    )


def make_mixing(inputs: ConfigDict) -> Callable | None:
    """`mixing.mix` of clips and their keys as the section `input` asks for it; None: no mixing."""
    if not inputs.mixup and not inputs.cutmix:
        return None
    mix = functools.partial(mixing.mix, mixup=inputs.mixup, cutmix=inputs.cutmix)
    draws = jax.vmap(lambda key: jax.random.fold_in(key, augment.MIXING))
    return lambda clips, keys: mix(clips, draws(keys))


def check_shares(config: ConfigDict, role: str) -> None:
    """Raises UserError where a step of `role` cannot be cut: over devices, into parts, in twos."""
    training = config[f"{role}_training"]
    extra = training.get("extra_clips", 0) if config.distillers else 0
    for clips in (training.batch_size, extra):
        devices = devices_of(config, clips, training.accumulation)
    check_twos(config, training, len(devices) * jax.process_count())


def check_twos(config: ConfigDict, training: ConfigDict, devices: int) -> None:
    """Raises UserError where mixing finds an odd number of clips on a device."""
    if make_mixing(config.input) is None:
        return
    for name in ("batch_size", "extra_clips"):
        count, wanted = training.get(name, 0), 2 * devices * training.accumulation
        if count % wanted:
            raise UserError(
                f"mixup and cutmix mix neighbouring clips, and {name}={count} over {devices} "
                f"devices in {training.accumulation} parts leaves an odd number; choose a multiple "
                f"of {wanted}"
            )


def too_little_memory(config: ConfigDict, role: str, devices: int) -> str:
    """What helps where the updates of `role` need more memory than each of `devices` has."""
    training = config[f"{role}_training"]
    parts, share = training.accumulation, training.batch_size // devices
    most = math.gcd(share, training.get("extra_clips", 0) // devices)  # parts of a clip each
    most //= 1 if make_mixing(config.input) is None else 2
    finer = [count for count in range(parts + 1, most + 1) if most % count == 0]
    offered = next((count for count in finer if count >= 4 * parts), max(finer, default=None))
    return failures.of_updates(role, share // parts, offered)


def check_fit(config: ConfigDict, made: Mapping[str, nn.Module], num_classes: int) -> None:
    """Raises UserError when a distiller asks for what the two networks do not give.

    Traces shapes only: nobody trains a teacher for hours to read then that a layer does not exist,
    or that what a share should hold is frozen.
    """
    inputs, key, outputs = config.input, jax.random.key(0), []
    for role in ("student", "teacher"):
        model = steps.alone(make_model(config[f"{role}_model"], num_classes, config.dtype))
        channels = CHANNELS[SEES[role]]
        size = (2, inputs.num_segments, inputs.resolution, inputs.resolution, channels)
        forward = functools.partial(model.init_with_output, train=False)
        outputs.append(jax.eval_shape(forward, key, jax.ShapeDtypeStruct(size, jnp.float32))[0])
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    if make_mixing(inputs):
        labels = jax.ShapeDtypeStruct((2, num_classes), jnp.float32)
    learned = {}
    for name, distiller in made.items():
        try:
            learned[name] = jax.eval_shape(steps.alone(distiller).init, key, *outputs, labels)
        except ValueError as error:
            raise UserError(str(error).splitlines()[0]) from error
    shares = fields.make_shares(config.distillers)
    for name in shares if config.student_model.frozen != "none" else ():
        given = learned[name], outputs[1], labels
        if not _reaches_student(config, made[name], num_classes, *given):
            raise UserError(balance.no_gradient(name, shares[name]))


def _reaches_student(
    config: ConfigDict, distiller: nn.Module, num_classes: int, *given: PyTree
) -> bool:
    """Whether a distiller's gradient to the student's parameters is more than zeros.

    `given` are the distiller's variables, the teacher's outputs and the labels. Its program is
    traced and not run: zeros that a frozen part sends back depend on no argument.
    """
    inputs, key, distiller = config.input, jax.random.key(0), steps.alone(distiller)
    model = steps.alone(make_model(config.student_model, num_classes, config.dtype))
    size = (2, inputs.num_segments, inputs.resolution, inputs.resolution, CHANNELS[SEES["student"]])

    def loss(params, statistics, clips, learned, teacher, labels):
        variables, keys = {"params": params, "batch_stats": statistics}, jax.random.split(key, 2)
        changes = ["batch_stats", "diagnostics"]
        student, _ = model.apply(variables, clips, train=True, dropout_keys=keys, mutable=changes)
        terms, _ = distiller.apply(learned, student, teacher, labels, epoch=1.0, mutable=changes)
        return objective.added(terms.values())

    clips = jax.ShapeDtypeStruct(size, jnp.float32)
    own = jax.eval_shape(functools.partial(model.init, train=False), key, clips)
    gradient = jax.make_jaxpr(jax.grad(loss))
    program = gradient(own["params"], own["batch_stats"], clips, *given).jaxpr
    reached = set(program.invars)
    for equation in program.eqns:
        if any(x in reached for x in equation.invars if not isinstance(x, Literal)):
            reached.update(equation.outvars)
    return any(x in reached for x in program.outvars if not isinstance(x, Literal))

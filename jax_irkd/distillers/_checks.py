"""Checks of hyper-parameters, shapes and labels; every message names the value.

They raise ValueError, also where the shape annotations would complain first.
"""

import dataclasses
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    Number = float
    Scalar = float | Float[Array, ""]
else:
    # Anything at run time: the checks below name a wrong value better than a shape checker.
    Number = Scalar = object


class Method(nn.Module):
    """Base of the distillers: a field must be of the kind of its default.

    Raises ValueError that names the field and the value, as soon as the module is made.
    A method checks the fields it lists in `free_fields` by itself.
    """

    free_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name not in ("parent", "name", *self.free_fields):
                _check_kind(field.name, getattr(self, field.name), field.default)
        super().__post_init__()


def _check_kind(name: str, value: object, default: object) -> None:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    elif isinstance(default, numbers.Real):
        check_number(name, value)
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a string, got {value!r}")
    elif isinstance(default, tuple) and not _is_list_of_names(value):
        raise ValueError(f"{name} must be a list of names such as {default}, got {value!r}")


def _is_list_of_names(value: object) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return listed and len(value) > 0 and all(isinstance(item, str) for item in value)


def check_number(name: str, value: object) -> None:
    """Raises ValueError unless `value` is a finite real number; traced values pass."""
    if isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0:
        value = value.item()
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r} ({type(value).__name__})")


def check_whole(name: str, value: object, smallest: int) -> int:
    """The value as an int. Raises ValueError unless it is whole and at least `smallest`."""
    check_number(name, value)
    if value != int(value) or value < smallest:
        raise ValueError(f"{name} must be a whole number of at least {smallest}, got {value!r}")
    return int(value)


def check_positive(name: str, value: object) -> None:
    """Raises ValueError unless `value` is a positive finite number; traced values pass."""
    check_number(name, value)
    if not isinstance(value, jax.core.Tracer) and value <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Raises ValueError unless `value` is one of `choices`; returns it."""
    if value not in list(choices):
        raise ValueError(f"unknown {name} {value!r}; choose one of {list(choices)}")
    return value


def takes(shape: str, *, equal: bool = False) -> Callable[[Callable], Callable]:
    """Decorator of a pure loss: its two arrays become float32 and must fit each other.

    `shape` names the axes of the first two arguments; `*f` is any number of axes, none
    included. The batch b must agree, with `equal` the whole shape. An argument `labels`
    goes through `check_labels` against the classes of the first array.

    The checks run before the shape annotations and raise ValueError with the shapes.
    """

    def decorate(loss: Callable) -> Callable:
        signature = inspect.signature(loss)
        first, second = list(signature.parameters)[:2]

        @functools.wraps(loss)
        def checked(*args, **options):
            arguments = signature.bind(*args, **options)
            values = arguments.arguments
            for name in (first, second):
                values[name] = _array(f"{loss.__name__}: {name}", values[name], shape)
            shapes = {name: values[name].shape for name in (first, second)}
            _check_fit(loss.__name__, shapes, equal)
            if "labels" in values:
                values["labels"] = check_labels(values["labels"], *shapes[first])
            return loss(*arguments.args, **arguments.kwargs)

        return checked

    return decorate


def takes_maps(loss: Callable) -> Callable:
    """`takes` for losses of two sequences of maps `b h w c`, one map per stage."""

    signature = inspect.signature(loss)
    names = list(signature.parameters)[:2]

    @functools.wraps(loss)
    def checked(*args, **options):
        arguments = signature.bind(*args, **options)
        values = arguments.arguments
        for name in names:
            values[name] = tuple(
                _array(f"{loss.__name__}: {name}[{i}]", maps, "b h w c")
                for i, maps in enumerate(values[name])
            )
        _check_stages(loss.__name__, *(values[name] for name in names))
        return loss(*arguments.args, **arguments.kwargs)

    return checked


def _check_stages(loss: str, student: Sequence[Array], teacher: Sequence[Array]) -> None:
    if not student or len(student) != len(teacher):
        raise ValueError(
            f"{loss}: the student has {len(student)} stages and the teacher {len(teacher)}; "
            "both need the same number, at least 1"
        )
    batches = [[len(maps) for maps in stages] for stages in (student, teacher)]
    if len({*batches[0], *batches[1]}) > 1:
        raise ValueError(
            f"{loss}: the student's maps hold {batches[0]} clips and the teacher's {batches[1]}; "
            "all must describe the same batch"
        )


def _array(name: str, value: object, shape: str) -> Float[Array, "..."]:
    array = jnp.asarray(value).astype(jnp.float32)
    axes = shape.split()
    fits = array.ndim >= len(axes) - 1 if "*" in shape else array.ndim == len(axes)
    if not fits or array.size == 0:
        raise ValueError(f"{name} must have the shape ({shape}), none of it 0; got {array.shape}")
    return array


def _check_fit(loss: str, shapes: dict[str, tuple[int, ...]], equal: bool) -> None:
    (first, shape), (second, other) = shapes.items()
    if shape[0] != other[0]:
        raise ValueError(
            f"{loss}: {first} holds {shape[0]} clips and {second} {other[0]}; "
            f"both must describe the same batch (shapes {shape} and {other})"
        )
    if equal and shape != other:
        raise ValueError(
            f"{loss}: {first} has the shape {shape} and {second} {other}; they must be equal"
        )


def check_labels(labels: object, batch: int, classes: int) -> Int[Array, " b"]:
    """The labels as an integer array of shape `b`.

    Raises ValueError for another shape or type and, outside jit, for a value that is not in
    0 .. classes - 1. Under jit the values are unknown: each loss says what it does with them.
    """
    known = not isinstance(labels, jax.core.Tracer)
    array = np.asarray(labels) if known else labels
    if array.shape != (batch,) or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"labels must be {batch} integers, one per clip; "
            f"got shape {array.shape} of {array.dtype}"
        )
    if known and not np.all((array >= 0) & (array < classes)):
        wrong = [int(label) for label in array if not 0 <= label < classes]
        raise ValueError(f"labels must lie in 0..{classes - 1} ({classes} classes), got {wrong}")
    return jnp.asarray(array).astype(jnp.int32)

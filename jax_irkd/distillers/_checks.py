"""Checks of hyper-parameters and labels; every message names the value.

They raise ValueError, also where the shape annotations would complain first. Traced values pass
where only their value could be wrong.
"""

import functools
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int, Real

Number = float | int | Real[Array, ""]
"""A hyper-parameter: a number, or a scalar array, traced ones included."""
Mask = Bool[Array, "..."] | None
"""Which examples count; None is all of them."""
Weights = Real[Array, "..."] | None
"""A factor for each example; None is 1."""
Labels = Real[Array, "..."]
"""Class numbers, or a distribution over the classes for each example (one-hot or soft)."""


def check_number(name: str, value: Any) -> Number:
    """The value. Raises ValueError unless it is a finite real scalar."""
    if isinstance(value, jax.core.Tracer):
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.number):
            raise ValueError(f"{name} must be a number, got an array of shape {value.shape}")
        return value
    known: Any = value
    if isinstance(value, jax.Array | np.ndarray):
        if value.ndim:
            raise ValueError(f"{name} must be a number, got an array of shape {value.shape}")
        known = value.item()
    real = isinstance(known, numbers.Real | np.number) and not isinstance(known, bool)
    if not real or not math.isfinite(known):
        raise ValueError(f"{name} must be a finite number, got {known!r} ({type(known).__name__})")
    return known.item() if isinstance(known, np.number) else value


def check_whole(name: str, value: object, smallest: int) -> int | Int[Array, ""]:
    """The value, an int unless traced. Raises ValueError unless whole and >= `smallest`."""
    value = check_number(name, value)
    if isinstance(value, jax.core.Tracer):
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise ValueError(
                f"{name} must be a whole number of at least {smallest}; "
                f"got a traced array of {value.dtype}"
            )
        return value
    if value != int(value) or value < smallest:
        raise ValueError(f"{name} must be a whole number of at least {smallest}, got {value!r}")
    return int(value)


def check_positive(name: str, value: object) -> Number:
    """The value. Raises ValueError unless it is a positive finite number."""
    value = check_number(name, value)
    if not isinstance(value, jax.core.Tracer) and value <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return value


def between(smallest: float, largest: float) -> Callable[[str, object], Number]:
    """A check that a number lies in a range in which the loss is accurate."""

    def check(name: str, value: object) -> Number:
        value = check_positive(name, value)
        if not isinstance(value, jax.core.Tracer) and not smallest <= value <= largest:
            raise ValueError(f"{name} must be from {smallest:g} to {largest:g}, got {value!r}")
        return value

    return check


check_temperature = between(1e-30, 1e30)


def check_not_negative(name: str, value: object) -> Number:
    """The value. Raises ValueError unless it is a finite number of at least 0."""
    value = check_number(name, value)
    if not isinstance(value, jax.core.Tracer) and value < 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")
    return value


def whole(smallest: int) -> Callable[[str, object], int | Int[Array, ""]]:
    """`check_whole` with its bound, as `takes` wants it."""
    return functools.partial(check_whole, smallest=smallest)


def optional(check: Callable[[str, object], Number]) -> Callable[[str, object], Number | None]:
    """`check` for a hyper-parameter that may be None."""
    return lambda name, value: None if value is None else check(name, value)


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Raises ValueError unless `value` is one of `choices`; returns it."""
    if value not in list(choices):
        raise ValueError(f"{unknown(name)} {value!r}; choose one of {list(choices)}")
    return value


def choice(choices: Iterable[str]) -> Callable[[str, Any], str]:
    """`check_choice` with its choices, as `takes` wants it."""
    return functools.partial(check_choice, choices=choices)


def unknown(name: str) -> str:
    """`unknown x`, or `loss: unknown x` for a name that begins with its loss."""
    loss, colon, option = name.rpartition(": ")
    return f"{loss}{colon}unknown {option}"


def check_labels(
    name: str,
    labels: Any,
    leading: tuple[Any, ...],
    classes: int,
    counted: Bool[Array, "..."] | None = None,
) -> Labels:
    """Labels as int32 of the shape `leading`, or as a distribution `(*leading, classes)`.

    Raises ValueError for another shape or type and, outside jit, for a value that is no class, or
    a row that is no distribution, unless `counted` leaves it out. Under jit the values are unknown:
    each loss says what it does with them.
    """
    known = not isinstance(labels, jax.core.Tracer)
    array = np.asarray(labels) if known else labels
    if array.shape == (*leading, classes) and array.dtype != object:
        return _check_distributions(name, array, known, counted)
    if array.shape != leading or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be {_words(leading)} integers, one per clip; "
            f"got shape {array.shape} of {array.dtype} "
            f"(distributions over the classes have the shape {(*leading, classes)})"
        )
    if known:
        wrong = array[((array < 0) | (array >= classes)) & _known(counted)].ravel()
        if wrong.size:
            raise ValueError(
                f"{name} must lie in 0..{classes - 1} ({classes} classes), got {wrong.tolist()}"
            )
    return jnp.asarray(array).astype(jnp.int32)


def _check_distributions(
    name: str, array: Any, known: bool, counted: Bool[Array, "..."] | None
) -> Real[Array, "*b k"]:
    if known and not isinstance(counted, jax.core.Tracer):
        total = np.asarray(array, np.float64).sum(-1)
        wrong = (np.abs(total - 1) > 1e-2) | (np.asarray(array) < 0).any(-1)
        if np.any(wrong & _known(counted)):
            raise ValueError(
                f"{name} must be distributions over the classes, not negative and summing to 1; "
                f"got sums from {total.min():.4g} to {total.max():.4g}"
            )
    return jnp.asarray(array)


def _known(counted: Bool[Array, "..."] | None) -> np.ndarray | bool:
    """What is left out cannot be wrong; a traced mask may leave out anything."""
    if counted is None:
        return True
    return False if isinstance(counted, jax.core.Tracer) else np.asarray(counted)


def _words(leading: tuple[Any, ...]) -> str:
    return " x ".join(str(size) for size in leading) if leading else "single"


def one_hot(labels: Labels, classes: int, dtype: DTypeLike) -> Array:
    """A row for each label; all 0 where an integer is no class. Distributions stay."""
    if jnp.issubdtype(labels.dtype, jnp.integer):
        shape = (*labels.shape, classes)
        numbers = jax.lax.broadcasted_iota(labels.dtype, shape, len(shape) - 1)
        return (labels[..., None] == numbers).astype(dtype)
    return labels.astype(dtype)

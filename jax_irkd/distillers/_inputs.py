"""What every pure loss does with its arguments before the equation begins.

    @takes("*b k", equal=True, temperature=check_positive)
    def st_loss(student_logits, teacher_logits, *, temperature=4.0,
                axis=-1, where=None, weights=None, reduction="mean"): ...

The equation then finds arrays of one dtype, at least float32, that fit each other; its
hyper-parameters checked; and, as far as its signature has them:

- `axis`: moved to the end, so -1.
- `labels`: int32 of the leading shape, or a distribution over the classes in the last axis.
  `ignore_index`: such labels are 0 and do not count in `where`.
- `where`: None or bool of the leading shape (`b` or `*b`); what does not count is 0 in the arrays,
  so that padding of any value, NaN included, has neither value nor gradient.
- `weights`: None or the arrays' dtype, of the leading shape.
- `axis_name`: arrays, labels, mask and weights hold the clips of all devices already.

A relational loss (`b *f`, or maps with `relational=True`) gets its arrays whole on every device
of an explicit mesh. Errors are ValueErrors that begin with the name of the loss. The docstring
gets the sections that all have alike (`_documentation`).
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jax_irkd.distillers._checks import (
    Number,
    check_choice,
    check_labels,
    check_number,
    check_whole,
)
from jax_irkd.distillers._common import gather
from jax_irkd.distillers._documentation import complete
from jax_irkd.distillers._reduction import REDUCTIONS

Bound = Callable[[dict[str, Any], float], float]
"""(arguments, largest finite number) -> the largest size that an array may have; its docstring
says so to users."""
Option = Number | Sequence[Number] | str | None
Check = Callable[[str, object], Option]
Loss = TypeVar("Loss", bound=Callable[..., Any])
"""Decorated, a loss keeps its signature for type checkers."""


def takes(
    shape: str,
    *,
    equal: bool = False,
    relational: bool | None = None,
    largest: Bound | None = None,
    **checks: Check,
) -> Callable[[Loss], Loss]:
    """Decorator of a loss of two arrays (see the module).

    `shape` names the axes of the first two arguments: `*b k`, `b *f` or `b h w c`; a starred
    name is any number of axes, none included. The batch must agree, with `equal` the whole shape.
    `largest` is the range of the arrays, for a loss that a number of its type cannot hold beyond.
    `checks` maps a hyper-parameter to a function `(name, value) -> value`; every other one that
    is annotated `Number` has to be a finite scalar.
    """
    if relational is None:
        relational = shape == "b *f"
    rule = _Rule(shape, equal, relational, largest, checks)
    return functools.partial(_decorate, rule=rule, maps=False)


def takes_maps(
    *, relational: bool = False, largest: Bound | None = None, **checks: Check
) -> Callable[[Loss], Loss]:
    """`takes` for losses of two sequences of maps `b h w c`, one map per stage."""
    rule = _Rule("b h w c", False, relational, largest, checks)
    return functools.partial(_decorate, rule=rule, maps=True)


def squared(values: dict[str, Any], most: float) -> float:
    """Features up to 2e15 in float32 and 4e123 in float64, as their squares are added up."""
    return most**0.4


def squared_twice(values: dict[str, Any], most: float) -> float:
    """Features up to 5e7 in float32 and 1e61 in float64, as their products are squared."""
    return most**0.2


def over_temperature(values: dict[str, Any], most: float) -> float:
    """Logits up to 3e35 in float32 and 1e305 in float64, times the temperature or over it,
    whichever is less."""
    temperature = values.get("temperature", values.get("temperatures", 1.0))
    temperature = temperature if isinstance(temperature, Sequence) else [temperature]
    if values.get("standardise") or any(isinstance(t, jax.core.Tracer) for t in temperature):
        return math.inf
    return most / 1e3 * min(min(t, 1 / t) for t in map(float, temperature))


class _Rule(NamedTuple):
    shape: str
    equal: bool
    relational: bool
    largest: Bound | None
    checks: dict[str, Check]

    def leading(self, array: Array) -> tuple[Any, ...]:
        """The shape of the examples."""
        return array.shape[:-1] if self.shape.startswith("*") else array.shape[:1]


def _decorate(loss: Loss, *, rule: _Rule, maps: bool) -> Loss:
    signature = inspect.signature(loss)
    first, second = list(signature.parameters)[:2]
    numbers = {n for n, p in signature.parameters.items() if p.annotation is Number}
    checks: dict[str, Check] = {**dict.fromkeys(numbers, check_number), **rule.checks}

    @functools.wraps(loss)
    def checked(*args: Any, **options: Any) -> Any:
        arguments = signature.bind(*args, **options)
        arguments.apply_defaults()
        values = arguments.arguments
        for key, parameter in signature.parameters.items():
            if parameter.default is None and values.get(key, ...) is None:
                del values[key]
        name = loss.__name__
        pair = {key: _arrays(f"{name}: {key}", values[key], rule, maps) for key in (first, second)}
        (_check_stages if maps else _check_fit)(name, pair, rule)
        dtype = _common_dtype(pair)
        pair = jax.tree.map(lambda array: array.astype(dtype), pair)
        axis = _move_axis(name, values, pair)
        for key in checks.keys() & values.keys():
            values[key] = _hyperparameter(f"{name}: {key}", values[key], checks[key], dtype)
        examples = pair[first][0]
        _Examples(name, rule.leading(examples), examples.shape[-1], axis).prepare(values, dtype)
        pair = _left_out(pair, values.get("where"))
        if rule.largest is not None:
            _check_range(name, pair, rule.largest(values, float(jnp.finfo(dtype).max)), dtype)
        pair, values = _everywhere(pair, values, rule)
        values.update(pair if maps else {key: arrays[0] for key, arrays in pair.items()})
        return loss(*arguments.args, **arguments.kwargs)

    one = not str(signature.return_annotation).startswith("tuple")
    checked.__doc__ = complete(
        loss, returns=one and loss.__name__.endswith("_loss"), largest=rule.largest
    )
    return cast(Loss, checked)


def _arrays(name: str, value: object, rule: _Rule, maps: bool) -> tuple[Array, ...]:
    """One array, or one per stage."""
    if not maps:
        return (_array(name, value, rule.shape),)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{name} must be a list of maps, one per stage; got {type(value)}")
    return tuple(_array(f"{name}[{i}]", item, rule.shape) for i, item in enumerate(value))


def _array(name: str, value: object, shape: str) -> Array:
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array, got {type(value).__name__}") from error
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, got {array.dtype}")
    axes = shape.split()
    fits = array.ndim >= len(axes) - 1 if "*" in shape else array.ndim == len(axes)
    if not fits or 0 in array.shape:
        raise ValueError(f"{name} must have the shape ({shape}), none of it 0; got {array.shape}")
    return array


def _check_fit(loss: str, pair: dict[str, tuple[Array, ...]], rule: _Rule) -> None:
    (first, (one,)), (second, (other,)) = pair.items()
    if rule.leading(one)[:1] != rule.leading(other)[:1]:
        raise ValueError(
            f"{loss}: {first} holds {one.shape[0]} clips and {second} {other.shape[0]}; "
            f"both must describe the same batch (shapes {one.shape} and {other.shape})"
        )
    if (one.shape if rule.equal else rule.leading(one)) != (
        other.shape if rule.equal else rule.leading(other)
    ):
        raise ValueError(
            f"{loss}: {first} has the shape {one.shape} and {second} {other.shape}; "
            "they must be equal"
        )


def _check_stages(loss: str, pair: dict[str, tuple[Array, ...]], rule: _Rule) -> None:
    student, teacher = pair.values()
    if not student or len(student) != len(teacher):
        raise ValueError(
            f"{loss}: the student has {len(student)} stages and the teacher {len(teacher)}; "
            "both need the same number, at least 1"
        )
    batches = [[maps.shape[0] for maps in stages] for stages in (student, teacher)]
    if any(size != batches[0][0] for size in (*batches[0], *batches[1])):
        raise ValueError(
            f"{loss}: the student's maps hold {batches[0]} clips and the teacher's {batches[1]}; "
            "all must describe the same batch"
        )


def _common_dtype(pair: dict[str, tuple[Array, ...]]) -> jnp.dtype:
    """float64 where an input has it, else float32; also where promotion is strict."""
    double = any(array.dtype == jnp.float64 for arrays in pair.values() for array in arrays)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def _move_axis(loss: str, values: dict, pair: dict[str, tuple[Array, ...]]) -> int:
    """Moves `axis` of the two arrays to the end; returns where it was, counted from the end."""
    axis, ndim = values.get("axis", -1), next(iter(pair.values()))[0].ndim
    if isinstance(axis, bool) or not isinstance(axis, int) or not -ndim <= axis < ndim:
        raise ValueError(f"{loss}: axis must be one of the {ndim} axes, got {axis!r}")
    axis = axis % ndim - ndim
    if axis != -1:
        values["axis"] = -1
        for key, arrays in pair.items():
            pair[key] = tuple(jnp.moveaxis(array, axis, -1) for array in arrays)
    return axis


def _hyperparameter(name: str, value: object, check: Check, dtype: jnp.dtype) -> Option:
    """The value, checked; an array becomes `dtype`, or stays whole where it has to be whole."""
    value = check(name, value)
    if getattr(check, "func", None) is check_whole:
        return value

    def typed(x: Any) -> Any:
        return jnp.asarray(x).astype(dtype) if isinstance(x, jax.Array | np.ndarray) else x

    return [typed(x) for x in value] if isinstance(value, list) else typed(value)


class _Examples(NamedTuple):
    """Puts what goes with the examples into one shape."""

    loss: str
    leading: tuple[Any, ...]
    classes: int
    axis: int

    def prepare(self, values: dict, dtype: jnp.dtype) -> None:
        if "reduction" in values:
            check_choice(f"{self.loss}: reduction", values["reduction"], REDUCTIONS)
        if values.get("where") is not None:
            values["where"] = self._mask(values["where"])
        if values.get("weights") is not None:
            weights = self._spread("weights", values["weights"]).astype(dtype)
            if values.get("where") is not None:
                weights = jnp.where(values["where"], weights, 0.0)
            values["weights"] = weights
        if "labels" in values:
            self._labels(values)

    def _mask(self, where: object) -> Bool[Array, "..."]:
        where = self._spread("where", where)
        if where.dtype != jnp.bool_:
            raise ValueError(f"{self.loss}: where must be bool, got {where.dtype}; try where != 0")
        return where

    def _spread(self, name: str, value: object) -> Array:
        array = jnp.asarray(value)
        try:
            return jnp.broadcast_to(array, self.leading)
        except ValueError as error:
            raise ValueError(
                f"{self.loss}: {name} has the shape {array.shape}; "
                f"it must broadcast to {self.leading}, one number per example"
            ) from error

    def _labels(self, values: dict) -> None:
        labels, ignored = values["labels"], values.get("ignore_index")
        if self.axis != -1 and jnp.ndim(labels) == len(self.leading) + 1:
            labels = jnp.moveaxis(jnp.asarray(labels), self.axis, -1)
        if ignored is not None and jnp.shape(labels) == self.leading:
            labels = jnp.asarray(labels)
            counts = labels != ignored
            labels = jnp.where(counts, labels, 0)
            where = values.get("where")
            values["where"] = counts if where is None else counts & where
        name = f"{self.loss}: labels"
        values["labels"] = check_labels(
            name, labels, self.leading, self.classes, values.get("where")
        )


def _left_out(pair: dict, where: Bool[Array, "..."] | None) -> dict:
    """0 instead of whatever the examples hold that do not count."""
    if where is None:
        return pair

    def keep(array: Float[Array, "..."]) -> Float[Array, "..."]:
        mask = where.reshape(where.shape + (1,) * (array.ndim - where.ndim))
        return jnp.where(mask, array, 0.0)

    return jax.tree.map(keep, pair)


def _check_range(
    loss: str, pair: dict[str, tuple[Array, ...]], largest: float, dtype: jnp.dtype
) -> None:
    """Outside of jit and grad, where the values are known."""
    for key, arrays in pair.items():
        values = [x for x in arrays if not isinstance(x, jax.core.Tracer)]
        sizes = [jnp.max(jnp.abs(x)) for x in values]  # traced under jit, also of a constant
        known = [float(size) for size in sizes if not isinstance(size, jax.core.Tracer)]
        reached = max(known, default=0.0)
        if reached > largest:
            raise ValueError(
                f"{loss}: {key} reaches {reached:.3g}; from {largest:.3g} on the loss may leave "
                f"the range of {dtype}. Scale both networks' arrays down"
            )


def _everywhere(pair: dict, values: dict, rule: _Rule) -> tuple[dict, dict]:
    """Joins the clips of all devices of `axis_name`, and of an explicit mesh."""
    per_clip = {k: values[k] for k in ("labels", "where", "weights") if values.get(k) is not None}
    joined = pair, per_clip
    if rule.relational:
        joined = jax.tree.map(replicated, joined)
    elif rule.shape == "b h w c":  # positions are pooled and flattened
        joined = jax.tree.map(functools.partial(replicated, kept=1), joined)
    pair, per_clip = gather(joined, values.get("axis_name"))
    values.update(per_clip)
    return pair, values


def replicated(array: Array, kept: int = 0) -> Array:
    """The array whole on every device of an explicit mesh but for its first `kept` axes; elsewhere
    the array itself."""
    sharding = jax.typeof(array).sharding
    if all(axis is None for axis in sharding.spec[kept:]):
        return array
    whole = jax.sharding.PartitionSpec(*sharding.spec[:kept])
    return jax.sharding.reshard(array, jax.sharding.NamedSharding(sharding.mesh, whole))

"""The base class of the distillers."""

import dataclasses
import numbers
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_irkd.distillers._checks import Labels, Number, check_choice, check_number
from jax_irkd.distillers._common import VERTICES
from jax_irkd.models.outputs import Outputs

REDUCE = {"mean": jnp.mean, "sum": jnp.sum}
"""From the losses of the stages to one."""
CHOICES: dict[str, Iterable[str]] = {"vertex": VERTICES, "reduce": REDUCE}
"""What these fields may be, in every method that has them."""


class Method(nn.Module):
    """A distillation method with its hyper-parameters: a subclass writes `terms`.

    The teacher that `terms` gets is a constant. A field must be of the kind of its default;
    ValueError names the field and the value as soon as the module is made. A method checks the
    fields it lists in `free_fields` by itself. `terms` may make learnable layers. Fields in
    `without_share` change a weight with time, or the cross-entropy's: a `share` would undo them,
    so only one of the two can be given. `choices` lists what a field that is a word may be.
    `balanced_share` is the share with `weights=balanced`, of a method that has one of its own.
    """

    free_fields: ClassVar[tuple[str, ...]] = ()
    without_share: ClassVar[tuple[str, ...]] = ()
    balanced_share: ClassVar[float]
    choices: ClassVar[Mapping[str, Iterable[str]]] = MappingProxyType({})

    def __post_init__(self) -> None:
        for name, choices in (CHOICES | dict(self.choices)).items():
            if hasattr(self, name):
                check_choice(name, getattr(self, name), choices)
        for field in dataclasses.fields(self):
            if field.name not in ("parent", "name", *self.free_fields):
                _check_kind(field.name, getattr(self, field.name), field.default)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        student: Outputs,
        teacher: Outputs,
        labels: Labels,
        *,
        epoch: Number | None = None,
    ) -> dict[str, Float[Array, ""]]:
        """The weighted terms of the method, see the package's docstring."""
        return self.terms(student, jax.lax.stop_gradient(teacher), labels, epoch)

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        """Weighted scalars by name; the loss is their sum. The teacher is a constant."""
        raise NotImplementedError(f"{type(self).__module__}.{type(self).__name__} needs terms()")


class StageMethod(Method):
    """A method whose losses of single stages are averaged or added: a subclass writes `stage`.

    Its term, `weight` times the mean or sum (`reduce`) over `layers`, has the name of its file.
    """

    layers: Sequence[str] = ("stage1", "stage2", "stage3", "stage4")
    weight: Number = 1.0
    reduce: str = "mean"

    def terms(
        self, student: Outputs, teacher: Outputs, labels: Labels, epoch: Number | None
    ) -> dict[str, Float[Array, ""]]:
        stages = jnp.stack([self.stage(layer, student, teacher) for layer in self.layers])
        name = type(self).__module__.rpartition(".")[2]
        return {name: self.weight * REDUCE[self.reduce](stages)}

    def stage(self, layer: str, student: Outputs, teacher: Outputs) -> Float[Array, ""]:
        """The loss of one stage."""
        raise NotImplementedError(f"{type(self).__module__}.{type(self).__name__} needs stage()")


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
    if not isinstance(value, Sequence) or isinstance(value, str):
        return False
    return len(value) > 0 and all(isinstance(item, str) for item in value)

"""What is trained and what it learns from: said once, for the loop and for compiling its update."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jax_irkd.data.spec import CHANNELS


class Network(NamedTuple):
    """A model and its trained variables."""

    model: nn.Module
    variables: PyTree


@dataclasses.dataclass(frozen=True)
class Phase:
    """What one network learns from: its modality and, when it has distillers, its teacher.

    `shares` are those of the distillers that have one (see `jax_irkd.training.balance`).
    """

    name: str
    modality: str
    model: nn.Module
    training: ConfigDict
    distillers: Mapping[str, nn.Module] = dataclasses.field(default_factory=dict)
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    teacher: Network | None = None
    pretrained: Callable[[PyTree], PyTree] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(CHANNELS) if self.distillers else (self.modality,)

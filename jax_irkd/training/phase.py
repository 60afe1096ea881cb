"""What one network learns from."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jax_irkd.training.evaluation import Network


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
        return ("rgb", "infrared") if self.distillers else (self.modality,)

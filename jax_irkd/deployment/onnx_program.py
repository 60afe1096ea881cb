"""A trained TSN as an ONNX model: from a run's network, or from what an `.irkd` file holds.

An `.irkd` file has its weights under their names and says which network they are of. So it needs
no second program to be run by other engines: the graph is written when it is first needed.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment import engines
from jax_irkd.models.folding import without_norms
from jax_irkd.models.tsn import TSN
from jax_irkd.training.phase import Network

OPSET = 17  # read by onnxruntime from 1.12, TensorRT from 8.6, OpenVINO from 2022.3 on
FIELDS = ("num_classes", "depth", "width", "temporal", "temporal_share", "input_offset")


def architecture(network: Network) -> dict[str, Any] | None:
    """The fields of a folded TSN, as JSON has them; None for every other network."""
    model = network.model
    if not isinstance(model, TSN) or model.norm:
        return None
    return {name: getattr(model, name) for name in FIELDS}


def _folded(network: Network) -> tuple[Any, Any]:
    """Without norms, in float32: the graph's precision is chosen apart, and kernels folded in the
    type of a run that was trained in bfloat16 would be rounded before."""
    model = network.model.clone(dtype=np.float32)
    return without_norms(model, network.variables)


def clip_model(network: Network, spec: InputSpec, precision: str = "float32", opset: int = OPSET):
    """`onnx_graph.clip_program` of a TSN, folded here where it is not yet."""
    from jax_irkd.deployment.onnx_graph import clip_program

    model, variables = _folded(network)
    return clip_program(model, variables["params"], spec, precision=precision, opset=opset)


def frame_model(network: Network, spec: InputSpec, precision: str = "float32", opset: int = OPSET):
    """`onnx_graph.frame_program` of a TSN, folded here where it is not yet, and its first past."""
    from jax_irkd.deployment.onnx_graph import frame_program

    model, variables = _folded(network)
    return frame_program(model, variables["params"], spec, precision=precision, opset=opset)


def clips(
    network: Network, spec: InputSpec, engine: str, precision: str = "float32"
) -> engines.Compiled:
    """uint8 clips to probabilities and logits in an engine."""
    model = clip_model(network, spec, precision)
    return engines.compiled(model.SerializeToString(), engine, precision)


def frames(
    network: Network, spec: InputSpec, engine: str, precision: str = "float32"
) -> tuple["Stepping", list[np.ndarray]]:
    """`Exported.frame_program` in an engine, of a network whose frames do not see later ones."""
    written, past = frame_model(network, spec, precision)
    return Stepping(engines.compiled(written.SerializeToString(), engine, precision)), past


class Stepping:
    """A program with the past in inputs and outputs of its own as a function of frames and past."""

    def __init__(self, program: engines.Compiled):
        self._program, self.name = program, program.name

    def __call__(
        self, frames: np.ndarray, past: list[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        logits, *past = self._program(frames, *past)
        return logits, past


class Programs:
    """A network's programs in an engine, each made when it is first needed: both hold the weights.

    `clips` and `frames` make them; no `frames` where windows are computed whole.
    """

    def __init__(
        self,
        clips: Callable[[], engines.Compiled],
        frames: Callable[[], tuple[Stepping, list[np.ndarray]]] | None,
    ):
        self._clips, self._frames = clips, frames

    @functools.cached_property
    def clips(self) -> engines.Compiled:
        return self._clips()

    @functools.cached_property
    def frames(self) -> tuple[Stepping, list[np.ndarray]]:
        return self._frames()

    @property
    def name(self) -> str:
        """What runs the program that is there; where none is, the one for clips is made."""
        made = vars(self)
        return made["frames"][0].name if "frames" in made else self.clips.name


def network_of(manifest: Mapping[str, Any], weights: Sequence[np.ndarray]) -> Network:
    """The network in an `.irkd` file, in float32. Raises for one that no export has written."""
    named = dict(zip(manifest["weight_names"], weights, strict=True))
    values = {}
    for name, value in named.items():
        if name.endswith("/scale") and name.replace("/scale", "/values") in named:
            continue
        stem = name.removesuffix("/values")
        scale = named[f"{stem}/scale"] if stem != name else np.float32(1)
        values[stem] = np.asarray(value).astype(np.float32) * scale
    model = TSN(**manifest["architecture"], norm=False)
    return Network(model, traverse_util.unflatten_dict(values, sep="/"))


def spec_of(manifest: Mapping[str, Any]) -> InputSpec:
    """The frames that the network of a manifest reads."""
    return InputSpec(
        manifest["modality"],
        manifest["num_segments"],
        (manifest["height"], manifest["width"]),
        manifest["resolution"],
        manifest["scale"],
    )

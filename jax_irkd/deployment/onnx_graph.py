"""A TSN's graph in ONNX, node by node: channels first, a layer of the network is a node.

Runtimes and quantisers look for this form. A graph translated from JAX's has transposes between
all layers, products of matrices for the projections and no names. Needs the package `onnx`.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jax_irkd.data import pixels
from jax_irkd.data.augment import resize_weights
from jax_irkd.data.spec import InputSpec, whole_crop
from jax_irkd.models.resnet import BLOCKS, STAGES, is_shifted
from jax_irkd.models.temporal import shifted_channels
from jax_irkd.models.tsn import TSN

OLDEST_OPSET = 17
STEM_OFFSET = "stem/offset"  # a constant, not a layer

Layer = Mapping[str, np.ndarray]  # kernel and bias, as Flax has them
Shift = Callable[["Graph", str, int, int], str]


def opsets() -> range:
    """Those that a graph can be written for with the installed onnx."""
    return range(OLDEST_OPSET, onnx.defs.onnx_opset_version() + 1)


class Graph:
    """Nodes and constants in the order they are added; a tensor goes by its name."""

    def __init__(self, precision: str = "float32", opset: int = OLDEST_OPSET):
        self.precision, self.opset = precision, opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, kind: str, *inputs: Any, name: str = "", **attributes: Any) -> str:
        """A node with one output, called `name`; inputs that are arrays become constants."""
        name = name or f"{kind}_{len(self.nodes)}"
        names = [
            value if isinstance(value, str) else self._constant(f"{name}.{place}", value)
            for place, value in enumerate(inputs)
        ]
        self.nodes.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return name

    def _constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    @property
    def arithmetic(self) -> type[np.floating]:
        return np.float16 if self.precision == "fp16" else np.float32

    def slice(self, tensor: str, start: int, stop: int, *, axis: int, name: str = "") -> str:
        ends = (np.int64([value]) for value in (start, stop, axis))
        return self.add("Slice", tensor, *ends, name=name)

    def cast(self, tensor: str, kind: int) -> str:
        return self.add("Cast", tensor, to=kind)

    def conv(self, maps: str | np.ndarray, layer: Layer, stride: int = 1, name: str = "") -> str:
        """A convolution, padded by half of its kernel; a 1x1 one where the layer is dense."""
        kernel = np.asarray(layer["kernel"], np.float32)
        kernel = kernel if kernel.ndim == 4 else kernel[None, None]
        side = kernel.shape[0]
        weights = [self._weight(f"{name}.kernel", kernel.transpose(3, 2, 0, 1))]
        if "bias" in layer:
            weights.append(np.asarray(layer["bias"]).astype(self.arithmetic))
        return self.add(
            "Conv",
            maps,
            *weights,
            name=name,
            kernel_shape=[side, side],
            strides=[stride, stride],
            pads=[side // 2] * 4,
        )

    def _weight(self, name: str, value: np.ndarray) -> str:
        """A kernel in the bits of `precision`; bfloat16 ones are widened where they are used."""
        if self.precision == "fp16":
            return self._constant(name, value.astype(np.float16))
        if self.precision == "bf16":
            import ml_dtypes

            held = np.ascontiguousarray(value.astype(ml_dtypes.bfloat16)).tobytes()
            kind = TensorProto.BFLOAT16
            tensor = helper.make_tensor(f"{name}.bf16", kind, value.shape, held, raw=True)
            self.constants.append(tensor)
            return self.add("Cast", tensor.name, to=TensorProto.FLOAT, name=name)
        return self._constant(name, np.ascontiguousarray(value))

    def mean(self, tensor: str, axis: int, name: str) -> str:
        if self.opset < 18:
            return self.add("ReduceMean", tensor, axes=[axis], keepdims=0, name=name)
        return self.add("ReduceMean", tensor, np.int64([axis]), keepdims=0, name=name)


def clip_program(
    model: TSN,
    params: Mapping[str, Any],
    spec: InputSpec,
    *,
    precision: str = "float32",
    opset: int = OLDEST_OPSET,
) -> onnx.ModelProto:
    """uint8 `clips` `b t h w c` to `logits` and `probabilities`, float32 `b k`, b free.

    `model` has its batch norms folded (`norm=False`) and `params` are its parameters as NumPy
    arrays. bf16 rounds the kernels and computes in float32, unless the engine is told otherwise;
    fp16 computes in float16 up to the last feature map.
    """
    graph = Graph(precision, opset)
    frames = pixels_of(graph, "clips", spec)

    def shift(graph: Graph, maps: str, channels: int, side: int) -> str:
        return _shifted(graph, maps, channels, side, model, spec.num_segments)

    logits = frame_logits(graph, frames, model, params, spec, shift)
    classes = int(np.shape(params["head"]["bias"])[0])
    shape = np.int64([-1, spec.num_segments, classes])
    logits = graph.mean(graph.add("Reshape", logits, shape), 1, "logits")
    graph.add("Softmax", logits, axis=1, name="probabilities")
    return finished(
        graph,
        {"clips": (TensorProto.UINT8, ["b", *spec.shape])},
        {name: (TensorProto.FLOAT, ["b", classes]) for name in ("probabilities", "logits")},
    )


def frame_program(
    model: TSN,
    params: Mapping[str, Any],
    spec: InputSpec,
    *,
    precision: str = "float32",
    opset: int = OLDEST_OPSET,
) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """Consecutive uint8 `frames` `n h w c` and the past to `logits` `n k` and the next past.

    The past, whose beginning is returned beside the model, is what `temporal.shift_from_past`
    keeps: inputs `past_0`, … and outputs `next_0`, … for every shifted block; nothing without a
    shift. `model.temporal` is none or causal.
    """
    graph, past = Graph(precision, opset), []

    def shift(graph: Graph, maps: str, channels: int, side: int) -> str:
        if model.temporal == "none":
            return maps
        count = shifted_channels(channels, model.temporal_share)
        number = len(past)
        past.append(np.zeros((1, count, side, side), graph.arithmetic))
        kept = graph.slice(maps, 0, count, axis=1)
        line = graph.add("Concat", f"past_{number}", kept, axis=0)
        graph.slice(line, -1, sys.maxsize, axis=0, name=f"next_{number}")
        parts = [graph.slice(line, 0, -1, axis=0)]
        if count < channels:
            parts.append(graph.slice(maps, count, channels, axis=1))
        return graph.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]

    pixels = pixels_of(graph, "frames", spec)
    head = frame_logits(graph, pixels, model, params, spec, shift)
    graph.add("Identity", head, name="logits")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(graph.arithmetic))
    before, after = (
        {f"{name}_{place}": (kind, value.shape) for place, value in enumerate(past)}
        for name in ("past", "next")
    )
    frames = {"frames": (TensorProto.UINT8, ["n", *spec.shape[1:]])}
    logits = {"logits": (TensorProto.FLOAT, ["n", int(np.shape(params["head"]["bias"])[0])])}
    return finished(graph, frames | before, logits | after), past


def finished(
    graph: Graph, inputs: Mapping[str, tuple[int, list]], outputs: Mapping[str, tuple[int, list]]
) -> onnx.ModelProto:
    """The model with the graph, checked. Of inputs and outputs types and shapes are given."""
    ends = [
        [helper.make_tensor_value_info(name, *value) for name, value in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    opsets = [helper.make_opsetid("", graph.opset)]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "jax_irkd", *ends, graph.constants),
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="jax_irkd",
    )
    onnx.checker.check_model(model)
    return model


def pixels_of(graph: Graph, clips: str, spec: InputSpec) -> str:
    """The centre crop at the network's size, `n c r r`, less the mean of pixels.

    The deviation by which frames are divided as well is in the stem's kernel. The mean is not:
    zero padding comes after it.
    """
    (height, width), size = spec.size, spec.resolution
    begin = whole_crop(spec.size, spec.scale, size)
    if begin is not None:
        start, axes = np.int64(begin), np.int64([-3, -2])
        clips = graph.add("Slice", clips, start, start + size, axes)
        height = width = size
    if spec.channels == 1:
        frames = graph.add("Reshape", clips, np.int64([-1, 1, height, width]))
    else:
        frames = graph.add("Reshape", clips, np.int64([-1, height, width, spec.channels]))
        frames = graph.add("Transpose", frames, perm=[0, 3, 1, 2])
    frames = graph.cast(frames, TensorProto.FLOAT)
    if begin is None:
        side = spec.scale * min(height, width)
        rows, columns = (
            np.asarray(resize_weights(length, *map(jnp.float32, ((length - side) / 2, side)), size))
            for length in (height, width)
        )
        frames = graph.add("MatMul", rows.T, graph.add("MatMul", frames, columns))
    mean, _ = _pixel_statistics(spec)
    return graph.add("Sub", frames, mean, name="pixels")


def _pixel_statistics(spec: InputSpec) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of grey levels, `c 1 1`."""
    infrared = spec.channels == 1
    names = ("INFRARED_MEAN", "INFRARED_STD") if infrared else ("RGB_MEAN", "RGB_STD")
    mean, deviation = (255 * np.float32(getattr(pixels, name)) for name in names)
    return mean.reshape(-1, 1, 1), deviation.reshape(-1, 1, 1)


def frame_logits(
    graph: Graph,
    frames: str,
    model: TSN,
    params: Mapping[str, Any],
    spec: InputSpec,
    shift: Shift,
) -> str:
    """Logits `n k` of `pixels_of` frames; `shift` is applied to the input of every block."""
    backbone = params["backbone"]
    if graph.precision == "fp16":
        frames = graph.cast(frames, TensorProto.FLOAT16)
    maps = _stem(graph, frames, backbone["stem"], spec)
    _, counts = BLOCKS[model.depth]
    side = -(-spec.resolution // 4)
    channels = model.width
    for level, (stage, count) in enumerate(zip(STAGES, counts, strict=True)):
        for index in range(count):
            stride = 2 if level > 0 and index == 0 else 1
            name = f"{stage}_block{index}"
            shifted = shift(graph, maps, channels, side) if is_shifted(model.depth, index) else maps
            maps = _block(graph, maps, shifted, backbone[name], stride, name)
            side = -(-side // stride)
            channels = int(backbone[name][_last_conv(backbone[name])]["kernel"].shape[-1])
    if graph.precision == "fp16":
        maps = graph.cast(maps, TensorProto.FLOAT)
    pooled = graph.add("Flatten", graph.add("GlobalAveragePool", maps, name="pooled"))
    head = (np.asarray(params["head"][name], np.float32) for name in ("kernel", "bias"))
    return graph.add("Gemm", pooled, *head, name="head")


def _stem(graph: Graph, frames: str, stem: Mapping[str, Layer], spec: InputSpec) -> str:
    _, deviation = _pixel_statistics(spec)
    conv = dict(stem["conv"])
    conv["kernel"] = np.asarray(conv["kernel"], np.float32) / deviation.reshape(-1, 1)
    maps = graph.conv(frames, conv, 2, "stem")
    if "offset" in stem:
        ones = np.ones((1, 1, spec.resolution, spec.resolution), graph.arithmetic)
        maps = graph.add("Add", maps, graph.conv(ones, stem["offset"], 2, STEM_OFFSET))
    maps = graph.add("Relu", maps, name="stem/relu")
    return graph.add(
        "MaxPool", maps, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, name="stem/pool"
    )


def _last_conv(block: Mapping[str, Layer]) -> str:
    return "conv3" if "conv3" in block else "conv2"


def _block(
    graph: Graph, maps: str, shifted: str, block: Mapping[str, Layer], stride: int, name: str
) -> str:
    """relu(shortcut(maps) + f(shifted)); of three convolutions the second has the stride."""
    last = _last_conv(block)
    strided = "conv2" if last == "conv3" else "conv1"
    inner = shifted
    for layer in sorted(key for key in block if key.startswith("conv")):
        step = stride if layer == strided else 1
        inner = graph.conv(inner, block[layer], step, f"{name}/{layer}")
        if layer != last:
            inner = graph.add("Relu", inner, name=f"{name}/{layer}/relu")
    shortcut = maps
    if "projection" in block:
        shortcut = graph.conv(maps, block["projection"], stride, f"{name}/projection")
    return graph.add("Relu", graph.add("Add", inner, shortcut, name=f"{name}/add"), name=name)


def _shifted(graph: Graph, maps: str, channels: int, side: int, model: TSN, segments: int) -> str:
    """`models.temporal.temporal_shift` of maps `n c h w`."""
    if model.temporal == "none":
        return maps
    count = shifted_channels(channels, model.temporal_share)
    ahead = count if model.temporal == "shift" else 0
    clips = graph.add("Reshape", maps, np.int64([-1, segments, channels, side * side]))

    def moved(tensor: str, later: bool) -> str:
        zero = np.zeros((), graph.arithmetic)
        if segments == 1:
            return graph.add("Mul", tensor, zero)
        start, stop = (0, segments - 1) if later else (1, segments)
        kept = graph.slice(tensor, start, stop, axis=1)
        ends = np.int64([0, int(later), 0, 0, 0, int(not later), 0, 0])
        return graph.add("Pad", kept, ends, zero)

    parts = [moved(graph.slice(clips, 0, ahead, axis=2), later=False)] if ahead else []
    parts.append(moved(graph.slice(clips, ahead, ahead + count, axis=2), later=True))
    if ahead + count < channels:
        parts.append(graph.slice(clips, ahead + count, channels, axis=2))
    joined = graph.add("Concat", *parts, axis=2) if len(parts) > 1 else parts[0]
    return graph.add("Reshape", joined, np.int64([-1, channels, side, side]))

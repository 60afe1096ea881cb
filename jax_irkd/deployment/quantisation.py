"""ONNX models in integers: 8-bit weights and activations, between pairs of Quantize and Dequantize.

    q = clip(round(x / scale) + zero)

Weights have a scale for each output channel and no zero; activations one scale and zero a tensor,
from the least and the greatest value that calibration clips bring about (onnxruntime's static
quantisation, QDQ format). Only convolutions take part, which are nearly all the work: sums at the
shortcuts, the head and what comes after it stay float32. Needs `onnx` and `onnxruntime`.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import quantization

from jax_irkd.deployment.onnx_graph import STEM_OFFSET
from jax_irkd.errors import UserError

_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")  # else it warns; the graph is lean


class _Clips(quantization.CalibrationDataReader):
    """What a program for clips takes, or one for frames with this past: a clip's frames."""

    def __init__(self, clips: Iterable[np.ndarray], past: Sequence[np.ndarray] | None):
        self._inputs, self.count = self._all(clips, past), 0

    def _all(self, clips, past) -> Iterator[dict[str, np.ndarray]]:
        for batch in clips:
            if past is None:
                self.count += len(batch)
                yield {"clips": batch}
                continue
            for clip in batch:
                self.count += 1
                yield {"frames": clip} | {f"past_{i}": value for i, value in enumerate(past)}

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)


def quantised(
    model: onnx.ModelProto,
    clips: Iterable[np.ndarray],
    past: Sequence[np.ndarray] | None = None,
) -> tuple[onnx.ModelProto, int]:
    """The float32 model in integers, and how many clips it was calibrated with.

    `clips` are batches of uint8 clips `b t h w c`. A program for frames begins each with `past`.
    Raises UserError where there are no clips.
    """
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    key, value = _PREPARED
    prepared.metadata_props.add(key=key, value=value)
    reader = _Clips(clips, past)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        try:
            quantization.quantize_static(
                prepared,
                path,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=[STEM_OFFSET],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except ValueError as error:
            if reader.count:
                raise
            raise UserError(
                "--precision=int8 needs clips to calibrate with, and there are none; give "
                "--calibration_clips=64 or so"
            ) from error
        made = onnx.load(path)
    made.producer_name = model.producer_name
    return made, reader.count

"""Clips to class probabilities, the same from a run, an exported file and an ONNX file.

A classifier is called with uint8 clips `b t h w c` and returns float32 probabilities `b k`. The
crop and the normalisation are its business; which frames it gets and at what size is told by its
`num_segments`, `size` and `modality`.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import PyTree

from jax_irkd.data.spec import InputSpec
from jax_irkd.detection.consensus import Frames
from jax_irkd.errors import UserError


class Classifier(Protocol):
    """What predict, stream and bench need of a network."""

    class_names: tuple[str, ...]
    modality: str
    num_segments: int
    size: tuple[int, int]

    def __call__(self, clips: np.ndarray) -> np.ndarray: ...

    def frame_program(self) -> tuple[Callable, PyTree]: ...


def open_classifier(path: str | Path, which: str = "last") -> Classifier:
    """The network in a run's folder, an exported `.irkd` file or an `.onnx` file.

    `which` (last, best or ema) chooses among a run's checkpoints. Raises UserError when there is
    nothing to run at `path`.
    """
    path = Path(path)
    if path.is_dir():
        return RunClassifier(path, which)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder or an exported .irkd file")
    if path.suffix == ".onnx":
        return OnnxClassifier(path)
    from jax_irkd.deployment.exported import Exported, ExportedError

    try:
        return Exported(path)
    except ExportedError as error:
        raise UserError(str(error)) from error


WINDOWS = ("auto", "shared", "whole")


def shared_frames(classifier: Classifier, windows: str = "auto") -> Frames | None:
    """The classifier's program for frames that come one after the other; None: whole windows.

    `windows`: auto takes it where there is one, whole never does, shared raises UserError where
    there is none.
    """
    if windows not in WINDOWS:
        raise UserError(f"windows is {windows!r}; choose one of {', '.join(WINDOWS)}")
    program = getattr(classifier, "frame_program", None)
    if windows == "whole" or (windows == "auto" and program is None):
        return None
    try:
        return Frames(*program())
    except (UserError, ValueError) as error:  # an ExportedError is one
        if windows == "auto":
            return None
        raise UserError(str(error)) from error


class RunClassifier:
    """A run's network through Flax."""

    def __init__(self, folder: str | Path, which: str = "last"):
        import jax

        from jax_irkd.runs.network import load_network

        self.network, self.meta = load_network(folder, which)
        spec = trained_spec(self.meta)
        self.class_names = tuple(self.meta["class_names"])
        self.range = self.meta.get("range", "auto")
        self.modality, self.num_segments, self.size = spec[:3]
        step = functools.partial(probabilities, model=self.network.model, spec=spec)
        self._step = jax.jit(step)
        self.path = folder

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return np.asarray(self._step(self.network.variables, clips))

    def frame_program(self) -> tuple[Callable, PyTree]:
        """`Exported.frame_program` of the run's network. Raises UserError where it has none."""
        import jax

        from jax_irkd.deployment.exported import only_whole_clips
        from jax_irkd.models.tsn import no_past

        model, spec = self.network.model, trained_spec(self.meta)
        if not streams(model):
            manifest = {"temporal": getattr(model, "temporal", "")}
            raise UserError(f"{self.path} {only_whole_clips(manifest)}")
        step = jax.jit(functools.partial(frame_step, model=model, spec=spec))
        return functools.partial(step, self.network.variables), no_past(model, spec.cropped)

    def cost(self) -> tuple[int, float]:
        """Parameters, and floating point operations for one clip."""
        return cost(self.network.variables, self._step, trained_spec(self.meta))


class OnnxClassifier:
    """An ONNX file through onnxruntime, on its GPU provider where it has one."""

    def __init__(self, path: str | Path, threads: int = 0):
        from jax_irkd.deployment.exported import FORMAT, check_manifest
        from jax_irkd.deployment.onnx_file import sealed

        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"{path} needs onnxruntime: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            whole = sealed(Path(path).read_bytes())
            if whole is False:
                raise ValueError("its content has changed since it was written")
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=onnxruntime.get_available_providers()
            )
            held = self._session.get_modelmeta().custom_metadata_map
            self.manifest = json.loads(held["jax_irkd"])
            if self.manifest["format"] != FORMAT:
                raise ValueError(f"format {self.manifest['format']}, this version reads {FORMAT}")
            check_manifest(self.manifest, ("class_names", "modality", "num_segments", "height"))
            if self.manifest.get("sealed") and not whole:
                raise ValueError("its checksum is lost")
        except Exception as error:  # onnxruntime has an exception class for every fault.
            reason = str(error).splitlines()[0][:120]
            raise UserError(
                f"{path} is not a network that jax_irkd exported ({reason}); make one with "
                "python -m jax_irkd.export --format=onnx --run=RUN --out=student.onnx"
            ) from error
        self.class_names = tuple(self.manifest["class_names"])
        self.range = self.manifest.get("range", "auto")
        self.modality, self.num_segments = self.manifest["modality"], self.manifest["num_segments"]
        self.size = (self.manifest["height"], self.manifest["width"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: clips})[0]


def trained_spec(meta: Mapping[str, Any]) -> InputSpec:
    """The test protocol that a run was evaluated with."""
    config, modality = meta["config"], meta["modality"]
    inputs = config["input"]
    size = tuple(config["dataset"][f"{modality}_size"])
    return InputSpec(
        modality, inputs["num_segments"], size, inputs["resolution"], inputs["eval_scale"]
    )


def probabilities(variables: Any, clips, *, model, spec: InputSpec):
    """softmax(model(centre crop, normalised)), float32 `b k`, of uint8 clips `b t h w c`."""
    import jax

    logits = model.apply(variables, prepare(clips, spec.resolution, spec.scale), train=False)
    return jax.nn.softmax(logits.logits.astype(np.float32))


def streams(model: Any) -> bool:
    """Whether the logits of a frame do not depend on the frames after it."""
    return getattr(model, "temporal", "shift") != "shift"


def frame_step(variables: Any, frames, past: Any, *, model, spec: InputSpec):
    """`tsn.frame_logits` of consecutive uint8 frames `n h w c`."""
    from jax_irkd.models.tsn import frame_logits

    prepared = prepare(frames[:, None], spec.resolution, spec.scale)[:, 0]
    return frame_logits(model, variables, prepared, past)


def prepare(clips, resolution: int, scale: float):
    """`augment.prepare_evaluation`, except that a crop of whole pixels is cut, not resampled.

    The published sizes are such: 224 = 0.875 * 256. Resampling it would multiply by the identity.
    """
    import jax.numpy as jnp

    from jax_irkd.data import augment

    height, width = clips.shape[2:4]
    side = scale * min(height, width)
    top, left = (height - side) / 2, (width - side) / 2
    if side == resolution and top.is_integer() and left.is_integer():
        rows = slice(int(top), int(top) + resolution)
        columns = slice(int(left), int(left) + resolution)
        return augment.normalise(clips[:, :, rows, columns].astype(jnp.float32) / 255.0)
    prepared = augment.prepare_evaluation({"clips": clips}, resolution=resolution, scale=scale)
    return prepared["clips"]


def cost(variables: Any, step: Callable, spec: InputSpec) -> tuple[int, float]:
    """Parameters, and floating point operations of jitted `step(variables, clips)` for a clip."""
    import jax

    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    clips = jax.ShapeDtypeStruct((1, *spec.shape), np.uint8)
    analysis = step.lower(variables, clips).cost_analysis() or {}
    return parameters, float(analysis.get("flops", float("nan")))

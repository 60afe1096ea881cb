"""Clips to class probabilities, the same from a run, an exported file and an ONNX file.

A classifier is called with uint8 clips `b t h w c` and returns float32 probabilities `b k`. The
crop and the normalisation are its business; which frames it gets and at what size is told by its
`num_segments`, `size` and `modality`.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import PyTree

from jax_irkd.data.spec import InputSpec, whole_crop
from jax_irkd.deployment import engines, onnx_file, onnx_frames, onnx_program
from jax_irkd.deployment.choices import WINDOWS
from jax_irkd.detection.consensus import Frames
from jax_irkd.errors import UserError, one_line
from jax_irkd.models.tsn import TSN, streams


class Classifier(Protocol):
    """What predict, stream and bench need of a network. `engine` names what runs it."""

    class_names: tuple[str, ...]
    modality: str
    num_segments: int
    size: tuple[int, int]
    engine: str
    framewise: bool  # whether there is a program for frames

    def __call__(self, clips: np.ndarray) -> np.ndarray: ...

    def frame_program(self) -> tuple[Callable, PyTree]: ...


def open_classifier(path: str | Path, which: str = "last", engine: str = "auto") -> Classifier:
    """The network in a run's folder, an exported `.irkd` file or an `.onnx` file.

    `which` (last, best or ema) chooses among a run's checkpoints, `engine` what runs the network
    (`engines.choose`). Raises UserError when there is nothing to run at `path`, or no such engine.
    """
    path = Path(path)
    if not path.exists():
        engines.check(engine)
        raise UserError(f"{path} does not exist; give a run's folder or an exported .irkd file")
    if path.is_dir():
        return RunClassifier(path, which, engine)
    return open_onnx(path, engine) if onnx_file.is_onnx(path) else _open_irkd(path, engine)


def shared_frames(classifier: Classifier, windows: str = "auto") -> Frames | None:
    """The classifier's program for frames that come one after the other; None: whole windows.

    `windows`: auto takes it where there is one, whole never does, shared raises UserError where
    there is none.
    """
    if windows not in WINDOWS:
        raise UserError(f"windows is {windows!r}; choose one of {', '.join(WINDOWS)}")
    if windows == "whole" or (windows == "auto" and not getattr(classifier, "framewise", False)):
        return None
    try:
        return Frames(*classifier.frame_program())
    except ValueError as error:  # an ExportedError
        raise UserError(str(error)) from error


class RunClassifier:
    """A run's network through Flax, or its ONNX programs through another engine.

    A program is made when it is first needed, and once: that for clips, that for frames.
    """

    def __init__(self, folder: str | Path, which: str = "last", engine: str = "jax"):
        import jax

        from jax_irkd.runs.network import load_network

        chosen = engines.choose(engine)
        self.network, self.meta = load_network(folder, which)
        spec = trained_spec(self.meta)
        self.class_names = tuple(self.meta["class_names"])
        self.range = self.meta.get("range", "auto")
        self.modality, self.num_segments, self.size = spec[:3]
        self.path, self.framewise = folder, streams(self.network.model)
        self._flax = jax.jit(functools.partial(probabilities, model=self.network.model, spec=spec))
        self._onnx: onnx_program.Programs | None = None
        if chosen != "jax" and _writable(isinstance(self.network.model, TSN), engine, folder):
            self._onnx = onnx_program.Programs(
                functools.partial(onnx_program.clips, self.network, spec, chosen),
                functools.partial(onnx_program.frames, self.network, spec, chosen),
            )

    @property
    def engine(self) -> str:
        return self._onnx.name if self._onnx else f"Flax, {engines.jax_name()}"

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        if self._onnx:
            return self._onnx.clips(clips)[0]
        return np.asarray(self._flax(self.network.variables, clips))

    def frame_program(self) -> tuple[Callable, PyTree]:
        """`Exported.frame_program` of the run's network. Raises UserError where it has none."""
        from jax_irkd.deployment.exported import only_whole_clips

        if not self.framewise:
            manifest = {"temporal": getattr(self.network.model, "temporal", "")}
            raise UserError(f"{self.path} {only_whole_clips(manifest)}")
        return self._onnx.frames if self._onnx else self._stepping

    @functools.cached_property
    def _stepping(self) -> tuple[Callable, PyTree]:
        import jax

        from jax_irkd.models.folding import without_norms
        from jax_irkd.models.tsn import no_past

        spec = trained_spec(self.meta)
        model, variables = without_norms(*self.network)
        step = jax.jit(functools.partial(frame_step, model=model, spec=spec))
        return functools.partial(step, jax.device_put(variables)), no_past(model, spec.cropped)

    def cost(self) -> tuple[int, float]:
        """Parameters, and floating point operations for one clip."""
        return cost(self.network.variables, self._flax, trained_spec(self.meta))


class OnnxClassifier:
    """A network's ONNX programs, which `clips` and `frames` make, and the manifest of its file."""

    def __init__(
        self,
        path: str | Path,
        manifest: dict[str, Any],
        clips: Callable[[], engines.Compiled],
        frames: Callable[[], tuple[onnx_program.Stepping, PyTree]] | None = None,
    ):
        self.manifest, self._onnx = manifest, onnx_program.Programs(clips, frames)
        self.path, self.framewise = path, frames is not None
        self.class_names = tuple(manifest["class_names"])
        self.range = manifest.get("range", "auto")
        self.modality, self.num_segments = manifest["modality"], manifest["num_segments"]
        self.size = (manifest["height"], manifest["width"])

    @property
    def engine(self) -> str:
        return self._onnx.name

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return self._onnx.clips(clips)[0]

    def frame_program(self) -> tuple[Callable, PyTree]:
        """`Exported.frame_program`. Raises UserError where there is none."""
        from jax_irkd.deployment.exported import only_whole_clips

        if not self.framewise:
            raise UserError(f"{self.path} {only_whole_clips(self.manifest)}")
        return self._onnx.frames


def open_onnx(path: str | Path, engine: str = "auto") -> OnnxClassifier:
    """The network in an `.onnx` file. Raises UserError for one that no export has written."""
    from jax_irkd.deployment.exported import FORMAT, check_manifest

    chosen = engines.choose(engine, onnx_file=True)
    with _of_an_export(path):
        content, whole = _unchanged(path)
        manifest = json.loads(onnx_file.metadata(content)["jax_irkd"])
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, this version reads {FORMAT}")
        check_manifest(manifest, ("class_names", "modality", "num_segments", "height", "width"))
        if manifest.get("sealed") and not whole:
            raise ValueError("its checksum is lost")
        clips = functools.partial(_clips_in, path, chosen, manifest["precision"])
        frames = onnx_frames.frames_beside(path, manifest, chosen)
        return OnnxClassifier(path, manifest, clips, frames)


def _clips_in(path: str | Path, engine: str, precision: str) -> engines.Compiled:
    with _of_an_export(path):
        return engines.compiled(_unchanged(path)[0], engine, precision)


def _unchanged(path: str | Path) -> tuple[bytes, bool]:
    """The content of an `.onnx` file, and whether it has a seal that says that it is whole."""
    content = Path(path).read_bytes()
    whole = onnx_file.sealed(content)
    if whole is False:
        raise ValueError("its content has changed since it was written")
    return content, bool(whole)


@contextlib.contextmanager
def _of_an_export(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong in the block is a UserError: the file is not what an export writes."""
    try:
        yield
    except Exception as error:  # an engine has an exception class for every fault
        reason = (str(error).splitlines() or [""])[0][:120]
        raise UserError(
            f"{path} is not a network that jax_irkd exported ({reason}); make one with "
            "python -m jax_irkd.export --run=RUN --out=student.onnx"
        ) from error


def _open_irkd(path: Path, engine: str) -> Classifier:
    """The program in an `.irkd` file through JAX, or its network through another engine."""
    from jax_irkd.deployment.exported import Exported, ExportedError, read_archive

    chosen = engines.choose(engine)
    try:
        if chosen == "jax":
            return Exported(path)
        manifest, _, _, weights = read_archive(path)
        if not _writable(bool(manifest.get("architecture")), engine, path):
            return Exported(path)
        with _of_one_network(path):
            network = onnx_program.network_of(manifest, weights)
            spec = onnx_program.spec_of(manifest)
            precision = manifest["precision"].replace("int8", "float32")  # of the weights alone
        clips, frames = (
            functools.partial(_of_one_network(path)(make), network, spec, chosen, precision)
            for make in (onnx_program.clips, onnx_program.frames)
        )
        return OnnxClassifier(path, manifest, clips, frames if streams(network.model) else None)
    except ExportedError as error:
        raise UserError(str(error)) from error


@contextlib.contextmanager
def _of_one_network(path: Path) -> Iterator[None]:
    """What shows that weights and network differ is a UserError."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: its weights are not those of its network ({one_line(error)[:120]}); "
            "export the run again"
        ) from error


def _writable(plain: bool, engine: str, path: str | Path) -> bool:
    """Whether ONNX can be written of the network; UserError where an engine was asked for."""
    if not plain and engine != "auto":
        raise UserError(
            f"{path} holds no network of ours that can be written as ONNX (or an older version "
            f"exported it), which --engine={engine} needs; export the run again, or take "
            "--engine=jax"
        )
    return plain


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


def frame_step(variables: Any, frames, past: Any, *, model, spec: InputSpec):
    """`tsn.frame_logits` of consecutive uint8 frames `n h w c`."""
    from jax_irkd.models.tsn import frame_logits

    prepared = prepare(frames[:, None], spec.resolution, spec.scale)[:, 0]
    return frame_logits(model, variables, prepared, past)


def prepare(clips, resolution: int, scale: float):
    """`augment.prepare_evaluation`, except that a `whole_crop` is cut, not resampled."""
    import jax.numpy as jnp

    from jax_irkd.data import augment

    begin = whole_crop(clips.shape[2:4], scale, resolution)
    if begin is not None:
        rows, columns = (slice(place, place + resolution) for place in begin)
        return augment.normalise(clips[:, :, rows, columns].astype(jnp.float32) / 255.0)
    prepared = augment.prepare_evaluation({"clips": clips}, resolution=resolution, scale=scale)
    return prepared["clips"]


def cost(variables: Any, step: Callable, spec: InputSpec) -> tuple[int, float]:
    """Parameters, and floating point operations of jitted `step(variables, clips)` for a clip."""
    import jax

    from jax_irkd.host.operations import operations

    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    clips = jax.ShapeDtypeStruct((1, *spec.shape), np.uint8)
    return parameters, operations(step, variables, clips)

"""An exported network, loaded and run with jax and NumPy alone.

This file needs nothing else of jax_irkd and may be copied into another project. An exported file
is a zip archive of `program.stablehlo` (weights and uint8 clips in, probabilities out),
`frames.stablehlo` where frames can be computed as they come (weights, uint8 frames and the past in,
logits and the past of the next frames out), `weights.bin` (their numbers one after the other),
`manifest.json` (class names, sampling rules, types and shapes of the weights, origin),
`MODEL_CARD.md` and a copy of this file. With the weights inside the programs the first prediction
would come half a second later.
"""

import dataclasses
import functools
import json
import math
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

FORMAT = 3  # of the archive; raised when an older reader would misunderstand a newer file
NEEDED = (
    *("class_names", "modality", "num_segments", "height", "width"),
    *("platforms", "calling_convention", "weights"),
)
PROGRAM, FRAMES, WEIGHTS = "program.stablehlo", "frames.stablehlo", "weights.bin"
MANIFEST, CARD = "manifest.json", "MODEL_CARD.md"
READER = "exported.py"
LARGEST = 20  # times its own size that an archive may unpack to; ours are not compressed
TYPES = ("float32", "float16", "bfloat16", "int8", "uint8", "int32", "uint32", "bool")


class ExportedError(ValueError):
    """A file that is no exported network, or not one that this version can run."""


class Exported:
    """Class probabilities of clips.

    `class_names`, `modality` (rgb or infrared), `num_segments` and `size` (height, width) say what
    the clips should be, `range` how pixels of more than eight bits become uint8; `framewise`
    whether there is a program for frames; `manifest` holds everything else that was exported.
    """

    def __init__(self, path: str | Path):
        self.path = path
        self.manifest, serialized, self._frames, weights = read_archive(Path(path))
        self.framewise = self._frames is not None
        self.class_names = tuple(self.manifest["class_names"])
        self.modality = self.manifest["modality"]
        self.range = self.manifest.get("range", "auto")
        self.num_segments = self.manifest["num_segments"]
        self.size = (self.manifest["height"], self.manifest["width"])
        self.engine = f"JAX {jax.__version__} on {jax.default_backend()}"
        self._program = _compilable(path, program_of(self.manifest, serialized), self.manifest)
        self._weights = jax.device_put(weights)

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Probabilities `b k`, float32, of uint8 clips `b t h w c`. Any b; each compiles once."""
        wanted = _shape(self.manifest)
        if clips.dtype != np.uint8 or clips.shape[1:] != wanted:
            shape = ", ".join(map(str, wanted))
            raise ValueError(f"clips are {clips.dtype} {clips.shape}; give uint8 (b, {shape})")
        return np.asarray(self._program(self._weights, clips))

    def judge(self, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Calibrated probabilities `b k` of those that a call gave, and which of the answers count.

        By the thresholds of the manifest's `calibration` (jax_irkd.metrics.calibration has the
        equations); unchanged, and all of them, where the file has none. A class called `background`
        never counts, nor does an answer that is not finite. Look at the frames yourself: black or
        frozen ones are answers like others here.
        """
        held = self.manifest.get("calibration")
        names = list(self.class_names)
        nothing = names.index("background") if "background" in names else -1
        acts = np.asarray(probabilities).argmax(axis=1) != nothing
        acts &= np.isfinite(probabilities).all(axis=1)
        if not held:
            return probabilities, acts
        logs = np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-30))
        away = (logs - logs.mean(axis=1, keepdims=True))[:, None] - np.array(held["means"])
        strange = np.einsum("nmk,kl,nml->nm", away, np.array(held["precision"]), away).min(axis=1)
        scaled = np.exp((logs - logs.max(axis=1, keepdims=True)) / held["temperature"])
        scaled /= scaled.sum(axis=1, keepdims=True)
        known = (-strange >= held["least_familiar"]) & (scaled.max(1) >= held["least_probable"])
        return scaled.astype(np.float32), known & acts

    def frame_program(self) -> tuple[Callable, list[np.ndarray]]:
        """`step` and `past`: logits, past = step(frames, past), from uint8 frames `n h w c` as they
        come to logits `n k`, beginning with the past that is returned here.

        softmax of the mean logits of a clip's frames are the clip's probabilities. Any n; each
        compiles once. Raises ExportedError for a network that needs whole clips.
        """
        if self._frames is None:
            raise ExportedError(f"{self.path} {only_whole_clips(self.manifest)}")
        return self._stepping

    @functools.cached_property
    def _stepping(self) -> tuple[Callable, list[np.ndarray]]:
        program = _compilable(self.path, frames_of(self.manifest, self._frames), self.manifest)
        past = [np.zeros(shape, jnp.dtype(kind)) for kind, shape in self.manifest["past"]]
        return functools.partial(program, self._weights), past


def only_whole_clips(manifest: dict) -> str:
    """Why a network has no program for frames, and what to do."""
    if manifest.get("temporal") == "shift":
        return (
            "cannot take frames one by one: its segments see the ones after them (temporal=shift); "
            "give it whole clips, or train with :temporal=causal"
        )
    return "was exported without a program for frames; give it whole clips, or export its run again"


def read_archive(path: Path) -> tuple[dict, bytes, bytes | None, list[np.ndarray]]:
    """Manifest, program for clips, program for frames (older files have none) and weights.

    Raises ExportedError for what is not whole or not ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            extra = [FRAMES] if FRAMES in archive.namelist() else []
            size = sum(info.file_size for info in archive.infolist())
            if size > LARGEST * path.stat().st_size:
                raise ValueError(f"it would unpack to {size:,} bytes")
            manifest = json.loads(archive.read(MANIFEST))
            if not isinstance(manifest, dict):
                raise ValueError("its manifest is no JSON object")
            if manifest.get("format") != FORMAT:
                raise ExportedError(
                    f"{path} has format {manifest.get('format')}, this version of jax_irkd reads "
                    f"format {FORMAT}; export the run again, or use the version of jax_irkd that "
                    f"wrote it ({manifest.get('versions', {}).get('jax-irkd', 'unknown')})"
                )
            check_manifest(manifest, NEEDED)
            if ("past" in manifest) != bool(extra):
                raise ValueError(f"its manifest and {FRAMES} do not belong together")
            weights = unpack(archive.read(WEIGHTS), manifest["weights"])
            frames = archive.read(FRAMES) if extra else None
            return manifest, archive.read(PROGRAM), frames, weights
    except OSError as error:
        raise ExportedError(f"{path}: {error.strerror or error}; check the path") from error
    except ExportedError:
        raise
    except Exception as error:  # What a damaged or hostile archive raises is anything.
        raise ExportedError(
            f"{path} is not a complete exported network ({error}); make one with "
            "python -m jax_irkd.export --run=RUN --out=student.irkd"
        ) from error


def check_manifest(manifest: dict, needed: Sequence[str]) -> None:
    """Raises ValueError, naming the entry, for a manifest that no export has written."""
    missing = [name for name in needed if name not in manifest]
    if missing:
        raise ValueError(f"its manifest has no {missing[0]}")

    def texts(value) -> bool:
        return isinstance(value, list) and value and all(isinstance(text, str) for text in value)

    def number(value, least=1) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 20

    def layout(value) -> bool:
        return isinstance(value, list) and all(
            isinstance(row, list)
            and len(row) == 2
            and row[0] in TYPES
            and isinstance(row[1], list)
            and all(isinstance(n, int) and 0 <= n < 1 << 31 for n in row[1])
            for row in value
        )

    good = {
        "class_names": texts,
        "platforms": texts,
        "modality": lambda value: value in ("rgb", "infrared"),
        "num_segments": number,
        "height": number,
        "width": number,
        "calling_convention": number,
        "weights": layout,
        "past": layout,
        "range": lambda value: isinstance(value, str),
        "versions": lambda value: isinstance(value, dict),
    }
    for name, holds in good.items():
        if name in manifest and not holds(manifest[name]):
            shown = repr(manifest[name])
            raise ValueError(f"{name} in its manifest cannot be {shown[:60]}")
    if math.prod(_shape(manifest)) > 1 << 31:
        raise ValueError(f"its clips would have {math.prod(_shape(manifest)):,} bytes each")


def pack(weights: Sequence[np.ndarray]) -> tuple[bytes, list]:
    """The numbers of all arrays, and the type and shape of each as JSON has them."""
    return b"".join(weight.tobytes() for weight in weights), [
        [weight.dtype.name, list(weight.shape)] for weight in weights
    ]


def unpack(numbers: bytes, layout: Sequence) -> list[np.ndarray]:
    """What was `pack`ed. Raises ValueError when there are more or fewer numbers."""
    weights, start = [], 0
    for dtype, shape in layout:
        weight = np.frombuffer(numbers, jnp.dtype(dtype), math.prod(shape), start).reshape(shape)
        weights.append(weight)
        start += weight.nbytes
    if start != len(numbers):
        raise ValueError(f"{len(numbers)} bytes of weights where {start} are described")
    return weights


def _compilable(path, program: jax.export.Exported, manifest: dict) -> Callable:
    """The program, translated for one clip or frame: what cannot be read is known at once."""
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in manifest["platforms"]:
        raise ExportedError(
            f"{path} runs on {', '.join(manifest['platforms'])}, this machine is {platform}; "
            "set JAX_PLATFORMS=cpu"
        )
    try:
        called = jax.jit(program.call)
        positional, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
        one = jax.tree.map(_of_one, positional)
        called.lower(*one)
    except Exception as error:  # The reader of the format raises whatever it stumbles over.
        written = manifest.get("versions", {}).get("jax", "unknown")
        raise ExportedError(
            f"{path} was exported by jax {written} and jax {jax.__version__} cannot read it "
            f"({type(error).__name__}); install jax {written} or export the run again"
        ) from error
    return called


def _of_one(shape) -> jax.ShapeDtypeStruct:
    known = (size if isinstance(size, int) else 1 for size in shape.shape)
    return jax.ShapeDtypeStruct(tuple(known), shape.dtype)


def program_of(manifest: dict, module: bytes) -> jax.export.Exported:
    """The program `(weights, clips) -> probabilities` whose StableHLO is `module`."""
    (batch,) = jax.export.symbolic_shape("b")

    def same_signature(weights, clips):
        del weights
        return _any_numbers(clips, manifest)

    clips = jax.ShapeDtypeStruct((batch, *_shape(manifest)), jnp.uint8)
    return _exported(same_signature, (_described(manifest["weights"]), clips), module, manifest)


def frames_of(manifest: dict, module: bytes) -> jax.export.Exported:
    """The program `(weights, frames, past) -> (logits, past)` whose StableHLO is `module`."""
    (count,) = jax.export.symbolic_shape("n")

    def same_signature(weights, frames, past):
        del weights
        return _any_numbers(frames, manifest), past

    frames = jax.ShapeDtypeStruct((count, *_shape(manifest)[1:]), jnp.uint8)
    weights, past = (_described(manifest[name]) for name in ("weights", "past"))
    return _exported(same_signature, (weights, frames, past), module, manifest)


def _any_numbers(pixels: jax.Array, manifest: dict) -> jax.Array:
    """A row for every clip or frame."""
    brightness = jnp.mean(pixels.astype(jnp.float32), axis=tuple(range(1, pixels.ndim)))
    return brightness[:, None] * jnp.ones((1, len(manifest["class_names"])))


def _exported(
    same_signature: Callable, arguments: tuple, module: bytes, manifest: dict
) -> jax.export.Exported:
    """A program that lies in a file.

    jax.export's own container needs the package flatbuffers, which jax does not bring. So a program
    of the same signature is exported here and the StableHLO put in place of its own.
    """
    jitted = jax.jit(same_signature, keep_unused=True)
    return dataclasses.replace(
        jax.export.export(jitted, platforms=manifest["platforms"])(*arguments),
        mlir_module_serialized=module,
        calling_convention_version=manifest["calling_convention"],
    )


def _described(layout: list) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(shape, dtype) for dtype, shape in layout]


def _shape(manifest: dict) -> tuple[int, int, int, int]:
    """(t, h, w, c) of a clip."""
    channels = 3 if manifest["modality"] == "rgb" else 1
    return manifest["num_segments"], manifest["height"], manifest["width"], channels

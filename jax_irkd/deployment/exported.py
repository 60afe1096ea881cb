"""An exported network, loaded and run with jax and NumPy alone.

This file needs nothing else of jax_irkd and may be copied into another project. An exported file
is a zip archive of `program.stablehlo` (weights and uint8 frames in, probabilities out),
`weights.bin` (their numbers one after the other), `manifest.json` (class names, sampling rules,
types and shapes of the weights, origin), `MODEL_CARD.md` and a copy of this file. With the weights
inside the program the first prediction would come half a second later.
"""

import dataclasses
import json
import math
import zipfile
from collections.abc import Sequence
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
PROGRAM, WEIGHTS = "program.stablehlo", "weights.bin"
MANIFEST, CARD = "manifest.json", "MODEL_CARD.md"
READER = "exported.py"
LARGEST = 20  # times its own size that an archive may unpack to; ours are not compressed
TYPES = ("float32", "float16", "bfloat16", "int8", "uint8", "int32", "uint32", "bool")


class ExportedError(ValueError):
    """A file that is no exported network, or not one that this version can run."""


class Exported:
    """Class probabilities of clips.

    `class_names`, `modality` (rgb or infrared), `num_segments` and `size` (height, width) say what
    the clips should be, `range` how pixels of more than eight bits become uint8; `manifest` holds
    everything else that was exported.
    """

    def __init__(self, path: str | Path):
        self.manifest, serialized, weights = read_archive(Path(path))
        self.class_names = tuple(self.manifest["class_names"])
        self.modality = self.manifest["modality"]
        self.range = self.manifest.get("range", "auto")
        self.num_segments = self.manifest["num_segments"]
        self.size = (self.manifest["height"], self.manifest["width"])
        self._program = _compilable(path, serialized, self.manifest)
        self._weights = jax.device_put(weights)

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Probabilities `b k`, float32, of uint8 clips `b t h w c`. Any b; each compiles once."""
        wanted = _shape(self.manifest)
        if clips.dtype != np.uint8 or clips.shape[1:] != wanted:
            shape = ", ".join(map(str, wanted))
            raise ValueError(f"clips are {clips.dtype} {clips.shape}; give uint8 (b, {shape})")
        return np.asarray(self._program(self._weights, clips))


def read_archive(path: Path) -> tuple[dict, bytes, list[np.ndarray]]:
    """Manifest, program and weights. Raises ExportedError for what is not whole or not ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {name: archive.getinfo(name).file_size for name in (MANIFEST, PROGRAM, WEIGHTS)}
            if sum(sizes.values()) > LARGEST * path.stat().st_size:
                raise ValueError(f"it would unpack to {sum(sizes.values()):,} bytes")
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
            weights = unpack(archive.read(WEIGHTS), manifest["weights"])
            return manifest, archive.read(PROGRAM), weights
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


def _compilable(path, module: bytes, manifest: dict):
    """The program, translated for one clip: what cannot be read is known at once."""
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in manifest["platforms"]:
        raise ExportedError(
            f"{path} runs on {', '.join(manifest['platforms'])}, this machine is {platform}; "
            "set JAX_PLATFORMS=cpu"
        )
    try:
        program = jax.jit(program_of(manifest, module).call)
        program.lower(_described(manifest), _clips(manifest, 1))
    except Exception as error:  # The reader of the format raises whatever it stumbles over.
        written = manifest.get("versions", {}).get("jax", "unknown")
        raise ExportedError(
            f"{path} was exported by jax {written} and jax {jax.__version__} cannot read it "
            f"({type(error).__name__}); install jax {written} or export the run again"
        ) from error
    return program


def program_of(manifest: dict, module: bytes) -> jax.export.Exported:
    """The program `(weights, clips) -> probabilities` whose StableHLO is `module`.

    jax.export's own container needs the package flatbuffers, which jax does not bring. So a program
    of the same signature is exported here and the StableHLO put in place of its own.
    """
    (batch,) = jax.export.symbolic_shape("b")
    classes = len(manifest["class_names"])

    def same_signature(weights, clips):
        del weights
        brightness = jnp.mean(clips.astype(jnp.float32), axis=(1, 2, 3, 4))
        return brightness[:, None] * jnp.ones((1, classes))

    jitted = jax.jit(same_signature, keep_unused=True)
    export = jax.export.export(jitted, platforms=manifest["platforms"])
    return dataclasses.replace(
        export(_described(manifest), _clips(manifest, batch)),
        mlir_module_serialized=module,
        calling_convention_version=manifest["calling_convention"],
    )


def _described(manifest: dict) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(shape, dtype) for dtype, shape in manifest["weights"]]


def _clips(manifest: dict, batch: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, *_shape(manifest)), jnp.uint8)


def _shape(manifest: dict) -> tuple[int, int, int, int]:
    """(t, h, w, c) of a clip."""
    channels = 3 if manifest["modality"] == "rgb" else 1
    return manifest["num_segments"], manifest["height"], manifest["width"], channels

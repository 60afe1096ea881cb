"""An exported network, loaded and run with jax and NumPy alone.

This file needs nothing else of jax_irkd and may be copied into another project. An exported file
is a zip archive of `program.stablehlo` (uint8 frames in, probabilities out), `manifest.json` (class
names, sampling rules, origin) and `MODEL_CARD.md`.
"""

import json
import zipfile
from pathlib import Path

import jax
import jax.export
import numpy as np

FORMAT = 1  # of the archive; raised when an older reader would misunderstand a newer file
NEEDED = ("class_names", "modality", "num_segments", "height", "width")
PROGRAM, MANIFEST, CARD = "program.stablehlo", "manifest.json", "MODEL_CARD.md"


class ExportedError(ValueError):
    """A file that is no exported network, or not one that this version can run."""


class Exported:
    """Class probabilities of clips.

    `class_names`, `modality` (rgb or infrared), `num_segments` and `size` (height, width) say what
    the clips should be; `manifest` holds everything else that was exported.
    """

    def __init__(self, path: str | Path):
        self.manifest, serialized = _read(Path(path))
        self.class_names = tuple(self.manifest["class_names"])
        self.modality = self.manifest["modality"]
        self.num_segments = self.manifest["num_segments"]
        self.size = (self.manifest["height"], self.manifest["width"])
        self._program = jax.jit(_deserialize(path, serialized, self.manifest).call)

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Probabilities `b k`, float32, of uint8 clips `b t h w c`. Any b; each compiles once."""
        wanted = (self.num_segments, *self.size, 3 if self.modality == "rgb" else 1)
        if clips.dtype != np.uint8 or clips.shape[1:] != wanted:
            shape = ", ".join(map(str, wanted))
            raise ValueError(f"clips are {clips.dtype} {clips.shape}; give uint8 (b, {shape})")
        return np.asarray(self._program(clips))


def _read(path: Path) -> tuple[dict, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(MANIFEST))
            if manifest.get("format") != FORMAT:
                raise ExportedError(
                    f"{path} has format {manifest.get('format')}, this version of jax_irkd reads "
                    f"format {FORMAT}; export the run again, or use the version of jax_irkd that "
                    f"wrote it ({manifest.get('versions', {}).get('jax-irkd', 'unknown')})"
                )
            missing = [name for name in NEEDED if name not in manifest]
            if missing:
                raise KeyError(f"its manifest has no {missing[0]}")
            return manifest, archive.read(PROGRAM)
    except OSError as error:
        raise ExportedError(f"{path}: {error.strerror or error}; check the path") from error
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError) as error:
        if isinstance(error, ExportedError):
            raise
        raise ExportedError(
            f"{path} is not a complete exported network ({error}); make one with "
            "python -m jax_irkd.export --run=RUN --out=student.irkd"
        ) from error


def _deserialize(path, serialized: bytes, manifest: dict) -> jax.export.Exported:
    written = manifest.get("versions", {}).get("jax", "unknown")
    try:
        program = jax.export.deserialize(bytearray(serialized))
    except Exception as error:  # The reader of the format raises whatever it stumbles over.
        raise ExportedError(
            f"{path} was exported by jax {written} and jax {jax.__version__} cannot read it "
            f"({type(error).__name__}); install jax {written} or export the run again"
        ) from error
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in program.platforms:
        raise ExportedError(
            f"{path} runs on {', '.join(program.platforms)}, this machine is {platform}; "
            "set JAX_PLATFORMS=cpu"
        )
    return program

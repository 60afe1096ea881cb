"""Weights files to named arrays and back, with one clear line for every way a file can be bad."""

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jax_irkd.errors import UserError, one_line
from jax_irkd.weights import pickled

SAFETENSORS = (".safetensors",)
TORCH = (".pth", ".pt", ".bin", ".tar")
# Under which names checkpoints keep their weights beside other things.
WRAPPERS = ("state_dict", "model_state_dict", "model")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.safetensors` file or of PyTorch's own (`.pth`); it needs no PyTorch.

    Nothing in the file is executed. Raises UserError naming the file and what to do.
    """
    path = Path(path)
    check(path)
    arrays = _read_safetensors(path) if path.suffix in SAFETENSORS else _read_torch(path)
    if not arrays:
        raise UserError(f"weights file {path} holds no arrays")
    return arrays


def check(path: Path) -> None:
    """Raises UserError for a path that is no readable file of a known kind."""
    if not path.exists():
        raise UserError(f"weights file {path} does not exist; give the path of a local file")
    if not path.is_file():
        raise UserError(f"weights file {path} is not a file")
    if path.suffix not in (*SAFETENSORS, *TORCH):
        choices = ", ".join((*SAFETENSORS, *TORCH))
        raise UserError(f"weights file {path} has an unknown suffix; it must be one of {choices}")
    if not os.access(path, os.R_OK):
        raise UserError(f"weights file {path} cannot be read: permission denied")


def write(
    path: str | Path, arrays: dict[str, np.ndarray], about: dict[str, str] | None = None
) -> None:
    """Writes a `.safetensors` file that torch reads too; never leaves half a file behind.

    `about` goes into its header.
    """
    path = Path(path)
    if path.suffix not in SAFETENSORS:
        raise UserError(f"cannot write weights to {path}; the name must end in .safetensors")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(arrays, partial, metadata={"format": "pt"} | (about or {}))
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write weights to {path}: {_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    # The reader answers damage with its own error, and unknown number types with these.
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"weights file {path} is damaged or not a safetensors file ({_line(error)}); "
            "fetch it again"
        ) from error


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        content = pickled.read(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything on its way through pickle
        raise UserError(
            f"weights file {path} is damaged, or holds more than tensors ({_line(error)}); "
            "save the bare state_dict() and try again"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise UserError(
            f"weights file {path} holds a {type(content).__name__}, not a state dict; save the "
            "bare state_dict() and try again"
        )
    for name, value in content.items():
        if not isinstance(value, np.ndarray):
            kind = type(value).__name__
            raise UserError(f"weights file {path}: '{name}' is no plain tensor but a {kind}")
    return {str(name): value for name, value in content.items()}


def _line(error: Exception) -> str:
    """The first sentence of a message, short enough for one line."""
    return one_line(error).split(". ")[0][:160]

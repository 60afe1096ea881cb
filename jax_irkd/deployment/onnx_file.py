"""A program as an ONNX file (extra `onnx`), checked with onnxruntime before it gets its name."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jax_irkd.errors import UserError

# TensorRT 10 and onnxruntime 1.20 read this one.
OPSET = 21
SEAL, BLANK = "sha256", "0" * 64


def write_onnx(path: Path, program: Any, manifest: dict, check: Callable[[Path], float]) -> None:
    """Write `path`; `check` gets a temporary file and raises UserError for a wrong one.

    The manifest is the metadata entry `jax_irkd`. Input `clips`: uint8, free batch size; output
    `probabilities`. Raises UserError when the extra is missing.
    """
    try:
        import jax
        import jax2onnx
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--format=onnx needs {error.name}: pip install jax2onnx onnx onnxruntime"
        ) from error
    clips = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b"), *program.spec.shape), jnp.uint8)
    made = jax2onnx.to_onnx(
        functools.partial(program.function, program.weights),
        [clips],
        model_name="jax_irkd",
        opset=OPSET,
        input_names=["clips"],
        output_names=["probabilities"],
    )
    temporary = path.with_name(f".{path.name}.partial.onnx")
    manifest["sealed"] = True
    try:
        _store(onnx, made, manifest, temporary)
        manifest["distance"] = check(temporary)
        _store(onnx, made, manifest, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _store(onnx, made, manifest: dict, path: Path) -> None:
    from jax_irkd.deployment.model_card import model_card

    del made.metadata_props[:]
    held = {"jax_irkd": json.dumps(manifest), "model_card": model_card(manifest, "onnx")}
    held[SEAL] = BLANK
    for key, value in held.items():
        made.metadata_props.add(key=key, value=value)
    onnx.save(made, str(path))
    path.write_bytes(seal(path.read_bytes()))


# How protobuf writes the metadata entry `SEAL`: key, then 64 digits.
ENTRY = b"\x0a\x06" + SEAL.encode() + b"\x12\x40"


def seal(content: bytes) -> bytes:
    """`content` with the SHA-256 of itself, the digits being 0, in the entry `SEAL`."""
    start = content.rindex(ENTRY + BLANK.encode()) + len(ENTRY)
    digits = hashlib.sha256(content).hexdigest().encode()
    return content[:start] + digits + content[start + len(digits) :]


def sealed(content: bytes) -> bool | None:
    """Whether `content` is what was sealed; None where nobody sealed it."""
    start = content.rfind(ENTRY) + len(ENTRY)
    if start < len(ENTRY):
        return None
    digits = content[start : start + len(BLANK)]
    blank = content[:start] + BLANK.encode() + content[start + len(BLANK) :]
    return hashlib.sha256(blank).hexdigest().encode() == digits

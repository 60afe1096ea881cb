"""ONNX files (extra `onnx`): written whole or not at all, and sealed, so that damage is noticed."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jax_irkd.errors import UserError

SEAL, BLANK = "sha256", "0" * 64
INSTALL = "pip install onnx onnxruntime"


def is_onnx(path: str | Path) -> bool:
    """Whether a name is that of an ONNX file, in capitals too."""
    return Path(path).suffix.lower() == ".onnx"


def need_onnx(purpose: str) -> None:
    """Raises UserError, saying what to install, where `onnx` or an engine to check with is not."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise UserError(f"{purpose} needs {error.name}: {INSTALL}") from error


def write_onnx(path: Path, model: Any, manifest: dict, check: Callable[[Path], float]) -> None:
    """Write `path`; `check` gets a temporary file and raises UserError for a wrong one.

    The manifest is the metadata entry `jax_irkd`, and gets what `check` returned as `distance`.
    """
    temporary = path.with_name(f".{path.name}.partial.onnx")
    manifest["sealed"] = True
    try:
        _store(model, manifest, temporary)
        manifest["distance"] = check(temporary)
        _store(model, manifest, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _store(model: Any, manifest: dict, path: Path) -> None:
    from jax_irkd.deployment.model_card import model_card

    del model.metadata_props[:]
    held = {"jax_irkd": json.dumps(manifest), "model_card": model_card(manifest, "onnx")}
    held[SEAL] = BLANK
    for key, value in held.items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(seal(model.SerializeToString()))


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


def metadata(content: bytes) -> dict[str, str]:
    """The metadata entries of an ONNX file, read without onnx or an engine.

    A file is a protobuf message; of its fields number 14 are the entries, messages of a key (1)
    and a value (2). Raises ValueError for what is no such message.
    """
    entries = (dict(_fields(value)) for field, value in _fields(content) if field == 14)
    return {entry[1].decode(): entry[2].decode() for entry in entries if entry.keys() >= {1, 2}}


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of a protobuf message's fields; those that are numbers are left out."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            _, place = _varint(message, place)
            continue
        if kind == 2:
            length, place = _varint(message, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("it is no protobuf message")
        if place + length > len(message):
            raise ValueError("it ends too early")
        if kind == 2:
            yield tag >> 3, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return value, place
    raise ValueError("it ends too early")

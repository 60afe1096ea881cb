"""Files as `torch.save` writes them, where there is no PyTorch: in both of its layouts."""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

_NAMES = {"float32": "FloatStorage", "int64": "LongStorage", "float16": "HalfStorage"}


class Strided:
    """A tensor that sees its storage as `shape` and `strides` say, from `offset` on."""

    def __init__(self, numbers: np.ndarray, offset=0, shape=None, strides=None):
        self.numbers, self.offset = numbers, offset
        self.shape = numbers.shape if shape is None else shape
        bytes_ = numbers.strides if strides is None else ()
        self.strides = strides or tuple(step // numbers.itemsize for step in bytes_)


def save(content: object, path: str | Path, archive: bool = True) -> None:
    """`content` with its arrays as tensors, as the zip archive or as the stream of before."""
    stored: dict[str, np.ndarray] = {}
    with _modules() as names:
        body = _pickled(content, stored, names, archive)
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("network/data.pkl", body)
            file.writestr("network/byteorder", "little")
            for key, numbers in stored.items():
                file.writestr(f"network/data/{key}", numbers.tobytes())
            file.writestr("network/version", "3\n")
        return
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    parts = [pickle.dumps(value, protocol=2) for value in head]
    parts += [body, pickle.dumps(sorted(stored), protocol=2)]
    for key in sorted(stored):
        parts += [struct.pack("<q", stored[key].size), stored[key].tobytes()]
    Path(path).write_bytes(b"".join(parts))


def _pickled(content, stored: dict, names: dict, archive: bool) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, np.ndarray):
                return None
            key = str(len(stored))
            stored[key] = np.ascontiguousarray(value)
            kind = names[_NAMES[value.dtype.name]]
            return ("storage", kind, key, "cpu", value.size, *([] if archive else [None]))

        def reducer_override(self, value):
            if not isinstance(value, Strided):
                return NotImplemented
            view = (value.numbers, value.offset, value.shape, value.strides)
            return names["_rebuild_tensor_v2"], (*view, False, OrderedDict())

    def tensors(value):
        if isinstance(value, dict):
            return type(value)((key, tensors(part)) for key, part in value.items())
        return Strided(value) if isinstance(value, np.ndarray) else value

    out = io.BytesIO()
    Pickler(out, protocol=2).dump(tensors(content))
    return out.getvalue()


class _modules:
    """Something to be found under PyTorch's names while a file is written."""

    def __enter__(self) -> dict:
        names, self.before = {}, {}
        homes = {"torch": list(_NAMES.values()), "torch._utils": ["_rebuild_tensor_v2"]}
        for home, members in homes.items():
            module = types.ModuleType(home)
            for name in members:
                names[name] = type(name, (), {"__module__": home})
                setattr(module, name, names[name])
            self.before[home] = sys.modules.get(home)
            sys.modules[home] = module
        return names

    def __exit__(self, *error) -> None:
        for home, module in self.before.items():
            if module is None:
                del sys.modules[home]
            else:
                sys.modules[home] = module

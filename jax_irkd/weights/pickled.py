"""PyTorch's own files to named arrays, without PyTorch.

    arrays = read("resnet18-f37072fd.pth")

Both layouts are read: the zip archive of `torch.save` (since 1.6) and the stream of before. A file
is a pickle, which could call any function: here nothing is called but what puts tensors together.
Whatever else a checkpoint holds beside its weights (optimisers, a library's own objects) becomes an
empty shell of the same name.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the layout before the archive
_TYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Storage(NamedTuple):
    """The numbers of one or several tensors, still in the file."""

    key: str
    dtype: np.dtype
    count: int


class Tensor(NamedTuple):
    """A view of a storage, as PyTorch describes it: all in elements, none in bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Shell:
    """In place of an object that is no tensor: it takes what it is given, and keeps nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass

    def add(self, value):
        pass


def read(path: Path) -> Any:
    """What the file holds, its tensors as arrays.

    Raises ValueError, zipfile's and pickle's errors, and whatever a damaged pickle can raise.
    """
    if zipfile.is_zipfile(path):
        return _read_archive(path)
    with path.open("rb") as file:
        return _read_stream(file)


def _read_archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        inside = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        if len(inside) != 1:
            raise ValueError("no archive of PyTorch's")
        folder = inside[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            order = archive.read(f"{folder}byteorder")
            if order != b"little":
                raise ValueError(f"its byte order is {order[:10]!r}")
        size = path.stat().st_size

        def numbers(storage: Storage) -> bytes:
            entry = archive.getinfo(f"{folder}data/{storage.key}")
            if entry.file_size > size:  # its numbers are stored as they are
                raise ValueError("an entry is larger than the file")
            return archive.read(entry)

        with archive.open(inside[0]) as file:
            found = _Unpickler(file).load()
        return _filled(found, numbers)


def _read_stream(file: BinaryIO) -> Any:
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != _PROTOCOL:
        raise ValueError("no file of PyTorch's")
    system = _Unpickler(file).load()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ValueError("its byte order is big-endian")
    reader = _Unpickler(file)
    found = reader.load()
    held: dict[str, bytes] = {}
    for key in _Unpickler(file).load():
        storage = reader.storages[str(key)]
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count != storage.count:
            raise ValueError(f"storage {key} has {count} numbers instead of {storage.count}")
        held[storage.key] = file.read(count * storage.dtype.itemsize)
    return _filled(found, lambda storage: held[storage.key])


class _Unpickler(pickle.Unpickler):
    """Knows the few names that tensors need."""

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _TYPES:
            return np.dtype(_TYPES[name])
        if module == "torch._utils" and name in _BUILDERS:
            return _BUILDERS[name]
        return type(name, (Shell,), {})

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view not in ([], [None]):
            raise ValueError(f"a storage of {getattr(dtype, '__name__', dtype)} is not read")
        storage = Storage(str(key), dtype, int(count))
        self.storages[storage.key] = storage
        return storage


def _tensor(storage: Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> Tensor:
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(data: Any, *_: Any) -> Any:
    return data


_BUILDERS: dict[str, Callable] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_parameter": _parameter,
}


def _filled(found: Any, numbers: Callable[[Storage], bytes]) -> Any:
    """`found` with arrays for its tensors, down through dicts."""
    if isinstance(found, Tensor):
        return _array(found, numbers(found.storage))
    if isinstance(found, dict):
        return {key: _filled(value, numbers) for key, value in found.items()}
    return found


def _array(tensor: Tensor, content: bytes) -> np.ndarray:
    """The numbers that a tensor sees. Raises ValueError for one that sees past its storage."""
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    if len(content) != storage.count * storage.dtype.itemsize or len(shape) != len(strides):
        raise ValueError(f"storage {storage.key} is cut off")
    numbers = np.frombuffer(content, storage.dtype)
    if min((*shape, *strides, tensor.offset, 0)) < 0:
        raise ValueError("a tensor of negative size")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides))
    # A step of 0 would make a small file a large array.
    if last >= len(numbers) or np.prod(shape, dtype=object) > len(numbers):
        raise ValueError(f"a tensor of {list(shape)} in a storage of {len(numbers)}")
    steps = [step * storage.dtype.itemsize for step in strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], shape, steps, writeable=False)
    return np.ascontiguousarray(view).reshape(shape)

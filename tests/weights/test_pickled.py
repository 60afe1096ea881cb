"""PyTorch's files without PyTorch; real ones of both layouts were read while this was written."""

import os
import pickle
from collections import Counter, OrderedDict

import numpy as np
import pytest
from safetensors.numpy import load_file

from jax_irkd.errors import UserError
from jax_irkd.weights import files, pickled
from tests.helpers import FIXTURES, torch_files
from tests.test_fuzz import mutate

STATE = load_file(FIXTURES / "resnet18.safetensors")


@pytest.mark.parametrize("archive", [True, False])
def test_both_layouts_give_the_arrays_that_were_saved(tmp_path, archive):
    path = tmp_path / "network.pth"
    content = {"epoch": 3, "state_dict": OrderedDict(STATE), "meta": {"seen": Counter("ab")}}
    torch_files.save(content, path, archive)
    found = files.read(path)
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype and found[name].shape == value.shape


def test_a_view_sees_its_part_of_a_storage(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    view = torch_files.Strided(numbers, 1, (2, 3), (1, 4))  # transposed, as PyTorch saves it
    torch_files.save({"view": view}, tmp_path / "view.pth")
    np.testing.assert_array_equal(
        files.read(tmp_path / "view.pth")["view"], [[1, 5, 9], [2, 6, 10]]
    )


@pytest.mark.parametrize(
    "view",
    [(0, (5,), (1,)), (2, (3,), (1,)), (0, (2**40,), (0,)), (0, (-1,), (1,)), (-1, (1,), (1,))],
)
def test_a_view_past_its_storage_is_refused(tmp_path, view):
    numbers = np.arange(4, dtype=np.float32)
    torch_files.save({"bad": torch_files.Strided(numbers, *view)}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=r"bad\.pth is damaged"):
        files.read(tmp_path / "bad.pth")


class Hostile:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_what_is_no_tensor_is_a_shell_and_nothing_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for archive in (True, False):
        torch_files.save({"state_dict": STATE, "hostile": Hostile()}, "all.pth", archive)
        assert files.read("all.pth").keys() == STATE.keys()
        torch_files.save({"conv1.weight": Hostile()}, "bad.pth", archive)
        with pytest.raises(UserError, match=r"'conv1\.weight' is no plain tensor but a system"):
            files.read("bad.pth")
        torch_files.save(Hostile(), "module.pth", archive)
        with pytest.raises(UserError, match="holds a system, not a state dict; save the bare"):
            files.read("module.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("archive", [True, False])
def test_damaged_files_are_read_or_refused(tmp_path, archive):
    small = {name: STATE[name] for name in ("bn1.weight", "bn1.bias", "bn1.running_mean")}
    torch_files.save(small, tmp_path / "good.pth", archive)
    good, rng, refused = (tmp_path / "good.pth").read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        (tmp_path / "damaged.pth").write_bytes(mutate(good, rng))
        try:
            found = files.read(tmp_path / "damaged.pth")
        except UserError as error:
            refused += 1
            assert "damaged.pth" in str(error) and "\n" not in str(error)
        else:
            assert all(isinstance(array, np.ndarray) for array in found.values())
    assert refused > 50


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1]), b"PK\x05\x06" + bytes(18)])
def test_what_is_no_file_of_pytorch_is_refused(tmp_path, content):
    (tmp_path / "text.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"text\.pth is damaged, or holds more than tensors"):
        files.read(tmp_path / "text.pth")


def test_an_archive_of_another_byte_order_is_refused(tmp_path):
    import zipfile

    torch_files.save({"a": np.ones(2, np.float32)}, tmp_path / "little.pth")
    with (
        zipfile.ZipFile(tmp_path / "little.pth") as old,
        zipfile.ZipFile(tmp_path / "big.pth", "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, b"big" if name.endswith("byteorder") else old.read(name))
    with pytest.raises(ValueError, match="byte order"):
        pickled.read(tmp_path / "big.pth")

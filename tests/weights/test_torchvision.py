import functools
import json
import struct
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jax_irkd.data.pixels import INFRARED_MEAN, INFRARED_STD, RGB_MEAN, RGB_STD
from jax_irkd.errors import UserError
from jax_irkd.models.tsn import TSN
from jax_irkd.weights import torchvision
from tests.helpers import FIXTURES, networks

STAGES = ["stem", "stage1", "stage2", "stage3", "stage4"]


def _network(depth: int = 18, **fields) -> TSN:
    return TSN(**{"num_classes": 10, "depth": depth, "width": 8, **fields})


@functools.cache
def _variables(depth: int = 18, channels: int = 3, **fields) -> dict:
    return networks.draw(_network(depth, **fields), 1, 1, 64, 64, channels, seed=5)


@functools.cache
def _state(depth: int = 18) -> dict[str, np.ndarray]:
    return load_file(FIXTURES / f"resnet{depth}.safetensors")


def _saved(path: Path, **changes: np.ndarray | None) -> Path:
    """The ResNet-18 fixture with some keys replaced, added or, where None, dropped."""
    state = {name: value for name, value in ({**_state(), **changes}).items() if value is not None}
    save_file(state, path)
    return path


def _apply(network: TSN, variables: dict, frames: np.ndarray):
    apply = networks.jit(functools.partial(network.apply, train=False))
    return apply(variables, jnp.asarray(frames)[:, None])  # every frame is a clip


def _refusal(path: Path, variables: dict | None = None) -> str:
    with pytest.raises(UserError) as caught:
        torchvision.load_pretrained(path, _variables() if variables is None else variables)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_logits_and_features_are_those_of_pytorch(depth):
    expected = load_file(FIXTURES / f"resnet{depth}_outputs.safetensors")
    variables = torchvision.load_pretrained(
        FIXTURES / f"resnet{depth}.safetensors", _variables(depth)
    )
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}
    outputs = _apply(_network(depth), variables, expected["frames"])
    np.testing.assert_allclose(outputs.logits, expected["logits"], atol=1e-4)
    for name in STAGES:
        np.testing.assert_allclose(outputs.features[name][:, 0], expected[name], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_one_channel_gives_what_three_give_on_the_replicated_channel(depth):
    expected = load_file(FIXTURES / f"resnet{depth}_outputs.safetensors")
    variables = torchvision.load_pretrained(
        FIXTURES / f"resnet{depth}.safetensors", _variables(depth, 1, input_offset=True)
    )
    infrared = (expected["grey"] - INFRARED_MEAN[0]) / INFRARED_STD[0]
    outputs = _apply(_network(depth, input_offset=True), variables, infrared)
    np.testing.assert_allclose(outputs.logits, expected["grey_logits"], atol=1e-4)


def test_one_channel_with_another_normalisation():
    expected = load_file(FIXTURES / "resnet18_outputs.safetensors")
    variables = torchvision.load_pretrained(
        FIXTURES / "resnet18.safetensors",
        _variables(18, 1, input_offset=True),
        infrared_mean=0.1,
        infrared_std=0.5,
    )
    outputs = _apply(_network(input_offset=True), variables, (expected["grey"] - 0.1) / 0.5)
    np.testing.assert_allclose(outputs.logits, expected["grey_logits"], atol=1e-4)


def test_one_channel_without_input_offset_is_refused():
    message = _refusal(FIXTURES / "resnet18.safetensors", _variables(18, 1))
    assert "input_offset=True" in message


def test_round_trip_through_a_file(tmp_path):
    variables = _variables(18, 1, input_offset=True)
    torchvision.save(tmp_path / "student.safetensors", variables)
    blank = jax.tree.map(jnp.zeros_like, variables)
    restored = torchvision.load_pretrained(tmp_path / "student.safetensors", blank)
    jax.tree.map(np.testing.assert_array_equal, restored, variables)
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]


def test_exported_names_and_layout_are_torchvisions():
    original = _state(50)
    exported = torchvision.to_torchvision(
        torchvision.load_pretrained(FIXTURES / "resnet50.safetensors", _variables(50))
    )
    assert set(exported) == {name for name in original if "num_batches" not in name}
    for name, value in exported.items():
        np.testing.assert_array_equal(value, original[name].astype(np.float32), err_msg=name)


def test_weights_for_three_channels_leave_an_input_offset_at_zero():
    variables = torchvision.load_pretrained(
        FIXTURES / "resnet18.safetensors", _variables(18, 3, input_offset=True)
    )
    assert not variables["params"]["backbone"]["stem"]["offset"]["kernel"].any()


def test_head_for_another_number_of_classes_keeps_its_values():
    variables = _variables(num_classes=7)
    loaded = torchvision.load_pretrained(FIXTURES / "resnet18.safetensors", variables)
    jax.tree.map(
        np.testing.assert_array_equal, loaded["params"]["head"], variables["params"]["head"]
    )
    kernel = loaded["params"]["backbone"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, _state()["conv1.weight"].transpose(2, 3, 1, 0))


def test_file_without_classifier_keeps_the_head(tmp_path):
    path = _saved(tmp_path / "bare.safetensors", **{"fc.weight": None, "fc.bias": None})
    loaded = torchvision.load_pretrained(path, _variables())
    jax.tree.map(
        np.testing.assert_array_equal, loaded["params"]["head"], _variables()["params"]["head"]
    )


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.base_model."])
def test_prefixes_are_dropped(tmp_path, prefix):
    path = tmp_path / "prefixed.safetensors"
    save_file({prefix + name: value for name, value in _state().items()}, path)
    loaded = torchvision.load_pretrained(path, _variables())
    expected = torchvision.load_pretrained(FIXTURES / "resnet18.safetensors", _variables())
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16])
def test_other_float_types_are_read(tmp_path, dtype):
    value = np.linspace(-1, 1, 8).astype(dtype)
    path = _saved(tmp_path / "typed.safetensors", **{"bn1.bias": value})
    loaded = torchvision.load_pretrained(path, _variables())
    bias = loaded["params"]["backbone"]["stem"]["norm"]["bias"]
    np.testing.assert_array_equal(bias, value.astype(np.float32))


def test_integers_are_refused(tmp_path):
    path = _saved(tmp_path / "int.safetensors", **{"bn1.bias": np.zeros(8, np.int8)})
    assert "'bn1.bias' is int8; it must be one of ['float16', 'bfloat16'" in _refusal(path)


def test_missing_unknown_and_misshapen_keys_are_listed(tmp_path):
    changes = {"bn1.bias": None, "odd.weight": np.zeros(3, np.float32)}
    changes["layer1.0.conv1.weight"] = np.zeros((8, 8, 1, 1), np.float32)
    message = _refusal(_saved(tmp_path / "wrong.safetensors", **changes))
    assert "1 missing (bn1.bias)" in message
    assert "1 unknown (odd.weight)" in message
    shapes = "layer1.0.conv1.weight (8, 8, 1, 1) instead of (8, 8, 3, 3)"
    assert f"1 of another shape ({shapes})" in message


def test_half_a_classifier_is_refused(tmp_path):
    message = _refusal(_saved(tmp_path / "half.safetensors", **{"fc.bias": None}))
    assert "1 missing (fc.bias)" in message


def test_another_depth_is_named():
    message = _refusal(FIXTURES / "resnet50.safetensors")
    assert "holds a ResNet-50 of width 8 for 3 channel(s)" in message
    assert "does not fit a ResNet-18 of width 8 for 3 channel(s)" in message


def test_another_network_is_named(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"encoder.weight": np.zeros((2, 2), np.float32)}, path)
    assert "is no ResNet of torchvision's" in _refusal(path)


def test_keys_that_collide_without_their_prefix_are_refused(tmp_path):
    path = _saved(tmp_path / "two.safetensors", **{"module.bn1.bias": np.zeros(8, np.float32)})
    assert "holds 'bn1.bias' twice" in _refusal(path)


@pytest.mark.parametrize("name, value", [("bn1.bias", np.nan), ("bn1.running_var", -1.0)])
def test_impossible_numbers_are_refused(tmp_path, name, value):
    path = _saved(tmp_path / "nan.safetensors", **{name: np.full(8, value, np.float32)})
    assert f"'{name}' holds infinite, undefined or impossible numbers" in _refusal(path)


def _truncated(good: bytes) -> bytes:
    return good[: len(good) // 2]


def _flipped_header(good: bytes) -> bytes:
    return good[:8] + b"x" + good[9:]


def _huge_header(good: bytes) -> bytes:
    return struct.pack("<Q", 2**62) + good[8:]


def _lying_offsets(good: bytes) -> bytes:
    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}
    header = json.dumps({"conv1.weight": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


@pytest.mark.parametrize(
    "damage",
    [
        _truncated,
        _flipped_header,
        _huge_header,
        _lying_offsets,
        lambda good: b"",
        lambda good: b"<!DOCTYPE html><html>not found</html>",
        lambda good: good + b"more",
        lambda good: good[:4],
    ],
)
def test_damaged_safetensors_are_refused(tmp_path, damage):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(damage((FIXTURES / "resnet18.safetensors").read_bytes()))
    assert "is damaged or not a safetensors file" in _refusal(path)


def test_empty_safetensors_are_refused(tmp_path):
    save_file({}, tmp_path / "none.safetensors")
    assert "holds no arrays" in _refusal(tmp_path / "none.safetensors")


def test_paths_that_are_no_weights_files_are_refused(tmp_path):
    assert "does not exist" in _refusal(tmp_path / "absent.safetensors")
    assert "is not a file" in _refusal(tmp_path)
    (tmp_path / "weights.npz").touch()
    assert "one of .safetensors, .pth" in _refusal(tmp_path / "weights.npz")


def test_saving_needs_the_right_suffix_and_an_existing_folder(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        torchvision.save(tmp_path / "student.pth", _variables())
    with pytest.raises(UserError, match="cannot write weights to"):
        torchvision.save(tmp_path / "absent" / "student.safetensors", _variables())
    assert not list(tmp_path.iterdir())


# With torch installed: the .pth reader, and the networks at full size.


def _torch_network(depth: int, **fields):
    pytest.importorskip("torch")
    sys.path.insert(0, str(FIXTURES))
    try:
        import make_resnet_fixtures as fixtures
    finally:
        sys.path.remove(str(FIXTURES))
    return fixtures, fixtures.randomise(fixtures.TorchResNet(depth, **fields), seed=1)


@pytest.mark.slow
def test_pth_files_hold_a_state_dict_and_nothing_else(tmp_path):
    torch = pytest.importorskip("torch")
    _, network = _torch_network(18, width=8, num_classes=10)
    state = network.state_dict()
    for name, content in {
        "bare.pth": state,
        "nested.pth.tar": {"epoch": 3, "state_dict": state},
        "half.pt": {key: value.bfloat16() for key, value in state.items()},
    }.items():
        torch.save(content, tmp_path / name)
        loaded = torchvision.load_pretrained(tmp_path / name, _variables())
        kernel = loaded["params"]["backbone"]["stem"]["conv"]["kernel"]
        expected = state["conv1.weight"].permute(2, 3, 1, 0)
        np.testing.assert_allclose(kernel, expected, rtol=1e-2 if "half" in name else 0)

    torch.save(network, tmp_path / "module.pth")
    assert "holds a TorchResNet, not a state dict" in _refusal(tmp_path / "module.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds a list, not a state dict" in _refusal(tmp_path / "list.pth")
    torch.save({"lr": 0.1}, tmp_path / "number.pth")
    assert "'lr' is no plain tensor but a float" in _refusal(tmp_path / "number.pth")
    good = (tmp_path / "bare.pth").read_bytes()
    for name, content in {"cut.pth": good[: len(good) // 2], "text.pth": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        assert "is damaged, or holds more than tensors" in _refusal(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_full_size_logits_are_those_of_pytorch(tmp_path, depth):
    torch = pytest.importorskip("torch")
    fixtures, network = _torch_network(depth)
    torch.save(network.state_dict(), tmp_path / "network.pth")
    grey = torch.rand(1, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(fixtures.grey_frames(grey))
    for channels, mean, std in ((3, RGB_MEAN, RGB_STD), (1, INFRARED_MEAN, INFRARED_STD)):
        model = TSN(num_classes=1000, depth=depth, input_offset=channels == 1)
        variables = networks.draw(model, 1, 1, 64, 64, channels)
        variables = torchvision.load_pretrained(tmp_path / "network.pth", variables)
        frames = grey.permute(0, 2, 3, 1).numpy().repeat(channels, axis=3)
        outputs = _apply(model, variables, (frames - np.array(mean, "f")) / np.array(std, "f"))
        error = {"logits": np.abs(outputs.logits - expected["logits"].numpy()).max()}
        for name in STAGES:
            wanted = expected[name].permute(0, 2, 3, 1).numpy()
            error[name] = np.abs(outputs.features[name][:, 0] - wanted).max()
        print(f"ResNet-{depth}, {channels} channel(s), 224 pixels: largest differences", error)
        assert max(error.values()) < 1e-4

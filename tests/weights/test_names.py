"""The names of other libraries, constructed as those libraries spell them."""

import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from jax_irkd.errors import UserError
from jax_irkd.models.tsn import TSN
from jax_irkd.weights import names, start, torchvision
from tests.helpers import FIXTURES

STATES = {depth: load_file(FIXTURES / f"resnet{depth}.safetensors") for depth in (18, 50)}


def transformers(name):
    """Of ResNetForImageClassification."""
    kind = {"conv": "convolution", "bn": "normalization", "0": "convolution", "1": "normalization"}
    if found := re.match(r"(conv|bn)1\.(.*)", name):
        return f"resnet.embedder.embedder.{kind[found[1]]}.{found[2]}"
    if name.startswith("fc."):
        return name.replace("fc.", "classifier.1.")
    stage, block, rest = re.match(r"layer(\d)\.(\d+)\.(.*)", name).groups()
    if found := re.match(r"downsample\.(\d)\.(.*)", rest):
        rest = f"shortcut.{kind[found[1]]}.{found[2]}"
    else:
        part, number, leaf = re.match(r"(conv|bn)(\d)\.(.*)", rest).groups()
        rest = f"layer.{int(number) - 1}.{kind[part]}.{leaf}"
    return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.{rest}"


def mmaction2(name):
    """Of a Recognizer2D: every convolution and its norm are a ConvModule."""
    if name.startswith("fc."):
        return name.replace("fc.", "cls_head.fc_cls.")
    name = re.sub(r"\bbn(\d)\.", r"conv\1.bn.", re.sub(r"\bconv(\d)\.", r"conv\1.conv.", name))
    name = name.replace("downsample.0.", "downsample.conv.").replace(
        "downsample.1.", "downsample.bn."
    )
    return f"backbone.{name}"


def mmaction2_tsm(name):
    """With shifts: its blocks' first convolutions are wrapped in a TemporalShift."""
    return re.sub(r"(layer\d\.\d+\.conv1\.conv)\.", r"\1.net.", mmaction2(name))


def mmpretrain(name):
    return name.replace("fc.", "head.fc.") if name.startswith("fc.") else f"backbone.{name}"


def tsm(name):
    name = re.sub(r"(layer\d\.\d+\.conv1)\.", r"\1.net.", name)
    return "module." + (
        name.replace("fc.", "new_fc.") if name.startswith("fc.") else f"base_model.{name}"
    )


def timm(name):
    return name


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize(
    "library",
    [timm, transformers, mmaction2, mmaction2_tsm, mmpretrain, tsm],
    ids=lambda f: f.__name__,
)
def test_every_library_gives_torchvisions_arrays(library, depth):
    theirs = {library(name): value for name, value in STATES[depth].items()}
    assert len(theirs) == len(STATES[depth])
    assert {names.plain(name) for name in theirs} == STATES[depth].keys()
    found, words = torchvision.recognised(theirs, "it")
    assert words == f"a ResNet-{depth} of width 8 for 3 channel(s), 10 classes"
    for name, value in found.items():
        np.testing.assert_array_equal(value, STATES[depth][name].astype(np.float32))
    assert names.is_shifted(theirs) == (library in (mmaction2_tsm, tsm))


def test_a_model_without_its_head_loses_no_prefix_it_does_not_have():
    assert names.plain("embedder.embedder.convolution.weight") == "conv1.weight"  # ResNetModel
    assert names.plain("layer2.1.conv1.weight") == "layer2.1.conv1.weight"
    assert names.plain("other.thing") == "other.thing"


ZERO = np.zeros((8, 8, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conv1.0.weight": ZERO}, "stem has several convolutions"),  # timm's resnet50d
        ({"backbone.stem.0.conv.weight": ZERO}, "stem has several convolutions"),  # mmpretrain's
        ({"conv2.weight": ZERO}, "stem has several convolutions"),  # CLIP's
        ({"layer2.0.downsample.2.weight": ZERO[:, 0, 0, 0]}, "ResNet-D, which pools"),
        ({"layer1.0.se.fc1.weight": ZERO}, "attention in its blocks"),
        ({"layer1.0.conv1.weight": ZERO[..., None]}, "three-dimensional"),
        ({"layer1.0.conv2.weight": ZERO[:, :1], "layer1.0.conv3.weight": ZERO}, "ResNeXt, whose"),
        ({"layer1.0.conv1.weight": np.zeros((16, 8, 3, 3), np.float32)}, "Wide ResNet, whose"),
    ],
)
def test_relatives_are_refused_by_name(changes, words):
    state = STATES[18] | changes
    blank = start.blank(TSN(10, width=8), (1, 1, 32, 32, 3))
    for read in (
        lambda: torchvision.recognised(state, "weights file x"),
        lambda: torchvision.fill(state, blank, "weights file x"),
    ):
        with pytest.raises(UserError, match=f"weights file x holds a .*{words}"):
            read()


def test_a_wide_resnet_is_no_resnet_of_its_stems_width():
    """torchvision's wide_resnet50_2: twice a ResNet-50's width inside its blocks."""
    state = {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            name, width = f"layer{stage + 1}.{block}", 64 * 2**stage
            for conv, outputs in (("conv1", 2), ("conv2", 2), ("conv3", 4)):
                state[f"{name}.{conv}.weight"] = np.zeros((outputs * width, 1, 1, 1), np.float32)
            state[f"{name}.conv2.weight"] = np.zeros((2 * width, 2 * width, 1, 1), np.float32)
    with pytest.raises(UserError, match=r"weights file x holds a Wide ResNet, .*torchvision's"):
        torchvision.recognised(state, "weights file x")

"""What other libraries call the layers of a ResNet, as torchvision calls them.

| library | its name of `layer1.0.bn1.weight` | of `fc.weight` |
| --- | --- | --- |
| torchvision, timm | `layer1.0.bn1.weight` | `fc.weight` |
| mmpretrain | `backbone.layer1.0.bn1.weight` | `head.fc.weight` |
| mmaction2 | `backbone.layer1.0.conv1.bn.weight` | `cls_head.fc_cls.weight` |
| TSN, TSM | `module.base_model.layer1.0.bn1.weight` | `module.new_fc.weight` |
| transformers | `encoder.stages.0.layers.0.layer.0.normalization.weight` | `classifier.1.weight` |

transformers puts `resnet.` before what is not the head.

TSM wraps the convolutions that it shifts: `conv1.net.weight` is `conv1.weight`.
"""

import re
from collections.abc import Iterable, Mapping

_PREFIX = re.compile(r"^(module\.|backbone\.|base_model\.)+")
_HEADS = re.compile(r"^(new_fc|head\.fc|cls_head\.fc_cls|cls_head\.new_fc|classifier\.1)\.")
_SHIFTED = re.compile(r"\b(conv\d)(\.conv)?\.net\.")
_MODULE = re.compile(r"\bconv(\d)\.(conv|bn)\.")  # mmaction2's pairs of convolution and norm
_SHORTCUT = re.compile(r"\bdownsample\.(conv|bn)\.")
_EMBEDDER = re.compile(r"^(resnet\.)?embedder\.embedder\.(convolution|normalization)\.")
_BLOCK = re.compile(r"^(resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.")
_LAYER = re.compile(r"\blayer\.(\d+)\.(convolution|normalization)\.")
_KINDS = {"conv": "conv", "bn": "bn", "convolution": "conv", "normalization": "bn"}
_SIDES = {"conv": "0", "bn": "1", "convolution": "0", "normalization": "1"}


def plain(key: str) -> str:
    """torchvision's name of what one of these libraries calls `key`; else `key` without prefix."""
    name = _HEADS.sub("fc.", _PREFIX.sub("", key))
    name = _SHIFTED.sub(r"\1.", name)
    name = _MODULE.sub(lambda m: f"{_KINDS[m[2]]}{m[1]}.", name)
    name = _SHORTCUT.sub(lambda m: f"downsample.{_SIDES[m[1]]}.", name)
    name = _EMBEDDER.sub(lambda m: f"{_KINDS[m[2]]}1.", name)
    block = _BLOCK.match(name)
    if block:
        rest = name[block.end() :]
        rest = _LAYER.sub(lambda m: f"{_KINDS[m[2]]}{int(m[1]) + 1}.", rest)
        rest = re.sub(
            r"^shortcut\.(convolution|normalization)\.",
            lambda m: f"downsample.{_SIDES[m[1]]}.",
            rest,
        )
        name = f"layer{int(block[2]) + 1}.{block[3]}.{rest}"
    return name


def is_shifted(keys: Iterable[str]) -> bool:
    """Whether the network was trained with a temporal shift, by its names."""
    return any(_SHIFTED.search(key) for key in keys)


def relative(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Which relative of the ResNet these arrays are of, and what to take instead; "" for none.

    `shapes` are by torchvision's names.
    """
    names, plain_one = set(shapes), "take a plain one, such as torchvision's"
    if any(re.match(r"stem\.|conv1\.\d|conv[23]\.weight|attnpool\.", name) for name in names):
        return f"a ResNet whose stem has several convolutions (ResNet-C, -D or CLIP's): {plain_one}"
    if any("downsample.2." in name for name in names):
        return f"a ResNet-D, which pools in its shortcuts: {plain_one}"
    if any(re.search(r"\.(se|se_module|attn|conv_se)\.", name) for name in names):
        return f"a ResNet with attention in its blocks: {plain_one}"
    if any(len(shape) == 5 for shape in shapes.values()):
        return "a network of three-dimensional convolutions: take one of two-dimensional ones"
    middle = shapes.get("layer1.0.conv2.weight", ())
    if "layer1.0.conv3.weight" in names and len(middle) == 4 and middle[1] < middle[0]:
        return f"a ResNeXt, whose convolutions are grouped: {plain_one}"
    stem, block = (shapes.get(name, ()) for name in ("conv1.weight", "layer1.0.conv1.weight"))
    if len(stem) == len(block) == 4 and stem[0] != block[0]:
        return f"a Wide ResNet, whose blocks have other widths than its stem: {plain_one}"
    return ""

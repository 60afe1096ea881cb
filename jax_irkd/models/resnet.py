"""Residual networks (He et al., CVPR 2016, arXiv:1512.03385), laid out as torchvision's.

Version 1.5: a bottleneck strides in its 3x3 convolution. Padding is explicit
throughout, as `SAME` does not match pretrained weights at stride 2. Torch keeps
the unbiased variance of a batch as running variance, linen the biased one: training
drifts apart by 1/(n - 1), where n is the number of values per channel; inference
is the same.

1x1 convolutions are `nn.Dense`: the same function on channels-last maps. XLA on CPUs
computes it up to twice as fast (a ResNet-50 update by 17 %). What stays slow on CPUs: 3x3
convolutions on 2x2 maps (hundred times the time of a 4x4 map), so use frames of 96 pixels or
more.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_irkd.models import convolutions
from jax_irkd.models.pooling import max_pool

EPSILON = 1e-5  # of every batch norm
STAGES = ("stage1", "stage2", "stage3", "stage4")
FROZEN = ("none", "stem", *STAGES)  # up to and including which part a network can be frozen


def _unchanged(x: Array) -> Array:
    return x


class _Block(nn.Module):
    """What both kinds of block are told; `expansion` times `width` channels come out."""

    width: int
    stride: int
    conv: Callable
    dense: Callable
    norm: Callable
    zero_init_residual: bool = False
    shift: Callable = _unchanged
    activate: bool = True
    expansion: ClassVar[int] = 1


class BasicBlock(_Block):
    """Two 3x3 convolutions and a shortcut: relu(shortcut(x) + f(shift(x)))."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        stride = (self.stride, self.stride)
        y = self.conv(self.width, (3, 3), stride, padding=1, name="conv1")(self.shift(x))
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.width, (3, 3), padding=1, name="conv2")(y)
        y = self.norm(name="norm2", scale_init=_last_scale(self.zero_init_residual))(y)
        y = y + _shortcut(self, x)
        return nn.relu(y) if self.activate else y


class Bottleneck(_Block):
    """1x1, 3x3 (strided) and 1x1 convolutions, four times wider at the end, and a shortcut.

    relu(shortcut(x) + f(shift(x))), as in `BasicBlock`.
    """

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        stride = (self.stride, self.stride)
        y = self.dense(self.width, name="conv1")(self.shift(x))
        y = nn.relu(self.norm(name="norm1")(y))
        y = self.conv(self.width, (3, 3), stride, padding=1, name="conv2")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = self.dense(self.width * self.expansion, name="conv3")(y)
        y = self.norm(name="norm3", scale_init=_last_scale(self.zero_init_residual))(y)
        y = y + _shortcut(self, x)
        return nn.relu(y) if self.activate else y


def _last_scale(zero: bool) -> nn.initializers.Initializer:
    return nn.initializers.zeros if zero else nn.initializers.ones


def _shortcut(block: nn.Module, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
    """x itself, or its 1x1 projection where the block changes the shape."""
    features, stride = block.width * block.expansion, block.stride
    if stride == 1 and x.shape[-1] == features:
        return x
    x = block.dense(features, stride, name="projection")(x)
    return block.norm(name="projection_norm")(x)


def _pointwise(
    features: int, stride: int = 1, *, quick: bool, name: str | None = None, **options: Any
) -> nn.Dense:
    """A 1x1 convolution; with a stride it reads every so many pixels only."""
    if quick:
        options["dot_general"] = functools.partial(convolutions.dot_general, stride=stride)
    elif stride > 1:
        options["dot_general"] = functools.partial(convolutions.strided_dot_general, stride=stride)
    return nn.Dense(features, name=name, **options)


class Stem(nn.Module):
    """relu(norm(7x7 stride-2 convolution)), the first map of the network.

    With `input_offset`, a second 7x7 kernel is convolved over a map of ones and added.
    Inside the frame that is a bias per channel, and zero padding makes it smaller along
    the border: what is needed to fold an affine change of the input into the kernels.
    """

    width: int
    conv: Callable
    norm: Callable
    input_offset: bool = False

    @nn.compact
    def __call__(self, frames: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        conv = functools.partial(self.conv, self.width, (7, 7), (2, 2), padding=3)
        x = conv(name="conv")(frames)
        if self.input_offset:
            ones = jnp.ones((1, *frames.shape[1:3], 1), frames.dtype)
            x = x + conv(use_bias=False, kernel_init=nn.initializers.zeros, name="offset")(ones)
        return nn.relu(self.norm(name="norm")(x))


def _mean(x: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)


BLOCKS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}

_LONG_STAGE = 23  # blocks


def is_shifted(depth: int, index: int) -> bool:
    """Whether block `index` of a stage sees the temporal shift: every one, or every other one in
    networks with a long stage."""
    _, counts = BLOCKS[depth]
    return max(counts) < _LONG_STAGE or index % 2 == 0


def check_depth(depth: int) -> None:
    """Raises ValueError naming the choices when there is no ResNet of this depth."""
    if depth not in BLOCKS:
        raise ValueError(f"unknown ResNet depth {depth!r}; choose one of {list(BLOCKS)}")


def check_frozen(frozen: str) -> None:
    """Raises ValueError naming the choices when a network has no such part."""
    if frozen not in FROZEN:
        raise ValueError(f"unknown part {frozen!r} to freeze; choose one of {list(FROZEN)}")


class StageEnd(nn.Module):
    """The ReLU that ends a stage, by a name that Grad-CAM finds."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return nn.relu(x)


class ResNet(nn.Module):
    """Frames to feature maps: `stem`, `stage1` to `stage4`, their `_preact` and `pooled`.

    `stem` is post-ReLU, before the max pool, at half the frame size; stage i has 1/2^(i+1)
    of it and `width * 2^(i-1)` channels (four times that from depth 50 on), `stage1_preact`
    is `stage1` before its last ReLU. `pooled`, shape `n d`, is the spatial mean of the last
    stage in float32. Maps have type `dtype`;
    parameters and batch statistics are float32 always. The number of input channels is
    that of the frames the network is initialised with.

    axis_name: device axis over which batch statistics are averaged; None keeps them local.
    partial_bn: TSN's partial batch norm. Every norm but the first uses its running
        statistics while training, and its scale and bias get no gradient.
    frozen: up to and including which part (`FROZEN`) nothing is learnt: no gradient reaches it, and
        its norms use and keep their running statistics.
    norm: False leaves the batch norms out and gives the convolutions biases (`folding`).
    input_offset: adds the border-aware input offset of `Stem`.
    zero_init_residual: the last norm of every block starts at scale 0, so that a block starts
        as its shortcut (Goyal et al., arXiv:1706.02677): quicker training from scratch.
    remat: recomputes the blocks in the backward pass: less memory, one more forward.
    winograd: the most channels of a 3x3 convolution that inference on CPUs computes with fewer
        products (`winograd`), for a tenth of a second of compilation or more each; 0 keeps to the
        plain operations that other formats know. Training takes them at any width.
    shift: applied to a block's input before its first convolution, the shortcut left out
        (`temporal`); from depth 101 on to every other block, as in TSM's code.

    Raises ValueError for a depth other than 18, 34, 50, 101 and 152, and for an unknown `frozen`.
    """

    depth: int = 18
    width: int = 64
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    partial_bn: bool = False
    norm: bool = True
    input_offset: bool = False
    zero_init_residual: bool = False
    remat: bool = False
    winograd: int = 0
    shift: Callable[[Array], Array] = _unchanged
    frozen: str = "none"

    def __post_init__(self):
        check_depth(self.depth)
        check_frozen(self.frozen)
        super().__post_init__()

    @nn.compact
    def __call__(self, frames: Float[Array, "n h w c"], *, train: bool) -> dict[str, Array]:
        quick = train or self.winograd > 0
        conv, dense = (
            functools.partial(
                layer,
                use_bias=not self.norm,
                dtype=self.dtype,
                kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            )
            for layer in (nn.Conv, functools.partial(_pointwise, quick=quick))
        )
        if quick:
            widest = sys.maxsize if train else self.winograd
            convolve = functools.partial(convolutions.conv_general_dilated, widest=widest)
            conv = functools.partial(conv, conv_general_dilated=convolve)
        frames = frames.astype(self.dtype)
        still = FROZEN.index(self.frozen)  # so many parts learn nothing
        norm = self._norm(train=train and still < 1, frozen=False)
        x = Stem(self.width, conv, norm, self.input_offset, name="stem")(frames)
        x = jax.lax.stop_gradient(x) if still >= 1 else x
        features = {"stem": x}
        x = max_pool(x, train=train, plain=not quick)

        block, counts = BLOCKS[self.depth]
        block = nn.remat(block) if self.remat else block
        for level, (stage, count) in enumerate(zip(STAGES, counts, strict=True)):
            learns = still < level + 2
            norm = self._norm(train=train and learns, frozen=self.partial_bn)
            for index in range(count):
                stride = 2 if level > 0 and index == 0 else 1
                name = f"{stage}_block{index}"
                width, zero = self.width * 2**level, self.zero_init_residual
                shift = self.shift if is_shifted(self.depth, index) else _unchanged
                last = index == count - 1
                x = block(width, stride, conv, dense, norm, zero, shift, not last, name=name)(x)
            x = x if learns else jax.lax.stop_gradient(x)
            features[f"{stage}_preact"] = x
            features[stage] = x = StageEnd(name=f"{stage}_end")(x)
        features["pooled"] = convolutions.mean(x) if quick and not train else _mean(x)
        return features

    def _norm(self, *, train: bool, frozen: bool) -> Callable:
        if not self.norm:
            return lambda name, scale_init=None: lambda x: x
        batch_norm = nn.BatchNorm
        if frozen:
            batch_norm = nn.map_variables(
                nn.BatchNorm,
                "params",
                trans_in_fn=jax.lax.stop_gradient,
                init=self.is_initializing(),
            )
        return functools.partial(
            batch_norm,
            use_running_average=not train or frozen,
            momentum=0.9,
            epsilon=EPSILON,
            dtype=self.dtype,
            axis_name=self.axis_name,
        )

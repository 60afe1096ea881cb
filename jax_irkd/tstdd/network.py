"""The networks of three-stream trajectory-pooled descriptors, and what is read off their maps.

TSTDDs (Liu et al., arXiv:1909.08287), after TDD (Wang, Qiao and Tang, CVPR 2015,
arXiv:1505.04868). `jax_irkd.tstdd` says what here is a substitute.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_irkd.models.outputs import Outputs

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5")
EPSILON = 1e-12


class StreamNet(nn.Module):
    """TDD's network (CNN-M-2048) on the pictures of one stream: logits and five maps.

    conv1 7x7/2, pool 3x3/2, conv2 5x5/2, pool 3x3/2, conv3 to conv5 3x3, pool 3x3/2, two hidden
    layers, classes. `width` channels in conv1 (the original has 96), 8/3 of it in conv2 (256),
    16/3 in conv3 to conv5 (512), 128/3 and 64/3 in the hidden layers (4096 and 2048). Batch norm
    takes the place of local response normalisation, as training starts from nothing.

    `features` holds the maps after ReLU, `b h w c`, conv3 to conv5 at 1/16 of the picture.
    Training draws dropout from the rng `dropout`.
    """

    num_classes: int
    width: int = 96
    dropout: float = 0.5

    @nn.compact
    def __call__(self, pictures: Float[Array, "b h w c"], *, train: bool) -> Outputs:
        def layer(x, name, thirds, kernel, stride=1):
            size = (kernel, kernel)
            channels = max(self.width * thirds // 3, 1)
            x = nn.Conv(channels, size, (stride, stride), kernel // 2, use_bias=False, name=name)(x)
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"{name}_norm")
            features[name] = nn.relu(norm(x))
            return features[name]

        def pool(x):
            return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))

        features: dict[str, Array] = {}
        x = pool(layer(pictures, "conv1", 3, 7, 2))
        x = pool(layer(x, "conv2", 8, 5, 2))
        for name in LAYERS[2:]:
            x = layer(x, name, 16, 3)
        x = pool(x).reshape(len(x), -1)
        for name, thirds in (("hidden1", 128), ("hidden2", 64)):
            x = nn.relu(nn.Dense(max(self.width * thirds // 3, 1), name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Outputs(nn.Dense(self.num_classes, name="head")(x).astype(jnp.float32), features)


def normalise_channels(maps: Float[np.ndarray, "t h w c"]) -> Float[np.ndarray, "t h w c"]:
    """Each place divided by its largest channel: what is there counts, not how strongly."""
    return maps / np.maximum(maps.max(axis=-1, keepdims=True), EPSILON)


def normalise_volume(maps: Float[np.ndarray, "t h w c"]) -> Float[np.ndarray, "t h w c"]:
    """Each channel divided by its largest value in the clip: all channels get the same range."""
    return maps / np.maximum(maps.max(axis=(0, 1, 2), keepdims=True), EPSILON)


def tube_descriptors(
    maps: Float[np.ndarray, "t h w c"], length: int
) -> Float[np.ndarray, "n two_c"]:
    """Descriptors of straight tubes: every place of the map, every `length` maps of the clip.

    Both normalisations of the maps side by side, each averaged along the tube; a last tube that
    would be shorter takes the last `length` maps instead, so tubes may overlap there. A clip
    shorter than a tube is one tube.
    """
    if length < 1:
        raise ValueError(f"a tube has at least one map, not {length}")
    both = np.concatenate([normalise_channels(maps), normalise_volume(maps)], axis=-1)
    count = -(-len(both) // length)
    starts = [max(min(i * length, len(both) - length), 0) for i in range(count)]
    tubes = np.stack([both[start : start + length].mean(axis=0) for start in starts])
    return tubes.reshape(-1, both.shape[-1])

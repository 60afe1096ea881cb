"""Derivatives by moving what they are taken to."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import networks


def activation_maps(model, variables, clip, label, layer, change=3e-3):
    """Grad-CAM's maps `t h w` of one clip `1 t h w c` for a class, before the ReLU.

    One copy of the clip per segment, channel and sign; each copy's map is moved in one channel.
    """
    apply = networks.jit(functools.partial(model.apply, train=False))
    features = apply(variables, clip).features[layer][0]
    segments, height, width, channels = features.shape
    copies = segments * channels
    moves = change * np.eye(copies, dtype=np.float32).reshape(-1, segments, 1, 1, channels)
    moves = jnp.concatenate([moves, -moves]).reshape(-1, 1, 1, channels)

    def logits(clips, moves):
        def add(run, args, kwargs, context):
            out = run(*args, **kwargs)
            return out + moves if context.module.name == f"{layer}_end" else out

        with nn.intercept_methods(add):
            return model.apply(variables, clips, train=False).logits[:, label]

    clips = jnp.repeat(jnp.asarray(clip), 2 * copies, axis=0)
    up, down = networks.jit(logits)(clips, moves).reshape(2, segments, channels)
    weights = (up - down) / (2 * change) / (height * width)
    return np.einsum("tc,thwc->thw", weights, jax.device_get(features))

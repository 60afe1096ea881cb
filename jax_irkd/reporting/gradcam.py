"""Where a clip model looks: Grad-CAM (Selvaraju et al., ICCV 2017, arXiv:1610.02391)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jax_irkd.models.resnet import STAGES
from jax_irkd.models.tsn import TSN


@functools.partial(jax.jit, static_argnames=("model", "layer"))
def grad_cam(
    model: TSN,
    variables: PyTree,
    clips: Float[Array, "b t h w c"],
    classes: Int[Array, " b"],
    *,
    layer: str = "stage4",
) -> Float[Array, "b t h2 w2"]:
    """Evidence for one class of each clip, by frame and place.

        alpha[t, c] = mean_hw d logit / d F[t, h, w, c]
        M[t, h, w] = relu(sum_c alpha[t, c] F[t, h, w, c])

    with F the map of `layer` (stage1 to stage4) and the clip logit of `classes`; every segment has
    weights of its own. Not negative, float32, at the map's size, not scaled: a clip's maps may be
    compared with each other and between two networks only by place. At stage4 this is the class
    activation map, the head's weights times F over the t h w of a clip.

    Raises ValueError for an unknown layer.
    """
    if layer not in STAGES:
        raise ValueError(f"unknown layer {layer!r}; choose one of {list(STAGES)}")
    model = model.clone(remat=False)
    last = f"{layer}_end"

    def logit(change):
        def add(run, args, kwargs, context):
            out = run(*args, **kwargs)
            here = context.module.name == last and context.method_name == "__call__"
            return out + change.astype(out.dtype) if here else out

        with nn.intercept_methods(add):
            outputs = model.apply(variables, clips, train=False)
        chosen = jnp.take_along_axis(outputs.logits, classes[:, None], axis=1)
        return jnp.sum(chosen), outputs.features[layer]

    shape = jax.eval_shape(lambda: model.apply(variables, clips, train=False)).features[layer].shape
    nothing = jnp.zeros((shape[0] * shape[1], *shape[2:]), jnp.float32)
    gradient, maps = jax.grad(logit, has_aux=True)(nothing)
    weights = jnp.mean(gradient.reshape(shape), axis=(2, 3))
    return nn.relu(jnp.einsum("btc,bthwc->bthw", weights, maps.astype(jnp.float32)))

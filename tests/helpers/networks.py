"""Networks in tests: random variables, inputs, and compilation in a fraction of the time."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Compiling is what such tests spend their time on, and the optimiser most of that.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def draw(network: nn.Module, *shape: int, seed: int = 0) -> dict:
    """Variables that a trained network could have, for frames or clips of this shape.

    Compiling `network.init` would take seconds.
    """
    frames = jax.ShapeDtypeStruct(shape, jnp.float32)
    shapes = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), frames)
    generator = np.random.default_rng(seed)

    def leaf(keys, shape):
        name = keys[-1].key
        if name == "kernel":
            deviation = (2 / np.prod(shape.shape[:-1])) ** 0.5
            value = generator.normal(0, deviation, shape.shape)
        elif name in ("scale", "var"):
            value = generator.uniform(0.5, 1.5, shape.shape)
        else:
            value = generator.uniform(-0.3, 0.3, shape.shape)
        return jnp.asarray(value, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def lowered(function, *arguments, platforms=("cuda", "cpu")) -> list[str]:
    """The program of `function` for every platform, as StableHLO."""
    traced = jax.jit(function).trace(*arguments)
    return [traced.lower(lowering_platforms=(name,)).as_text() for name in platforms]

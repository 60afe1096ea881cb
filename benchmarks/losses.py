"""Time of every distillation loss, forward and backward, beside the step it belongs to.

    python -m benchmarks.losses [--resolution=224] [--clips=8] [--segments=8] [--repeats=5]

The step is what distillation costs without a loss: a ResNet-50 forward pass on RGB and a
ResNet-18 update on infrared, over clips x segments frames. The losses read stage maps of
the sizes these networks give. Needs jax, flax, optax only; times are medians.

Two busy CPU cores, 112 pixels, 8 x 8 frames (step 4.8 s), share of a step: every method below
3 % (mgcam 0.7, sp 0.4, at 0.3, ccskd 2.4, the rest below 0.2; rkd over all 64 frames 1.7).
Above it are three options: sp and mgcam over frames (3.7 and 5.7) and mgcam's learned adapters
(6.2).
"""

import argparse
import time

import jax
import jax.numpy as jnp
import optax

from jax_irkd import distillers
from jax_irkd.models.outputs import Outputs

CLASSES = 60
METHODS = {
    "st": ("st", {}),
    "dkd": ("dkd", {}),
    "at": ("at", {}),
    "sp": ("sp", {}),
    "sp, frames": ("sp", {"vertex": "frame"}),
    "cc": ("cc", {}),
    "cc, embedding": ("cc", {"form": "embedding"}),
    "rkd": ("rkd", {}),
    "rkd, frames": ("rkd", {"layer": "stage4", "vertex": "frame"}),
    "ccskd": ("ccskd", {}),
    "mgcam": ("mgcam", {}),
    "mgcam, detached": ("mgcam", {"detach": True}),
    "mgcam, frames": ("mgcam", {"vertex": "frame"}),
    "mgcam, learned": ("mgcam", {"activation": "conv1x1"}),
}


def outputs(key: jax.Array, arguments: argparse.Namespace, width: int) -> Outputs:
    """Random features of a ResNet whose first stage has `width` channels."""
    clips, segments = arguments.clips, arguments.segments
    features = {}
    for i in range(4):
        size = -(-arguments.resolution // (4 * 2**i))
        shape = (clips, segments, size, size, width * 2**i)
        features[f"stage{i + 1}"] = jnp.abs(jax.random.normal(jax.random.fold_in(key, i), shape))
    features["pooled"] = features["stage4"].mean((1, 2, 3))
    return Outputs(jax.random.normal(key, (clips, CLASSES)), features)


def seconds(function, *arguments, repeats: int) -> float:
    """Median time of a call, compiled before."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def time_loss(name: str, fields: dict, pair: tuple, repeats: int) -> float:
    """A loss and its gradients to the student's outputs and to what the method learns."""
    student, teacher = pair
    labels = jnp.arange(len(student.logits)) % CLASSES
    distiller = distillers.get(name)(**fields)
    variables = jax.jit(distiller.init)(jax.random.key(0), student, teacher, labels)
    variables = {"params": {}, "batch_stats": {}} | dict(variables)

    def loss(params, student, teacher):
        own = variables | {"params": params}
        terms, _ = distiller.apply(own, student, teacher, labels, mutable=["batch_stats"])
        return sum(terms.values())

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return seconds(gradient, variables["params"], student, teacher, repeats=repeats)


def time_step(arguments: argparse.Namespace) -> float:
    """A teacher's forward pass and a student's update, without a distillation loss."""
    from jax_irkd.models.tsn import TSN

    teacher, student = TSN(CLASSES, depth=50), TSN(CLASSES, depth=18, dropout=0.0)
    size = (arguments.clips, arguments.segments, arguments.resolution, arguments.resolution)
    rgb, infrared = jnp.ones((*size, 3)), jnp.ones((*size, 1))
    labels = jnp.arange(arguments.clips) % CLASSES
    small = [jnp.ones((1, 1, 64, 64, channels)) for channels in (3, 1)]
    taught = jax.jit(lambda x: teacher.init(jax.random.key(0), x, train=False))(small[0])
    learned = jax.jit(lambda x: student.init(jax.random.key(1), x, train=False))(small[1])

    def loss(params, statistics, logits):
        variables = {"params": params, "batch_stats": statistics}
        out, updated = student.apply(variables, infrared, train=True, mutable=["batch_stats"])
        entropy = optax.softmax_cross_entropy_with_integer_labels(out.logits, labels).mean()
        # A factor of 0 that the compiler cannot see keeps the teacher in the program.
        return entropy + jnp.mean(logits) * jnp.sum(params["head"]["bias"]), updated

    @jax.jit
    def step(taught, learned, rgb):
        logits = teacher.apply(taught, rgb, train=False).logits
        gradients, updated = jax.grad(loss, has_aux=True)(
            learned["params"], learned["batch_stats"], jax.lax.stop_gradient(logits)
        )
        params = jax.tree.map(lambda p, g: p - 1e-3 * g, learned["params"], gradients)
        return params, updated

    return seconds(step, taught, learned, rgb, repeats=arguments.repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    frames = arguments.clips * arguments.segments
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {frames} frames")
    step = time_step(arguments)
    print(f"{'step without a loss':20s} {1e3 * step:9.1f} ms")
    keys = jax.random.split(jax.random.key(2))
    pair = outputs(keys[0], arguments, 64), outputs(keys[1], arguments, 256)
    for title, (name, fields) in METHODS.items():
        spent = time_loss(name, fields, pair, arguments.repeats)
        print(f"{title:20s} {1e3 * spent:9.1f} ms {100 * spent / step:7.2f} %", flush=True)


if __name__ == "__main__":
    main()

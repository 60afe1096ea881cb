"""The same numbers on the accelerator as on the processor: every loss, and a student's update.

    python -m benchmarks.devices [--only=losses,update] [--precision=highest,default]
                                [--clips=8] [--segments=4] [--resolution=96]

Value and gradient (to the student's features and to what the method learns) of every method on
random features, and the gradient of a whole update (cross-entropy, DKD, MGCAM) to the student's
parameters: relative differences from the processor's float32, in Euclidean length. Once as
training computes, once with float32 products throughout (`jax_default_matmul_precision=highest`),
where only the order of sums is left. Needs jax, flax, optax and jaxtyping.
"""

import argparse
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from benchmarks import _distillation as distillation
from benchmarks._distillation import Sizes
from benchmarks._measure import Result, make_parser, run, several, show
from benchmarks.losses import make_loss, outputs
from jax_irkd import distillers
from jax_irkd.host.devices import start

TARGETS = {"highest": "≤ 1e-4", "default": "≤ 2e-2"}


def difference(ours, theirs) -> float:
    """The length of the difference of two trees over that of the second."""
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    square = sum(float(np.sum((np.asarray(a, np.float64) - b) ** 2)) for a, b in pairs)
    return (square / sum(float(np.sum(np.asarray(b, np.float64) ** 2)) for _, b in pairs)) ** 0.5


def on(device: jax.Device, call: Callable[[], object]):
    """What `call` makes and computes on `device`, as NumPy arrays."""
    with jax.default_device(device):
        return jax.device_get(call())


def of_losses(sizes: Sizes, precision: str) -> list[Result]:
    """Value and gradients of every method with its defaults."""
    keys, shape = jax.random.split(jax.random.key(2)), sizes[:3]
    pair = jax.device_get((outputs(keys[0], shape, 16), outputs(keys[1], shape, 64)))
    made = []
    for name in distillers.names():
        value, gradients = on(jax.devices()[0], make_loss(name, {}, pair))
        wanted, wanted_gradients = on(jax.devices("cpu")[0], make_loss(name, {}, pair))
        made.append(
            Result(
                f"{name}, {precision}: gradient",
                difference(gradients, wanted_gradients),
                "",
                TARGETS[precision],
                note=f"value {difference(value, wanted):.1e}",
            )
        )
        show(made[-1:])
    return made


def of_update(sizes: Sizes, precision: str) -> list[Result]:
    """The student's gradient of a whole update, networks in float32 and in bfloat16."""

    def gradient(half: bool):
        found = distillation.networks(sizes, half, lift=1.0)
        step = distillation.Step(found, distillation.make_batch(sizes))
        step()
        return distillation.gradient_of(step.state, found.student["params"])

    wanted = on(jax.devices("cpu")[0], lambda: gradient(half=False))
    made = []
    for half in (False, True):
        kind = "bfloat16" if half else "float32"
        found = on(jax.devices()[0], functools.partial(gradient, half))
        target = "" if half else TARGETS[precision]
        title = f"update in {kind}, {precision}: gradient"
        made.append(Result(title, difference(found, wanted), "", target))
    show(made)
    return made


PARTS = {"losses": of_losses, "update": of_update}


def results(arguments: argparse.Namespace) -> Iterator[list[Result]]:
    """What `arguments.only` names, with the products that `arguments.precision` names."""
    sizes = Sizes(arguments.clips, arguments.segments, arguments.resolution)
    for precision in arguments.precision:
        with jax.default_matmul_precision(precision):
            for part in arguments.only:
                yield PARTS[part](sizes, precision)


def parser() -> argparse.ArgumentParser:
    made = make_parser(__doc__)
    made.add_argument("--only", type=several(PARTS), default=[*PARTS])
    made.add_argument("--precision", type=several(TARGETS), default=[*TARGETS])
    made.add_argument("--clips", type=int, default=8)
    made.add_argument("--segments", type=int, default=4)
    made.add_argument("--resolution", type=int, default=96)
    return made


def main() -> None:
    arguments = parser().parse_args()
    start("off")  # programs are kept: a GPU takes minutes to compile them
    run("devices", results, arguments, arguments.json)


if __name__ == "__main__":
    main()

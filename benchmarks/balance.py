"""What it costs to hold distillation terms at a share of the cross-entropy's gradient.

    python -m benchmarks.balance [--methods at dkd,mgcam] [--clips=8] [--segments=4]
                                [--resolution=96]

The training step without shares, with them, and with the gradients taken apart, in turns; from
their ratios the mean cost of a step, as the gradients are taken apart in one of many. Ratios are of
processor time on CPUs, which neighbours disturb less. Needs jax, flax, optax and jaxtyping.
"""

import argparse
import functools
from collections.abc import Callable

import jax

from benchmarks import _distillation as distillation
from benchmarks._distillation import Sizes
from benchmarks._measure import Result, Timing, alternate, make_parser, ratio, run, show, spread
from jax_irkd.host import devices
from jax_irkd.models.folding import without_norms
from jax_irkd.training import balance


def programs(sizes: Sizes, methods: tuple[str, ...], half: bool) -> dict[str, Callable[[], None]]:
    """Calls that update the student once and wait for it."""
    found, batch = distillation.networks(sizes, half), distillation.make_batch(sizes)
    teacher_model, teacher = without_norms(found.teacher_model, found.teacher)
    teacher, clips = distillation.replicate(teacher), distillation.as_step_input(batch)
    step = distillation.bound_step(found.model, teacher_model, methods)
    shares = dict.fromkeys(methods, 0.3)
    kinds = {
        "plain": {},
        "shares": {"shares": shares},
        "measuring": {"shares": shares, "measure": True},
    }

    def call(options: dict) -> Callable[[], None]:
        update = distillation.parallel(functools.partial(step, **options))
        holder = [distillation.replicate(distillation.state_of(found, methods))]

        def once() -> None:
            holder[0], _ = update(holder[0], teacher, clips)
            jax.block_until_ready(holder[0])

        return once

    return {name: call(options) for name, options in kinds.items()}


def summary(timings: dict[str, Timing], terms: int, clock: str) -> list[Result]:
    """Ratios, and the mean cost of a long run's step in percent."""
    every = balance.EVERY * terms
    apart = ratio(timings["measuring"], timings["shares"], clock)
    cost = [100 * (value - 1) / every for value in apart]
    return [
        spread(getattr(timings["plain"], clock)).result("step without shares", "s"),
        ratio(timings["shares"], timings["plain"], clock).result("with shares / without", "×"),
        apart.result("gradients taken apart / not", "×", note=f"in every {every}th step"),
        Result("mean cost of a step", cost[0], "%", "≤ 2 %", cost[1], cost[2]),
    ]


def results(arguments: argparse.Namespace) -> list[Result]:
    """Everything this benchmark measures, printed as it comes."""
    devices.start("off")
    sizes = Sizes(arguments.clips, arguments.segments, arguments.resolution, arguments.width)
    cpu = jax.devices()[0].platform == "cpu"
    made = []
    for methods in arguments.methods:
        timings = alternate(programs(sizes, methods, not cpu), arguments.repeats)
        found = summary(timings, len(methods), "processor" if cpu else "wall")
        found = [result._replace(name=f"{' + '.join(methods)}: {result.name}") for result in found]
        show(found)
        made += found
    return made


def parser() -> argparse.ArgumentParser:
    made = make_parser(__doc__)
    made.add_argument(
        "--methods",
        type=lambda text: tuple(text.split(",")),
        nargs="+",
        default=[("at",), ("dkd", "mgcam"), ("fitnet",)],
        help="with commas between those of a run",
    )
    made.add_argument("--clips", type=int, default=8)
    made.add_argument("--segments", type=int, default=4)
    made.add_argument("--resolution", type=int, default=96)
    made.add_argument("--width", type=int, default=16)
    made.add_argument("--repeats", type=int, default=9)
    return made


if __name__ == "__main__":
    given = parser().parse_args()
    run("balance", results, given, given.json)

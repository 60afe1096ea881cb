"""What the temporal shift costs: an update with it beside the same update without.

    python -m benchmarks.shift [--clips=8] [--repeats=9]

The distillation step of the demo's narrow networks (4 frames of 96 pixels, both networks shift),
and the update of a ResNet-18 alone on 8 frames of 112 pixels. Needs jax, flax, optax and
jaxtyping.
"""

import argparse
from collections.abc import Callable

import jax

from benchmarks import _distillation as distillation
from benchmarks._distillation import Networks, Sizes
from benchmarks._measure import Result, alternate, make_parser, number, ratio, run, show, spread
from jax_irkd.host import devices

KINDS = ("none", "shift", "causal")


def with_temporal(found: Networks, kind: str, taught: bool) -> Networks:
    """The networks with this shift; without a teacher where it does not teach."""
    teacher = found.teacher_model.clone(temporal=kind) if taught else None
    model = found.model.clone(temporal=kind)
    return found._replace(model=model, teacher_model=teacher, teacher=teacher and found.teacher)


def updates(sizes: Sizes, half: bool, taught: bool) -> dict[str, Callable[[], None]]:
    """Calls that update the student once, for every kind of shift, and wait for it."""
    found, batch = distillation.networks(sizes, half), distillation.make_batch(sizes)
    methods = distillation.METHODS if taught else ()

    def update(kind: str) -> Callable[[], None]:
        step = distillation.Step(with_temporal(found, kind, taught), batch, methods)

        def call() -> None:
            step()
            step.wait()

        return call

    return {kind: update(kind) for kind in KINDS}


def compare(title: str, sizes: Sizes, half: bool, taught: bool, repeats: int) -> list[Result]:
    """The time without a shift, and the time with each in units of it."""
    timings = alternate(updates(sizes, half, taught), repeats, warm=2)
    made = [spread(1e3 * t for t in timings["none"].wall).result(f"{title}: none", "ms")]
    for kind in KINDS[1:]:
        over = timings[kind], timings["none"]
        processor = number(ratio(*over, "processor").median)
        note = f"by processor time {processor}" if not half else ""
        made.append(ratio(*over).result(f"{title}: {kind} / none", "×", note=note))
    show(made)
    return made


def results(arguments: argparse.Namespace) -> list[Result]:
    """Everything this benchmark measures, printed as it comes."""
    devices.start("off")
    half = jax.devices()[0].platform != "cpu"
    narrow = Sizes(arguments.clips, 4, 96, width=16)
    wide = Sizes(arguments.clips, 8, 112)
    return [
        *compare(f"demo's step {narrow}", narrow, half, True, arguments.repeats),
        *compare(f"ResNet-18's update {wide}", wide, half, False, arguments.repeats),
    ]


def parser() -> argparse.ArgumentParser:
    made = make_parser(__doc__)
    made.add_argument("--clips", type=int, default=8)
    made.add_argument("--repeats", type=int, default=9)
    return made


if __name__ == "__main__":
    given = parser().parse_args()
    run("shift", results, given, given.json)

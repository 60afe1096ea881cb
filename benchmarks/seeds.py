"""Three students in one program: is a study over seeds cheaper in one go?

    python -m benchmarks.seeds [--students=3] [--clips=4] [--segments=4] [--resolution=112]

One data stream and one teacher for all: the updates of several students in one program, written
out one after the other or vmapped, beside the update of one student alone and beside the teacher's
forward pass, which is what can be shared. Needs jax, flax, optax and jaxtyping.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import _distillation as distillation
from benchmarks._distillation import Sizes
from benchmarks._measure import Result, Timing, alternate, make_parser, ratio, run, show, spread
from jax_irkd.host import devices
from jax_irkd.models.folding import without_norms


def programs(sizes: Sizes, students: int, half: bool) -> dict[str, Callable[[], None]]:
    """Calls that update one student, or all of them in one program, and wait for it."""
    found, batch = distillation.networks(sizes, half), distillation.make_batch(sizes)
    teacher_model, teacher = without_norms(found.teacher_model, found.teacher)
    teacher, clips = distillation.replicate(teacher), distillation.as_step_input(batch)
    step = distillation.bound_step(found.model, teacher_model)

    def written_out(states, teacher, batch):
        # The teacher's pass is written once for each, and computed once: the compiler sees that
        # the expressions are the same.
        return tuple(zip(*(step(state, teacher, batch) for state in states)))

    vmapped = jax.vmap(step, in_axes=(0, None, None))
    # Weights differ from student to student, as they would between seeds.
    drawn = (distillation.draw(found.model, 1, seed=number) for number in range(students))
    states = [distillation.state_of(found._replace(student=student)) for student in drawn]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    held = {
        "one student": (step, distillation.state_of(found)),
        f"{students} students, written out": (written_out, tuple(states)),
        f"{students} students, vmapped": (vmapped, stacked),
    }
    return {name: _update(body, state, teacher, clips) for name, (body, state) in held.items()}


def _update(body, state, teacher, batch) -> Callable[[], None]:
    update, holder = distillation.parallel(body), [distillation.replicate(state)]

    def call() -> None:
        holder[0], _ = update(holder[0], teacher, batch)
        jax.block_until_ready(holder[0])

    return call


def teacher_alone(sizes: Sizes, half: bool) -> Callable[[], None]:
    """The teacher's pass over the batch: the part that students can share."""
    found, batch = distillation.networks(sizes, half), distillation.make_batch(sizes)
    model, teacher = without_norms(found.teacher_model, found.teacher)
    teacher, clips = jax.device_put((teacher, {"rgb": batch["rgb"]}))

    @jax.jit
    def forward(teacher, clips):
        out = model.apply(teacher, distillation.prepare(clips, None)["rgb"], train=False)
        return out.logits, {name: maps.mean(1) for name, maps in out.features.items()}

    return lambda: jax.block_until_ready(forward(teacher, clips))


def summary(timings: dict[str, Timing], students: int) -> list[Result]:
    """Costs in units of one student's update."""
    one = timings["one student"]
    made = [spread(t for t in one.wall).result("one student", "s")]
    share = ratio(timings["teacher"], one).median
    least = students - (students - 1) * share
    # On a CPU the teacher's share is to be saved.
    target = f"≤ {least:.2f}" if jax.devices()[0].platform == "cpu" else "≤ 2.2"
    note = f"{least:.2f} if nothing but the teacher were shared"
    for name, timing in timings.items():
        if name not in ("one student", "teacher"):
            made.append(ratio(timing, one).result(f"{name} / one", "×", target, note))
    return [*made, Result("teacher's share of one student's update", 100 * share, "%")]


def results(arguments: argparse.Namespace) -> list[Result]:
    """Everything this benchmark measures, printed as it comes."""
    devices.start("off")
    sizes = Sizes(arguments.clips, arguments.segments, arguments.resolution)
    half = jax.devices()[0].platform != "cpu"
    calls = programs(sizes, arguments.students, half) | {"teacher": teacher_alone(sizes, half)}
    made = summary(alternate(calls, arguments.repeats), arguments.students)
    show(made)
    return made


def parser() -> argparse.ArgumentParser:
    made = make_parser(__doc__)
    made.add_argument("--students", type=int, default=3)
    made.add_argument("--clips", type=int, default=4)
    made.add_argument("--segments", type=int, default=4)
    made.add_argument("--resolution", type=int, default=112)
    made.add_argument("--repeats", type=int, default=5)
    return made


if __name__ == "__main__":
    given = parser().parse_args()
    run("seeds", results, given, given.json)

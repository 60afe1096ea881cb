"""The distillation step beside PyTorch's and beside what the machine can do.

    python -m benchmarks.step [--clips=8] [--segments=8] [--resolution=224] [--device=cpu]

ResNet-50 teacher, ResNet-18 student, cross-entropy + DKD + MGCAM, SGD; uint8 clips that lie on the
device; bfloat16 on GPUs, float32 on CPUs. Before anything is timed, one update of each side from
the same weights has to give the same terms and gradients in float32; otherwise nothing is timed.
Then both sides update in turns. Needs jax, flax, optax and jaxtyping; without PyTorch only our
own step is timed.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory, too.

import jax
import numpy as np

from benchmarks import _distillation as distillation
from benchmarks._distillation import Networks, Sizes
from benchmarks._measure import Result, Timing, alternate, number, ratio, run, several, show, spread
from benchmarks._roofline import Ceilings, Cost, ceilings, needs_of
from jax_irkd.errors import UserError
from jax_irkd.host import commands, devices, gpus
from jax_irkd.models.folding import without_norms

CHECK = Sizes(clips=4, segments=2, resolution=96)
WARM = 3  # rounds; gigabytes find their place in the memory after a few steps
TOLERANCE = 1e-4  # of a gradient's length; rounding takes 1e-6 on a CPU
BASELINES = {"eager": "PyTorch eager", "compile": "torch.compile"}
TARGETS = {("gpu", "eager"): "≥ 2", ("gpu", "compile"): "≥ 1.3", ("cpu", "eager"): "≥ 1"}


class Unequal(Exception):
    """Both sides do not compute the same, so their times mean nothing."""


def baseline_module():
    """The PyTorch side; None, with the reason printed, where it cannot run."""
    try:
        import torch

        from benchmarks import torch_step
    except ImportError:
        print("PyTorch is not installed: only our own step is timed")
        return None
    if jax.devices()[0].platform == "gpu" and not torch.cuda.is_available():
        print("PyTorch sees no GPU: only our own step is timed")
        return None
    return torch_step


def platform() -> str:
    """What JAX computes on, cpu or gpu (or another accelerator's name)."""
    return jax.devices()[0].platform


def make_baseline(module, found: Networks, batch: Mapping, half: bool, compiled: bool) -> Callable:
    """PyTorch's step on `batch`, with a method `wait`."""
    device = "cuda" if platform() == "gpu" else "cpu"
    step = module.Step(
        found.teacher,
        found.student,
        classes=distillation.CLASSES,
        device=device,
        half=half,
        compiled=compiled,
        width=found.model.width,
    )
    call = functools.partial(step, step.put(batch))
    call.step, call.wait = step, step.wait
    return call


def check_equal(module, sizes: Sizes = CHECK) -> dict[str, float]:
    """Largest relative differences of terms and gradients after one update from the same weights.

    Raises Unequal naming what differs by more than `TOLERANCE`.
    """
    found = distillation.networks(sizes, half=False, lift=1.0)
    batch = distillation.make_batch(sizes)
    with jax.default_matmul_precision("highest"), module.exact():
        ours = distillation.Step(found, batch)
        baseline = make_baseline(module, found, batch, half=False, compiled=False)
        terms, theirs = ours(), baseline()
    worst = {}
    for name, term in theirs.items():
        worst[name] = abs(float(terms[name]) / float(term) - 1)
    learned = module.flatten(distillation.gradient_of(ours.state, found.student["params"]))
    squares = np.zeros(2)
    for path, parameter in module.leaves(baseline.step.student).items():
        if path not in learned:  # running statistics
            continue
        wanted = parameter.grad.float().cpu().numpy()
        difference = module.as_torch(learned[path]).reshape(wanted.shape) - wanted
        squares += (difference**2).sum(), (wanted**2).sum()
    worst["gradient"] = float(np.sqrt(squares[0] / squares[1]))
    wrong = {name: value for name, value in worst.items() if not value <= TOLERANCE}
    if wrong:
        raise Unequal(f"ours and PyTorch's differ by more than {TOLERANCE}: {wrong}")
    return worst


def compare(
    sizes: Sizes, half: bool, repeats: int, inner: int, baselines: list[str], module
) -> tuple[dict[str, Timing], Cost]:
    """Times of `inner` updates of ours and every baseline in turns, and what one of ours costs."""
    found, batch = distillation.networks(sizes, half), distillation.make_batch(sizes)
    ours = distillation.Step(found, batch)
    needs = needs_of(ours.lower)
    steps = {"ours": ours}
    for name in baselines if module else []:
        steps[name] = make_baseline(module, found, batch, half, compiled=name == "compile")

    def times(step) -> Callable[[], None]:
        def call() -> None:
            for _ in range(inner):
                step()
            step.wait()

        return call

    calls = {name: times(step) for name, step in steps.items()}
    for name, call in calls.items():  # minutes on a GPU
        begin = time.perf_counter()
        call()
        print(
            f"{name}: the first {inner} updates took {time.perf_counter() - begin:.0f} s",
            flush=True,
        )
    return alternate(calls, repeats, WARM), needs


def parts(sizes: Sizes, half: bool, repeats: int) -> dict[str, tuple[Timing, Cost]]:
    """The two halves of the step alone: the teacher's forward pass, the student's update."""
    found, batch = distillation.networks(sizes, half), distillation.make_batch(sizes)
    model, teacher = without_norms(found.teacher_model, found.teacher)
    teacher, clips = jax.device_put((teacher, {"rgb": batch["rgb"]}))

    @jax.jit
    def taught(teacher, clips):
        out = model.apply(teacher, distillation.prepare(clips, None)["rgb"], train=False)
        return out.logits, [out.features[name].mean() for name in ("stage1", "stage2", "stage3")]

    update = distillation.parallel(distillation.bound_step(found.model, None, ()))
    own = {name: batch[name] for name in ("infrared", "label")}
    holder = [distillation.replicate(distillation.state_of(found, ()))]
    step_input = distillation.as_step_input(own)
    needs = {
        "teacher forward": needs_of(lambda: taught.lower(teacher, clips)),
        "student update": needs_of(lambda: update.lower(holder[0], None, step_input)),
    }

    def learn() -> None:
        holder[0], _ = update(holder[0], None, step_input)
        jax.block_until_ready(holder[0])

    calls = {
        "teacher forward": lambda: jax.block_until_ready(taught(teacher, clips)),
        "student update": learn,
    }
    timings = alternate(calls, repeats, WARM)
    return {name: (timings[name], needs[name]) for name in calls}


def time_results(title: str, timings: Mapping[str, Timing], inner: int) -> list[Result]:
    """Milliseconds of everything that was timed."""
    return [
        spread(1e3 * value / inner for value in timing.wall).result(
            f"{title}: {BASELINES.get(name, name)}", "ms"
        )
        for name, timing in timings.items()
    ]


def speed_results(title: str, timings: Mapping[str, Timing]) -> list[Result]:
    """How often ours fits into the time of each baseline."""
    made = []
    for name in [baseline for baseline in timings if baseline != "ours"]:
        faster = ratio(timings[name], timings["ours"])
        processor = ratio(timings[name], timings["ours"], "processor").median
        made.append(
            faster.result(
                f"{title}: speed against {BASELINES[name]}",
                "×",
                TARGETS.get((platform(), name), ""),
                f"by processor time {number(processor)}" if platform() == "cpu" else "",
            )
        )
    return made


def limit_results(
    title: str, timing: Timing, inner: int, needs: Cost, limits: Ceilings, target: str = ""
) -> list[Result]:
    """What a program reached of the device's operations, bytes and of its own roofline."""
    seconds = spread(value / inner for value in timing.wall).median
    return [
        Result(f"{title}: operations", needs.flops / seconds / 1e9, "GFLOP/s"),
        Result(f"{title}: bytes counted", needs.bytes / seconds / 1e9, "GB/s"),
        Result(
            f"{title}: share of the machine's limit",
            100 * needs.seconds(limits) / seconds,
            "%",
            target,
            note=f"{number(needs.flops / 1e9)} GFLOP, {number(needs.bytes / 1e9)} GB",
        ),
        Result(f"{title}: memory of the program", needs.memory / 1e9, "GB"),
    ]


def results(arguments: argparse.Namespace) -> list[Result]:
    """Everything this benchmark measures, printed as it comes. Raises Unequal."""
    half = platform() != "cpu" if arguments.dtype == "auto" else arguments.dtype == "bfloat16"
    inner = arguments.inner or (1 if platform() == "cpu" else 10)
    module = baseline_module() if arguments.baselines else None
    made = []
    if module and not arguments.alone:
        worst = check_equal(module)
        made.append(
            Result(
                "ours and PyTorch's after one update: difference of gradients",
                worst["gradient"],
                "",
                f"≤ {TOLERANCE}",
                note=", ".join(f"{name} {value:.1e}" for name, value in worst.items()),
            )
        )
        show(made)
    sizes = [
        Sizes(clips, arguments.segments, resolution)
        for clips in arguments.clips
        for resolution in arguments.resolution
    ]
    if len(sizes) > 1:
        return made + [result for size in sizes for result in _in_its_own_process(size)]
    limits = ceilings(half)
    kind = "bfloat16" if half else "float32"
    peaks = [
        Result(f"ceiling beside {sizes[0]}: {kind} matrix product", limits.flops / 1e9, "GFLOP/s"),
        Result(f"ceiling beside {sizes[0]}: copy", limits.bytes / 1e9, "GB/s"),
    ]
    show(peaks)
    return made + peaks + _one_size(arguments, sizes[0], half, inner, module, limits)


def _in_its_own_process(sizes: Sizes) -> list[Result]:
    """The results of one size, measured where no other has left holes in the memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.json")
        options = [f"--{name}={value}" for name, value in zip(sizes._fields[:3], sizes)]
        command = [sys.executable, "-m", "benchmarks.step", *sys.argv[1:], *options]
        subprocess.run([*command, f"--json={path}", "--alone"], check=True)
        found = json.loads(path.read_text())["results"]
    return [Result(**{name: row[name] for name in Result._fields}) for row in found]


def _one_size(arguments, sizes: Sizes, half: bool, inner: int, module, limits) -> list[Result]:
    title = f"step {sizes} {'bfloat16' if half else 'float32'}"
    timings, needs = compare(sizes, half, arguments.repeats, inner, arguments.baselines, module)
    made = time_results(title, timings, inner) + speed_results(title, timings)
    wanted = "≥ 50" if platform() == "gpu" and sizes.clips >= 32 else ""
    made += limit_results(title, timings["ours"], inner, needs, limits, wanted)
    if arguments.parts:
        for name, (timing, cost_of_part) in parts(sizes, half, arguments.repeats).items():
            made += time_results(title, {name: timing}, 1)
            made += limit_results(f"{title}, {name}", timing, 1, cost_of_part, limits)[2:3]
    show(made)
    return made


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    return [int(part) for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--clips", type=numbers, default=None, help="8, on GPUs 8,32")
    made.add_argument("--segments", type=int, default=8)
    made.add_argument("--resolution", type=numbers, default=None, help="224, on CPUs 112,224")
    made.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    made.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--inner", type=int, default=0, help="updates between two looks at the clock")
    made.add_argument("--baselines", type=several(BASELINES), help="eager, on GPUs eager,compile")
    made.add_argument("--json", type=Path, help="write the results here too")
    made.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("--parts", action=argparse.BooleanOptionalAction, default=True)
    return made


def start(device: str) -> None:
    """Chooses what JAX computes on; the first look settles it. Raises UserError without a GPU."""
    if device != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda,cpu"}.get(device, "cpu"))
    devices.start("off")
    if device not in ("auto", platform()):  # of several platforms JAX takes what it finds
        wheels = f"the driver with nvidia-smi and the wheels with {gpus.INSTALL}"
        raise UserError(f"--device={device}: JAX finds none; check {wheels}, or use --device=cpu")


def complete(arguments: argparse.Namespace) -> argparse.Namespace:
    """Defaults that depend on the device."""
    on_cpu = platform() == "cpu"
    arguments.clips = arguments.clips or ([8] if on_cpu else [8, 32])
    arguments.resolution = arguments.resolution or ([112, 224] if on_cpu else [224])
    if arguments.baselines is None:
        arguments.baselines = ["eager"] if on_cpu else ["eager", "compile"]
    return arguments


def body(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    start(arguments.device)
    try:
        run("step", results, complete(arguments), arguments.json)
    except Unequal as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    return commands.run(body, argv)


if __name__ == "__main__":
    sys.exit(main())

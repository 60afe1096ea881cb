"""How time and memory grow with the work: clips, segments, pixels, devices, stages of MGCAM.

    python -m benchmarks.growth [--out=docs/performance]

Every row is a training step in a process of its own, so that its peak memory is its own; devices
are virtual ones of the CPU. MGCAM is timed alone, forward and backward, over stages and pairs.
Writes growth.png where matplotlib is installed. Needs jax, flax, optax and jaxtyping.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks._measure import Result, alternate, make_parser, peak_memory, run, show, spread

# One axis after the other; everything else as in the first row. Small, as CPUs are meant.
CASE = {"clips": 4, "segments": 4, "resolution": 96, "devices": 1, "width": 32}
AXES = {
    "clips": (2, 4, 8, 16),
    "segments": (2, 4, 8),
    "resolution": (96, 128, 160),
    "devices": (1, 2, 4),
}
ON_GPU = {
    "clips": (4, 8, 16, 32, 64),
    "segments": (4, 8, 16),
    "resolution": (112, 160, 224, 288),
}
GPU_CASE = {"clips": 8, "segments": 8, "resolution": 224, "devices": 1, "width": 64}
QUICK = {"clips": (2, 4)}
STAGES = (1, 2, 3, 4)


def measure(case: Mapping[str, int], repeats: int) -> dict[str, float]:
    """One step of this size in this process: seconds, bytes of the program and of the process."""
    import jax

    from benchmarks import _distillation as distillation
    from benchmarks._roofline import cost
    from jax_irkd.host import devices

    devices.start("off")
    sizes = distillation.Sizes(case["clips"], case["segments"], case["resolution"], case["width"])
    found = distillation.networks(sizes, half=jax.devices()[0].platform != "cpu")
    step = distillation.Step(found, distillation.make_batch(sizes), devices=case["devices"])
    lowered = step.lower()
    needs = cost(lowered, lowered.compile())

    def call() -> None:
        step()
        step.wait()

    timing = alternate({"step": call}, repeats)["step"]
    seconds = spread(timing.wall)
    return {
        "seconds": seconds.median,
        "low": seconds.low,
        "high": seconds.high,
        "processor": spread(timing.processor).median,
        "program": needs.memory,
        "process": peak_memory(),
    }


def child(case: Mapping[str, int], repeats: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    environment = dict(os.environ)
    if case["devices"] > 1:
        flags = f"--xla_force_host_platform_device_count={case['devices']}"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flags}".strip()
    command = [sys.executable, "-m", "benchmarks.growth", f"--repeats={repeats}"]
    command.append(f"--case={json.dumps(dict(case))}")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the step {dict(case)} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def sweep(axes: Mapping[str, Iterable[int]], base: Mapping[str, int], repeats: int) -> list[dict]:
    """A row for every value of every axis; cases that several axes share run once."""
    done: dict[tuple, dict] = {}
    rows = []
    for axis, values in axes.items():
        for value in values:
            case = {**base, axis: value}
            key = tuple(case.values())
            if key not in done:
                done[key] = child(case, repeats)
            rows.append({"axis": axis, "value": value, **done[key]})
    return rows


def losses(repeats: int, resolution: int, clips: int) -> list[dict]:
    """MGCAM alone, forward and backward, over the last stages, and all pairs or equal ones."""
    import jax

    from benchmarks.losses import outputs, training_type
    from jax_irkd import distillers

    shape, keys = (clips, 8, resolution), jax.random.split(jax.random.key(0))
    student, teacher = (
        outputs(k, shape, width, training_type()) for k, width in zip(keys, (64, 256))
    )
    labels = jax.numpy.zeros(clips, jax.numpy.int32)

    def make(stages: int, pairs: str):
        layers = tuple(f"stage{i}" for i in range(5 - stages, 5))
        distiller = distillers.get("mgcam")(layers=layers, pairs=pairs)

        def loss(features):
            own = student._replace(features=features)
            return distiller.apply({}, own, teacher, labels)["mgcam"]

        gradient = jax.jit(jax.grad(loss))
        return lambda: jax.block_until_ready(gradient(student.features))

    cases = {(k, pairs): make(k, pairs) for k in STAGES for pairs in ("all", "same")}
    timings = alternate(cases, repeats)
    return [
        {"stages": k, "pairs": pairs, "milliseconds": 1e3 * spread(timing.wall).median}
        for (k, pairs), timing in timings.items()
    ]


def results(arguments: argparse.Namespace) -> list[Result]:
    """Everything this benchmark measures; writes the plot."""
    import jax

    on_cpu = jax.devices()[0].platform == "cpu"
    axes, base = (AXES, CASE) if on_cpu else (ON_GPU, GPU_CASE)
    axes = QUICK if arguments.quick else axes
    rows = sweep(axes, base, arguments.repeats)
    made = []
    for row in rows:
        memory = f"process {row['process'] / 1e9:.2f} GB, program {row['program'] / 1e9:.2f} GB"
        name = f"step, {row['axis']} {row['value']}"
        made.append(Result(name, row["seconds"], "s", "", row["low"], row["high"], memory))
    resolution, clips = (112, 4) if on_cpu else (224, 8)
    of_loss = losses(max(3, arguments.repeats), resolution, clips)
    for row in of_loss:
        title = f"MGCAM, {row['stages']} stages, {row['pairs']} pairs"
        made.append(Result(title, row["milliseconds"], "ms"))
    show(made)
    print("where only one value changes, the others are", base)
    if arguments.out:
        plot(rows, of_loss, arguments.out / "growth.png")
    return made


def plot(rows: list[dict], of_loss: list[dict], path: Path) -> None:
    """Time (solid) and memory of the process (dashed) along every axis; nothing without
    matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no plot")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    canvas, panels = pyplot.subplots(1, len(axes) + 1, figsize=(3.2 * (len(axes) + 1), 3))
    for panel, axis in zip(panels, axes):
        mine = [row for row in rows if row["axis"] == axis]
        values = [row["value"] for row in mine]
        panel.plot(values, [row["seconds"] for row in mine], "o-", color="tab:blue")
        panel.set_xlabel(axis)
        panel.set_ylabel("seconds a step", color="tab:blue")
        panel.set_ylim(bottom=0)
        memory = panel.twinx()
        memory.plot(values, [row["process"] / 1e9 for row in mine], "s--", color="tab:orange")
        memory.set_ylabel("peak memory, GB", color="tab:orange")
        memory.set_ylim(bottom=0)
    for pairs in ("all", "same"):
        mine = [row for row in of_loss if row["pairs"] == pairs]
        taken = [row["milliseconds"] for row in mine]
        panels[-1].plot([row["stages"] for row in mine], taken, "o-", label=f"{pairs} pairs")
    panels[-1].set_xlabel("stages of MGCAM")
    panels[-1].set_ylabel("milliseconds, forward and backward")
    panels[-1].set_ylim(bottom=0)
    panels[-1].legend()
    canvas.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)


def parser() -> argparse.ArgumentParser:
    made = make_parser(__doc__)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--quick", action="store_true", help="one axis only")
    made.add_argument("--out", type=Path, default=None, help="folder of growth.png")
    made.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    return made


def main() -> None:
    arguments = parser().parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.repeats)))
    else:
        run("growth", results, arguments, arguments.json)


if __name__ == "__main__":
    main()

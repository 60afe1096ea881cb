"""What the benchmarks share: results and their targets, timing in turns, spread, the machine.

Imports NumPy only, so that a benchmark that needs little also runs where little is installed.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

VERSIONS = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "torch",
    "numpy",
    "grain",
    "array-record",
    "opencv-python-headless",
    "av",
    "onnxruntime",
    "openvino",
)


class Result(NamedTuple):
    """One measured number. `low` and `high` are the quartiles where it is a median.

    `target` starts with ≥ or ≤ (">=" and "<=" do as well) and goes on with a number; empty means
    that nothing was asked for. `note` says in words what the number cannot.
    """

    name: str
    value: float
    unit: str = ""
    target: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value reaches the target; None without one."""
        if not self.target:
            return None
        sign, bound = self.target[:1], self.target.lstrip("<>=≤≥ ").split()[0]
        if sign not in "≥≤<>":
            raise ValueError(f"target {self.target!r} of {self.name!r} starts with neither ≥ nor ≤")
        value = float(self.value)  # NumPy's would compare to a bool that JSON does not know
        return value >= float(bound) if sign in "≥>" else value <= float(bound)


class Spread(NamedTuple):
    """The median and the quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    def result(self, name: str, unit: str = "", target: str = "", note: str = "") -> Result:
        return Result(name, self.median, unit, target, self.low, self.high, note)


class Timing(NamedTuple):
    """Seconds of every call, on the clock and of the processors (all threads of this process)."""

    wall: list[float]
    processor: list[float]


def spread(values: Iterable[float]) -> Spread:
    low, median, high = np.percentile(list(values), (25, 50, 75))
    return Spread(float(median), float(low), float(high))


def alternate(
    calls: Mapping[str, Callable[[], object]], repeats: int, warm: int = 1
) -> dict[str, Timing]:
    """Times `calls` in turns, so that a noisy neighbour meets all of them alike.

    Each call has to wait for its own result. Every round begins with another one; `warm` rounds
    come first and are not counted: they compile.
    """
    timings = {name: Timing([], []) for name in calls}
    names = list(calls)
    for _ in range(warm):
        for call in calls.values():
            call()
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            wall, processor = time.perf_counter(), time.process_time()
            calls[name]()
            timings[name].processor.append(time.process_time() - processor)
            timings[name].wall.append(time.perf_counter() - wall)
    return timings


def ratio(over: Timing, under: Timing, clock: str = "wall") -> Spread:
    """`over` divided by `under`, round by round."""
    pairs = zip(getattr(over, clock), getattr(under, clock), strict=True)
    return spread(first / second for first, second in pairs)


def machine() -> dict:
    """What the results were measured on and with, and when."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(_memory() / 1e9, 1),
        "accelerator": accelerator(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": _versions(),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 2),
    }


def accelerator() -> str:
    """The kind of JAX's first device where it is no CPU, else nothing."""
    import jax

    device = jax.devices()[0]
    return "" if device.platform == "cpu" else device.device_kind


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    folder = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def peak_memory() -> float:
    """The most memory this process ever held, in bytes; not what a parent handed down."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) * 1024


def show(results: Iterable[Result]) -> None:
    """Results as lines of text, targets and notes included."""
    for result in results:
        words = [f"{result.name:58s} {number(result.value):>9s} {result.unit:12s}"]
        if result.low is not None and result.high is not None:
            words.append(f"[{number(result.low)} .. {number(result.high)}]")
        if result.target:
            words.append(f"target {result.target}: {'met' if result.met else 'NOT met'}")
        if result.note:
            words.append(f"({result.note})")
        print(" ".join(words).rstrip(), flush=True)


def number(value: float) -> str:
    """Three digits that count."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.3g}"


def save(path: Path, name: str, results: Iterable[Result], seconds: float) -> None:
    """A benchmark's results with machine and date, for `python -m benchmarks` to collect."""
    rows = [result._asdict() | {"met": result.met} for result in results]
    content = {"benchmark": name, "machine": machine(), "seconds": round(seconds), "results": rows}
    Path(path).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def make_parser(text: str) -> argparse.ArgumentParser:
    """A parser that shows `text` as it is laid out and takes the file of `run`'s results."""
    raw = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=text, formatter_class=raw)
    made.add_argument("--json", type=Path, help="write the results here too")
    return made


def several(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option: some of `choices` or none, with commas between them."""
    known = list(choices)

    def parse(text: str) -> list[str]:
        found = [part for part in text.split(",") if part]
        if unknown := [part for part in found if part not in known]:
            raise argparse.ArgumentTypeError(f"unknown {unknown}; choose from {known}")
        return found

    return parse


def run(name: str, results: Callable, arguments, json_file: Path | None) -> list[Result]:
    """Measures `results(arguments)` and saves them where a file is named.

    They are a list, or lists one after the other, each of which is saved before the next is
    measured: a call whose time is up keeps what it has.
    """
    start, found = time.perf_counter(), []
    made = results(arguments)
    for part in made if isinstance(made, Iterator) else [made]:
        found += part
        if json_file:
            save(json_file, name, found, time.perf_counter() - start)
    return found

"""Every program compiled for GPUs (and a TPU) that are not there: does it compile, is it good?

    make gpu-check                        # everything; ARGS="--cards=h100 --only='student;teacher'"
    make gpu-check-quick                  # the student's and the teacher's update, for an H100
    make gpu-check ARGS=--list

Needs JAX's CUDA plugin, ptxas and the CUDA runtime, which `make gpu-wheels` puts into build/gpu, or
`jax[cuda12]`; no GPU, no driver; `libtpu` for the TPU. XLA ends the process where it cannot compile
something, so each program is compiled in one of its own. Asked of every program:

- it compiles, with XLA's default flags but for autotuning, which needs the device;
- convolutions compute in bfloat16, channels last; no kernel copies or transposes more than 8 MB;
- the state is donated, and what the program needs at once fits what JAX takes of the card's memory;
- devices send each other the gradients and no maps, unless the method compares all clips.

The least time of a step is an ESTIMATE, not a measurement: the sum over all kernels of counted
operations at the published rate or counted bytes at the published bandwidth, whichever is longer.
No launch, no latency, no cache, nothing of what cuDNN does inside is in it.
"""

import argparse
import difflib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import gpu_cards, gpu_page

LARGE = 8e6  # bytes of a copy
COMMON = ("student", "teacher", "student, 32 clips", "teacher, 32 clips", "baseline")
COMMON += ("evaluation of the student",)
ROOT = Path(__file__).parent.parent
QUICK = ("student", "teacher")  # on one H100: what the tests compile


def compile_one(name: str, devices: int, card_name: str) -> dict:
    """In this process: what the compiled program holds, needs and sends."""
    import jax
    from jax.experimental import topologies

    from benchmarks import gpu_cases, hlo

    case = find(gpu_cases.all_cases(), name, devices)
    card = gpu_cards.card(card_name)
    jax.devices()  # finds the plugin
    if card.platform == "cuda":
        options = {"target_config": card.target, "topology": f"1x{devices}x1"}
        topology = topologies.get_topology_desc(platform="cuda", **options)
    else:
        topology = topologies.get_topology_desc(card.target, platform="tpu")
    lowered, state, gradients = gpu_cases.lower(case, topology.devices[:devices])
    begin = time.monotonic()
    compiled = lowered.compile()
    seconds = time.monotonic() - begin
    text = compiled.as_text()
    if kept := os.environ.get("GPU_CHECK_TEXT"):
        Path(kept).write_text(text)
    memory = compiled.memory_analysis()
    program = hlo.Program(text)
    kernels = list(program.kernels())
    flops, moved = hlo.total_flops(kernels), sum(k.times * k.bytes for k in kernels)
    least = {
        other.name: sum(k.times * other.seconds(k.flops, k.bytes) for k in kernels)
        for other in map(gpu_cards.card, gpu_cards.NAMES)
        if other.platform == card.platform
    }
    return {
        "compile_seconds": seconds,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "held_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "state_bytes": state,
        "gradient_bytes": gradients,
        "kernels": sum(k.times for k in kernels),
        "flops": flops,
        "bytes": moved,
        "least_seconds": least,
        "convolutions": [describe(*found) for found in program.convolutions()],
        "copies": [[c.name, c.shapes[0].bytes] for c in program.rearrangements(LARGE)],
        "collectives": program.collectives(),
    }


def describe(made, operands) -> list[str]:
    """Layout and types of a convolution."""
    types = {shape.dtype for shape in (*operands[:2], made.shapes[0])}
    return [made.attribute(r"dim_labels=(\S+?),"), "/".join(sorted(types))]


def find(cases: list, name: str, devices: int):
    for case in cases:
        if (case.name, case.devices) == (name, devices):
            return case
    raise SystemExit(f"no case {name!r} on {devices} devices; --list names them")


def faults(case, card: gpu_cards.Card, found: dict) -> list[str]:
    """What is wrong with a compiled program, in words; empty when nothing is."""
    wrong = []
    half = case.program != "exported" and case.fields.get("dtype") != "float32"
    if card.platform == "cuda":
        odd = [made for made in found["convolutions"] if not made[0].startswith("b01f_")]
        if odd:
            wrong.append(f"{len(odd)} convolutions are not channels-last ({odd[0][0]})")
        if half and (odd := [m for m in found["convolutions"] if m[1] != "bf16"]):
            wrong.append(f"{len(odd)} convolutions are not bfloat16 ({odd[0][1]})")
    if found["copies"]:
        name, size = max(found["copies"], key=lambda copy: copy[1])
        wrong.append(f"{len(found['copies'])} large copies, {name} of {size / 1e6:.0f} MB")
    if found["alias_bytes"] < found["state_bytes"]:
        missing = found["state_bytes"] - found["alias_bytes"]
        wrong.append(f"{missing / 1e6:.1f} MB of the state are not donated")
    if found["held_bytes"] > card.memory:
        wrong.append(
            f"needs {found['held_bytes'] / 1e9:.1f} GB, JAX takes {card.memory / 1e9:.1f}: smaller "
            "batch, accumulation or remat"
        )
    gathered = sum(size for kind, size in found["collectives"] if kind != "all-reduce")
    if gathered > 1e6 and not case.relational:
        wrong.append(f"devices gather {gathered / 1e6:.1f} MB though no method compares clips")
    reduced = sum(size for kind, size in found["collectives"] if kind == "all-reduce")
    gradients = found["gradient_bytes"] if case.devices > 1 else 0
    if not gradients <= reduced <= 1.05 * gradients + 1e6:  # with statistics and terms
        wrong.append(
            f"devices average {reduced / 1e6:.1f} MB, and gradients are {gradients / 1e6:.1f} MB"
        )
    return wrong


def run_one(case, card: str, timeout: float, cache: str) -> dict:
    """The case in a process of its own; its faults, or the compiler's last words."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "found.json")
        command = [sys.executable, "-m", "benchmarks.gpu_check", f"--child={path}"]
        command += [f"--only={case.name}", f"--devices={case.devices}", f"--cards={card}"]
        kernels = Path(cache, f"{card}-{threading.get_ident()}")
        made = {"case": case.name, "devices": case.devices, "card": card, "clips": case.clips}
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment(kernels),
                capture_output=True,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            return made | {"faults": [f"not compiled in {timeout:.0f} s"]}
        if done.returncode or not path.exists():
            return made | {"faults": [last_words(done.stderr, done.returncode)]}
        found = json.loads(path.read_text())
    wrong = faults(case, gpu_cards.card(card), found)
    found["convolutions"] = len(found["convolutions"])
    return made | found | {"faults": wrong}


def environment(kernels: Path) -> dict[str, str]:
    """A child's variables; kernels that another program had are not compiled again but read there.

    That is half of the time. jaxlib before 0.11 reads them where LLVM compiles in parts only; later
    ones do not know that flag, and XLA ends a process that is given one it does not know.
    """
    flags = ["--xla_gpu_autotune_level=0", f"--xla_gpu_kernel_cache_file={kernels}"]
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags.append("--xla_gpu_enable_llvm_module_compilation_parallelism=true")
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several compile at once; none has a chip
        "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip(),
    }


def last_words(text: str, code: int) -> str:
    """Why a child ended: the compiler's complaint, or the last line of a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "Check failed" in line or "Error" in line]
    said = (telling or lines or ["no word"])[-1]
    return f"does not compile (exit code {code}): {said[-300:]}"


def wanted(cards: list[str], only: list[str]) -> list[tuple]:
    """Pairs of case and card: everything on the H100, the common programs on the others."""
    from benchmarks import gpu_cases

    cases = gpu_cases.all_cases()
    names = {case.name for case in cases}
    for name in only:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise SystemExit(f"error: unknown program {name!r}; {meant}--list names all")
    if only:
        return [(case, card) for card in cards for case in cases if case.name in only]
    pairs = [(case, card) for case in cases for card in cards if fits(case, card)]
    return sorted(pairs, key=lambda pair: pair[0].name not in COMMON)


def fits(case, card: str) -> bool:
    """Everything for one card, for the others what everybody runs; a TPU has four chips."""
    devices = 4 if card == "v5e" else 1
    return card == gpu_page.EVERYTHING or (case.name in COMMON and case.devices == devices)


def main() -> int:
    arguments = parser().parse_args()
    if arguments.child:
        [card], [name] = arguments.cards, arguments.only
        arguments.child.write_text(json.dumps(compile_one(name, arguments.devices, card)))
        return 0
    if arguments.quick:
        arguments.cards, arguments.only, arguments.devices = [gpu_page.EVERYTHING], [*QUICK], 1
        arguments.jobs = len(QUICK)
    pairs = chosen(arguments)
    if arguments.list:
        for case, card in pairs:
            print(f"{card:8} {case.devices} {case.name}")
        return 0
    check_environment({card for _, card in pairs})
    if arguments.out:
        gpu_page.split(arguments.out)
    kept = {} if arguments.quick else load(arguments.results)
    results, begin = dict(kept), time.monotonic()

    def one(pair) -> None:
        case, card = pair
        key = f"{card}|{case.devices}|{case.name}"
        if key not in kept:
            results[key] = run_one(case, card, arguments.timeout, cache)
            save(arguments.results, results)
        print(line(results[key]), flush=True)

    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            list(pool.map(one, pairs))
        except KeyboardInterrupt as error:
            pool.shutdown(cancel_futures=True)
            said = f"interrupted; the same command goes on from {arguments.results}"
            raise SystemExit(said) from error
    made = [results[f"{card}|{case.devices}|{case.name}"] for case, card in pairs]
    failed = [result for result in made if result["faults"]]
    if arguments.out:
        gpu_page.write(arguments.out, list(results.values()))
    print(f"{len(made) - len(failed)} of {len(made)} programs are well", end="")
    print(f", {time.monotonic() - begin:.0f} s; {arguments.results}")
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    names = list(gpu_cards.NAMES)
    made.add_argument("--cards", type=lambda text: text.split(","), default=names, help="with ,")
    made.add_argument("--only", type=lambda text: text.split(";"), default=[], help="with ;")
    made.add_argument("--devices", type=int, default=0, help="only programs for so many")
    made.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    made.add_argument("--timeout", type=float, default=1800, help="seconds a program may take")
    made.add_argument(
        "--results",
        type=Path,
        default=Path("runs/gpu_check.json"),
        help="what is in there is not compiled again; remove it after a change",
    )
    made.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)}, one H100")
    made.add_argument("--out", type=Path, help="the page with the tables, docs/performance.md")
    made.add_argument("--list", action="store_true")
    made.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return made


def chosen(arguments: argparse.Namespace) -> list[tuple]:
    """What is to be compiled. Exits with a line that says what cannot be asked for."""
    for name in arguments.cards:
        try:
            gpu_cards.card(name)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from error
    for name in ("jobs", "timeout"):
        if not getattr(arguments, name) > 0:
            raise SystemExit(f"error: --{name}={getattr(arguments, name)}; it must be above 0")
    pairs = wanted(arguments.cards, arguments.only)
    counts = sorted({case.devices for case, _ in pairs})
    if arguments.devices not in (0, *counts):
        raise SystemExit(f"error: no program for {arguments.devices} devices; choose from {counts}")
    return [pair for pair in pairs if arguments.devices in (0, pair[0].devices)]


def check_environment(cards: set[str]) -> None:
    """Exits with a line that says what to install."""
    from importlib.util import find_spec

    gpus = cards - {"v5e"}
    if gpus and not (find_spec("jax_cuda12_plugin") or find_spec("jax_cuda13_plugin")):
        raise SystemExit(
            "error: compiling for a GPU needs JAX's CUDA wheels: pip install 'jax[cuda12]', "
            "or make gpu-check, which fetches what is needed of them"
        )
    if "v5e" in cards and not find_spec("libtpu"):
        raise SystemExit(
            f"error: compiling for a TPU needs pip install libtpu; without it use --cards="
            f"{','.join(name for name in gpu_cards.NAMES if name != 'v5e')}"
        )


def load(path: Path) -> dict:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"error: {path} holds no results ({error}); remove it, or name another by --results"
        ) from error


def save(path: Path, results: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1))


def line(result: dict) -> str:
    name = f"{result['card']:8} x {result['devices']}  {result['case'][:34]:34}"
    if "held_bytes" not in result:
        return f"{name}  BAD   {'; '.join(result['faults'])}"
    word = "BAD " if result["faults"] else "well"
    told = f"{name}  {word} {result['held_bytes'] / 1e9:6.2f} GB  "
    told += f"estimate ≥ {result['least_seconds'][result['card']] * 1e3:6.2f} ms"
    return "\n    ".join([told, *result["faults"]])


if __name__ == "__main__":
    sys.exit(main())

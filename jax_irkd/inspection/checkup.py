"""Whether a machine is ready to train: what `jax_irkd.doctor` examines, a function a topic."""

import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict
from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Console

from jax_irkd.data.spec import ROLES
from jax_irkd.errors import UserError, plural
from jax_irkd.host.files import expanded
from jax_irkd.host.interrupts import Interrupted
from jax_irkd.inspection.lines import GREEN, RED, YELLOW, Line

# Distributions by the name they are imported under, in the order shown.
SHOWN = {
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax-checkpoint": "orbax.checkpoint",
    "grain": "grain",
    "tensorflow-datasets": "tensorflow_datasets",
    "array-record": "array_record",
    "av": "av",
    "opencv-python-headless": "cv2",
}
PYTHON = ("3.11", "3.14")  # from the first on, before the second
CODECS = ("h264", "hevc", "mpeg4", "mjpeg")
MEMORY = (2e9, 6e9)  # Bytes: less than the first is red, less than the second yellow.
DISK = (5e8, 5e9)
CLASSES = 60  # their number changes next to nothing


def check_versions() -> list[Line]:
    """Python, and every distribution the package requires."""
    version = platform.python_version()
    good = Version(PYTHON[0]) <= Version(version) < Version(PYTHON[1])
    remedy = "" if good else f"use Python {PYTHON[0]} or later, before {PYTHON[1]}"
    lines = [Line(GREEN if good else YELLOW, "python", f"{version}, {sys.executable}", remedy)]
    wanted = {r.name: r for r in _requirements()}
    for name in [*SHOWN, *sorted(set(wanted) - set(SHOWN))]:
        line = check_distribution(name, SHOWN.get(name), wanted.get(name))
        if name in SHOWN or line.colour != GREEN:
            lines.append(line)
    return lines


def _requirements() -> list[Requirement]:
    try:
        texts = importlib.metadata.requires("jax-irkd") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = [Requirement(text) for text in texts]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]


def check_distribution(name: str, module: str | None, wanted: Requirement | None) -> Line:
    """One distribution: installed, recent enough, and, where `module` is named, importable."""
    specifier = str(wanted.specifier) if wanted else ""
    install = f"pip install '{name}{specifier}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Line(RED, name, "is not installed", install)
    try:
        if module:
            importlib.import_module(module)
    except Exception as error:  # A broken library fails in any way when it is loaded.
        reason = f"{version} cannot be imported ({type(error).__name__}: {_short(error)})"
        return Line(RED, name, reason, f"pip install --force-reinstall '{name}{specifier}'")
    if wanted and not wanted.specifier.contains(version, prereleases=True):
        return Line(YELLOW, name, f"{version}, but {specifier} is asked for", install)
    return Line(GREEN, name, version)


def check_codecs() -> list[Line]:
    """What PyAV can read."""
    import av

    missing = [name for name in CODECS if name not in av.codecs_available]
    if missing:
        remedy = "pip install --force-reinstall --only-binary=av av"
        return [Line(YELLOW, "video", f"PyAV cannot decode {', '.join(missing)}", remedy)]
    return [Line(GREEN, "video", f"reads {', '.join(CODECS)}")]


def check_devices(config: ConfigDict | None) -> list[Line]:
    """What JAX computes on, and whether the config's batches can be divided by it."""
    import jax

    from jax_irkd.host import devices, gpus
    from jax_irkd.training import setup

    try:
        found = devices.local()
    except UserError as error:
        said = str(error).removesuffix(f"; {devices.NO_DEVICE}")
        return [Line(RED, "devices", said, devices.NO_DEVICE)]
    kinds = sorted({device.device_kind for device in found})
    text = f"{len(found)} x {', '.join(kinds)} ({jax.default_backend()})"
    lines = [Line(GREEN, "devices", text)]
    if jax.default_backend() == "cpu" and (expected := gpus.expected()):
        why, remedy = expected
        remedy = f"{remedy}, or unset JAX_PLATFORMS" if jax.config.jax_platforms else remedy
        lines = [Line(YELLOW, "devices", f"{text}, though {why}", remedy)]
    for role in ("teacher", "student") if config else ():
        try:
            setup.check_shares(config, role)
        except UserError as error:
            lines.append(Line(RED, f"{role} batch", str(error)))
    return lines


def check_memory() -> list[Line]:
    """Main memory that is free, and what the devices have."""
    import jax

    free = _free_memory()
    if free is None:
        lines = [Line(GREEN, "memory", "unknown on this system")]
    else:
        remedy = "close other programs, or set smaller batches and fewer threads (input.threads=2)"
        lines = [_graded("memory", free, MEMORY, "free", remedy)]
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats:
            used = stats.get("bytes_in_use", 0) / 1e9
            text = f"{stats['bytes_limit'] / 1e9:.1f} GB for JAX, {used:.1f} GB in use"
            lines.append(Line(GREEN, f"memory of {device}", text))
    return lines


def check_needs(config: ConfigDict) -> list[Line]:
    """What the config's phases hold, as `inspect config` reckons it, beside what there is."""
    import jax

    from jax_irkd.inspection import cost
    from jax_irkd.training import setup

    largest = max(cost.plan(config, None, classes=CLASSES), key=lambda part: part.needed)
    wanted, device = largest.needed, jax.local_devices()[0]
    count = config.num_devices or jax.local_device_count()
    if device.platform == "cpu":  # all of them share the main memory
        wanted, there = wanted * count, _free_memory()
    else:
        there = (device.memory_stats() or {}).get("bytes_limit")
    text = f"the {largest.name} holds up to {wanted / 1e9:.1f} GB"
    if there is None or wanted <= there:
        return [Line(GREEN, "needs", text)]
    text = f"{text} (an upper estimate), {there / 1e9:.1f} GB are there"
    role = ROLES[largest.modality]
    remedy = setup.too_little_memory(config, role, count)
    return [Line(RED if wanted > 2 * there else YELLOW, "needs", text, remedy)]


def _free_memory() -> int | None:
    """Bytes available to this process: of the machine and, where set, of its control group."""
    limits = []
    with contextlib.suppress(OSError, ValueError, StopIteration, IndexError):
        rows = Path("/proc/meminfo").read_text().splitlines()
        row = next(row for row in rows if row.startswith("MemAvailable"))
        limits.append(1024 * int(row.split()[1]))
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        limits.append(limit - int((group / "memory.current").read_text()))
    return min(limits, default=None)


def check_disk(folders: dict[str, Path]) -> list[Line]:
    """Free space where runs and data go, and whether one may write there."""
    lines = []
    for topic, folder in folders.items():
        place = expanded(folder).absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        remedy = f"free some space, or choose another {topic}"
        line = _graded(f"disk of {topic}", free, DISK, f"free for {folder}", remedy)
        if not os.access(place, os.W_OK):
            colour = RED if topic == "workdir" else YELLOW
            line = Line(colour, line.topic, f"{place} is not writable", f"choose another {topic}")
        lines.append(line)
    return lines


def _graded(topic: str, size: int, limits: tuple[float, float], what: str, remedy: str) -> Line:
    colour = RED if size < limits[0] else YELLOW if size < limits[1] else GREEN
    return Line(colour, topic, f"{size / 1e9:.1f} GB {what}", "" if colour == GREEN else remedy)


def check_cache() -> list[Line]:
    """The folder that keeps compiled programs from one start to the next."""
    import jax

    from jax_irkd.host import devices

    if not jax.config.jax_compilation_cache_dir:
        devices.start(distributed="off")
    if not jax.config.jax_compilation_cache_dir:
        remedy = "set XDG_CACHE_HOME to a folder; every start compiles anew until then"
        return [Line(YELLOW, "cache", "this user has no home folder", remedy)]
    folder = Path(jax.config.jax_compilation_cache_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        remedy = "set XDG_CACHE_HOME to a folder that is; every start compiles anew until then"
        return [Line(YELLOW, "cache", f"{folder} is not writable ({error.strerror})", remedy)]
    return [Line(GREEN, "cache", f"compiled programs are kept in {folder}")]


def check_data(config: ConfigDict | None) -> list[Line]:
    """Is the config's dataset there, and can its clips be read."""
    from jax_irkd.training.selection import readable
    from jax_irkd.training.setup import make_reader, open_data

    if config is None:
        return [Line(YELLOW, "data", "not looked for", "name a config: --config=configs/demo.py")]
    counts = {}
    try:
        dataset = open_data(config)
        for split in ("train", "test"):
            reader = make_reader(config, dataset, split, readable(config, dataset, split))
            counts[split] = len(reader.records)
            if reader.centre(0)["mask"] == 0:
                remedy = f"python -m jax_irkd.build {dataset.name} --overwrite --manual_dir=RAW"
                return [Line(RED, "data", f"the first {split} clip cannot be decoded", remedy)]
    except UserError as error:
        text, _, remedy = str(error).partition("; ")
        return [Line(RED, "data", text, remedy)]
    said = ", ".join(f"{count} {split} clips" for split, count in counts.items())
    return [Line(GREEN, "data", f"{dataset.name}: {said}, {len(dataset.class_names)} classes")]


def check_weights(config: ConfigDict | None) -> list[Line]:
    """What the config's networks start from."""
    from jax_irkd.inspection import beginnings

    return beginnings.check(config) if config else []


def check_training() -> list[Line]:
    """Two steps of a tiny network on all devices, through the loop that trains the real ones."""
    from jax_irkd.training import probe

    begin, spoken = time.monotonic(), io.StringIO()
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(spoken):
            losses = probe.train_two_steps(Path(folder))
    except Interrupted:  # it offers to go on in a folder that is gone
        raise KeyboardInterrupt from None
    except Exception as error:  # Whatever fails here would fail in training.
        remedy = "the lines above say why, or run with JAX_PLATFORMS=cpu to see if it is the device"
        said = _short(error).partition("; ")[0]  # not what to do in the temporary folder
        return [Line(RED, "training", f"{type(error).__name__}: {said}", remedy)]
    said = f"2 steps, loss {losses[0]:.3f} then {losses[1]:.3f}, saved and tested"
    text = f"{said}, {time.monotonic() - begin:.0f} s"
    return [Line(GREEN, "training", text)]


def check_programs(argv: Sequence[str]) -> list[Line]:
    """The config's own steps, compiled for the devices here; nothing on CPUs."""
    import jax

    from jax_irkd.inspection import compilation

    if jax.default_backend() == "cpu":
        return []
    command = [sys.executable, "-m", "jax_irkd.doctor", *argv, "--programs"]
    found = compilation.in_a_process(command)
    return [Line(GREEN if one.good else RED, *one[1:]) for one in found]


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"


def examine(
    config: ConfigDict | None, workdir: Path, argv: Sequence[str] = ()
) -> list[Callable[[], list[Line]]]:
    """The checks, in the order in which one explains the next."""
    folders = {"workdir": workdir}
    if config is not None:
        folders["data_dir"] = Path(config.dataset.data_dir)
    checks = [
        *(check_versions, check_codecs),
        lambda: check_devices(config),
        check_memory,
        lambda: check_disk(folders),
        check_cache,
        *(lambda check=check: check(config) for check in (check_data, check_weights)),
        check_training,
    ]
    more = [lambda: check_needs(config), lambda: check_programs(argv)]
    return checks if config is None else [*checks, *more]


def report(config: ConfigDict | None, workdir: Path, argv: Sequence[str], console: Console) -> int:
    """Run every check and show what it found; 1 with a red line, else 0."""
    colours = []
    for check in examine(config, workdir, argv):
        try:
            lines = check()
        except Exception as error:  # One check that breaks must not hide the others.
            remedy = "correct the red lines above first"
            lines = [Line(RED, "check", f"{type(error).__name__}: {_short(error)}", remedy)]
        for line in lines:
            show(line, console)
            colours.append(line.colour)
    red, yellow = colours.count(RED), colours.count(YELLOW)
    found = f"{plural(red, 'error')}, {plural(yellow, 'warning')}"
    verdict = (found, RED) if red else (found, YELLOW) if yellow else ("all is well", GREEN)
    console.print(verdict[0], style=verdict[1], highlight=False)
    return int(red > 0)


def show(line: Line, console: Console) -> None:
    """One finding as a line, and its remedy as another."""
    mark = {GREEN: "ok", YELLOW: "warning", RED: "error"}[line.colour]
    options = {"highlight": False, "markup": False, "soft_wrap": True}
    console.print(f"{mark:7}  {line.topic}: {line.text}", style=line.colour, **options)
    if line.remedy:
        console.print(f"         -> {line.remedy}", **options)

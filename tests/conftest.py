"""Eight virtual CPU devices, shape checks on the pure modules, and bounded memory, for all."""

import gc
import os
import signal
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    # The programs are tiny: compiling them takes longer than running them, a third of it so.
    " --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false"
    # The other core runs tests of its own.
    " --xla_cpu_parallel_codegen_split_count=1"
).strip()
# Many tests build the same program: compile it once.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Nobody reads which line of ours an operation of a compiled program comes from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import jaxtyping
import pytest

# The `&` of a script has a program ignore Ctrl-C, which tests send to themselves and others.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKED = [
    "distillers",
    "models",
    "training.steps",
    "metrics.classification",
    "data.sampling",
    "data.augment",
]
jaxtyping.install_import_hook([f"jax_irkd.{name}" for name in CHECKED], "beartype.beartype")


def pytest_collection_modifyitems(items):
    """Files with slow tests first: two workers that take a file each then end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def free_compiled_programs():
    """Every compiled program holds memory mappings, and Linux lets a process have 65,530.

    One worker of the whole suite reaches them; XLA then crashes where an allocation fails.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def signals_as_they_were():
    """What ends a process is heard by whom it was before: a later test may send it to itself."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    left = {n.name: signal.getsignal(n) for n in numbers if signal.getsignal(n) != before[n]}
    for number, handler in before.items():
        if handler is not None:
            signal.signal(number, handler)
    assert not left, f"handlers stay behind: {left}"

"""What a device can do at most, and what a compiled program asks of it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import hlo
from jax_irkd.models import winograd


class Ceilings(NamedTuple):
    """Operations and bytes a second of a large matrix product and a large copy, measured here."""

    flops: float
    bytes: float


class Cost(NamedTuple):
    """What one call of a program needs: operations, bytes read and written, bytes held at once.

    `kernels` are the operations and bytes of each launch, where they can be told apart.
    """

    flops: float
    bytes: float
    memory: float
    kernels: tuple[tuple[float, float], ...] = ()

    def seconds(self, ceilings: Ceilings) -> float:
        """The least time: operations at the one ceiling, or bytes at the other, of each kernel."""
        return sum(
            max(flops / ceilings.flops, moved / ceilings.bytes)
            for flops, moved in self.kernels or [(self.flops, self.bytes)]
        )


def ceilings(half: bool, size: int = 0, megabytes: int = 0) -> Ceilings:
    """Measured on the default device: a product in bfloat16 (`half`) or float32, a float32 copy.

    On a CPU NumPy's product competes, and the faster of the two is the ceiling.
    """
    on_cpu = jax.devices()[0].platform == "cpu"
    size = size or (2048 if on_cpu else 8192)
    megabytes = megabytes or (256 if on_cpu else 2048)
    dtype = jnp.bfloat16 if half else jnp.float32
    keys = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (size, size), dtype) for key in keys)
    product = jax.jit(jnp.matmul)
    seconds = _best(lambda: product(left, right).block_until_ready())
    if on_cpu and not half:
        arrays = np.asarray(left), np.asarray(right)
        seconds = min(seconds, _best(lambda: np.matmul(*arrays)))
    values = jnp.zeros(megabytes * 2**18, jnp.float32)
    copy = jax.jit(lambda x: x + 1)  # A plain copy could be left out by the compiler.
    moved = _best(lambda: copy(values).block_until_ready())
    return Ceilings(2 * size**3 / seconds, 2 * values.nbytes / moved)


def _best(call: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest call: a ceiling is what the device can do undisturbed."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def needs_of(lower: Callable[[], object]) -> Cost:
    """What the program that `lower` returns needs, were its convolutions the plain ones.

    Winograd's, on CPUs, have fewer operations and lie in loops, whose bodies XLA counts once. The
    memory is that of the program as it runs.
    """
    if jax.default_backend() != "cpu":
        lowered = lower()
        return cost(lowered, lowered.compile())
    with plain_convolutions():
        lowered = lower()
        plain = cost(lowered, lowered.compile())
    lowered = lower()
    return plain._replace(memory=cost(lowered, lowered.compile()).memory)


@contextlib.contextmanager
def plain_convolutions() -> Iterator[None]:
    """Programs traced inside convolve as the compiler would."""
    jax.clear_caches()  # a program that was traced before would be taken from there
    with mock.patch.object(winograd, "NARROWEST", sys.maxsize):
        yield
    jax.clear_caches()


def cost(lowered, compiled) -> Cost:
    """Counted, not measured.

    Bytes are those of the compiled program, every input and output of a fused kernel once; caches
    are not reckoned with. On GPUs, where XLA counts no operations of the libraries that it calls
    and none before it compiled, both are read from the compiled program, kernel by kernel.
    """
    memory = compiled.memory_analysis()
    held = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
    if jax.default_backend() == "gpu":
        found = list(hlo.Program(compiled.as_text()).kernels())
        kernels = tuple(
            (sum(kernel.flops.values()), kernel.bytes)
            for kernel in found
            for _ in range(kernel.times)
        )
        return Cost(*map(sum, zip(*kernels)), float(held), kernels)
    written, final = _analysis(lowered), _analysis(compiled)
    return Cost(written.get("flops", 0.0), final.get("bytes accessed", 0.0), float(held))


def _analysis(stage) -> dict[str, float]:
    found = stage.cost_analysis()
    return dict((found[0] if isinstance(found, list) else found) or {})

"""Programs of these tests run once for microseconds: compile them without optimisations."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compile():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # hundreds of small programs, of no use to other tests

"""Operations are counted by hand, and for a GPU as for the processor."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp

import jax_irkd
from jax_irkd.host.operations import operations


def test_a_product_has_two_operations_for_each_of_its_terms():
    product = jax.jit(jnp.matmul)
    left, right = jnp.ones((3, 5)), jax.ShapeDtypeStruct((5, 7), jnp.float32)
    assert operations(product, left, right) == 2 * 3 * 5 * 7


def test_without_the_processor_they_are_unknown(monkeypatch):
    def nothing(backend):
        raise RuntimeError(f"no backend {backend}")

    monkeypatch.setattr(jax, "local_devices", nothing)
    assert math.isnan(operations(jax.jit(jnp.sin), jnp.ones(3)))


def test_nobody_else_asks_jax_which_knows_nothing_of_a_gpu():
    root = Path(jax_irkd.__file__).parent
    asking = {path.name for path in root.rglob("*.py") if "cost_analysis" in path.read_text()}
    assert asking == {"operations.py"}

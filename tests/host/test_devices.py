"""What is settled before JAX is first used."""

import jax
import pytest

from jax_irkd.host import devices, gpus


@pytest.mark.parametrize(
    ("nvidia", "asked", "shared"),
    [
        (False, None, True),
        (True, "cpu", True),
        (True, None, False),
        (True, "cuda,cpu", False),
        (False, "tpu,cpu", True),
    ],
)
def test_threads_share_one_arena_where_the_step_lies_in_it(nvidia, asked, shared, monkeypatch):
    """A GPU's compiler has a thread a core, which one arena would let through one by one."""
    called = []
    monkeypatch.setattr(gpus, "has_driver", lambda: nvidia)
    monkeypatch.setattr(devices, "keep_freed_memory", lambda share: called.append(share))
    monkeypatch.setattr(devices, "_join", lambda distributed: None)
    monkeypatch.setattr(devices, "once", lambda text: None)
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", asked)
        devices.start("off")
    finally:
        jax.config.update("jax_platforms", before)
    assert called == [shared]

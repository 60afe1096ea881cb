"""Builds of these tests encode in their own process: that saves the start of another one."""

import pytest

from jax_irkd.tfds_builders._shared import pool


@pytest.fixture(autouse=True, scope="package")
def inline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "INLINE", True)
        yield

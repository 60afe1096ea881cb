"""Eight virtual CPU devices, and shape checks on the pure modules, for the whole suite."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import jaxtyping  # noqa: E402

CHECKED = ["distillers", "models", "steps", "metrics", "data.sampling", "data.augment"]
jaxtyping.install_import_hook([f"jax_irkd.{name}" for name in CHECKED], "beartype.beartype")

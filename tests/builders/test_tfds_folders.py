"""Both builder folders follow TFDS's conventions, and the tests that lie in them pass."""

import pytest

from jax_irkd.tfds_builders.ntu_rgbd_ir.ntu_rgbd_ir_dataset_builder import Builder as Ntu
from jax_irkd.tfds_builders.ntu_rgbd_ir.ntu_rgbd_ir_dataset_builder_test import *  # noqa: F403
from jax_irkd.tfds_builders.pku_mmd_ir.pku_mmd_ir_dataset_builder import Builder as Pku
from jax_irkd.tfds_builders.pku_mmd_ir.pku_mmd_ir_dataset_builder_test import *  # noqa: F403
from tests.helpers import ROOT

BUILDERS = ROOT / "tfds_builders"


@pytest.mark.parametrize("builder", [Ntu, Pku])
def test_folder(builder, tmp_path):
    folder = BUILDERS / builder.name
    assert builder.code_path == folder / f"{builder.name}_dataset_builder.py"
    for name in ("__init__.py", "checksums.tsv", f"{builder.name}_dataset_builder_test.py"):
        assert (folder / name).is_file()
    metadata = builder.get_metadata()  # Raises for a tag that TFDS does not know.
    assert metadata.tags == ["content.data-type.video"]
    info = builder(data_dir=tmp_path).info
    assert info.citation.startswith("@") and "RGB" in info.description
    assert "Request" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS

"""The builder on generated dummy data.

TFDS's own DatasetBuilderTestCase reads through TensorFlow, which has no reader for ArrayRecord.
"""

import tensorflow_datasets as tfds

from jax_irkd.data.synthetic.raw_ntu import ntu_tree
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders.ntu_rgbd_ir.ntu_rgbd_ir_dataset_builder import Builder


def test_ntu_rgbd_ir_builds_from_dummy_data(tmp_path):
    ntu_tree(tmp_path / "dummy_data", actions=(1, 60))
    for config, clips in (("ten", 6), ("sixty", 12)):
        options = BuildOptions(workers=1)
        builder = Builder(config=config, data_dir=tmp_path / "data", options=options)
        download = tfds.download.DownloadConfig(manual_dir=tmp_path / "dummy_data")
        builder.download_and_prepare(download_config=download)
        assert builder.info.splits.total_num_examples == clips
        assert set(builder.info.splits) == set(Builder.SPLITS)
        for split in Builder.SPLITS:
            for record in builder.as_data_source(split):
                assert record["rgb"][0].shape[-1] == 3 and record["infrared"][0].shape[-1] == 1

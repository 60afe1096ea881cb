"""The builder on generated dummy data.

TFDS's own DatasetBuilderTestCase reads through TensorFlow, which has no reader for ArrayRecord.
"""

import tensorflow_datasets as tfds

from jax_irkd.data.synthetic.raw_ntu import write_video
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders.folder_ir.folder_ir_dataset_builder import Builder


def test_folder_ir_builds_from_dummy_data(tmp_path):
    for label in ("wave", "clap"):
        for number in range(3):
            for kind in ("rgb", "infrared"):
                path = tmp_path / "dummy_data" / kind / label / f"{number}.avi"
                write_video(path, 4, infrared=kind == "infrared", codec="mjpeg")
    builder = Builder(data_dir=tmp_path / "data", options=BuildOptions(workers=1))
    builder.show_progress = False
    download = tfds.download.DownloadConfig(manual_dir=tmp_path / "dummy_data")
    builder.download_and_prepare(download_config=download)
    assert builder.info.features["label"].names == ["clap", "wave"]
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 4,
        "test": 2,
    }
    for split in builder.info.splits:
        for record in builder.as_data_source(split):
            assert record["rgb"][0].shape[-1] == 3 and record["infrared"][0].shape[-1] == 1

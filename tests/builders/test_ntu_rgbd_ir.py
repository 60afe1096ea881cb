"""NTU RGB+D trees, with and without faults, to records. Frame i of a clip shows the number i."""

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jax_irkd import build
from jax_irkd.data.synthetic.raw_ntu import (
    ntu_paths,
    ntu_tree,
    number_of,
    picture,
    plant_ntu_faults,
    write_video,
)
from jax_irkd.tfds_builders.ntu_rgbd_ir import names
from jax_irkd.video.finding import film_name


def run(raw, out, *flags, dataset="ntu_rgbd_ir"):
    return build.main([dataset, f"--manual_dir={raw}", f"--data_dir={out}", "--workers=1", *flags])


def opened(out, config="ten"):
    return tfds.builder_from_directory(Path(out, "ntu_rgbd_ir", config, "1.0.0"))


def report(out, config="ten"):
    return json.loads(Path(out, "ntu_rgbd_ir", config, "1.0.0", "build_report.json").read_text())


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    raw = tmp_path_factory.mktemp("ntu")
    keys = ntu_tree(raw, actions=(1, 10, 11), subjects=(1, 3), codecs=("mpeg4", "h264"))
    return raw, keys


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("built")
    assert run(tree[0], out, "--max_frames=6", "--short_side=40") == 0
    return out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("S001C002P003R002A010_rgb.avi", ("S001C002P003R002A010", 1, 2, 3, 2, 10, "rgb")),
        ("s017c001p040r001a060_IR.AVI", ("S017C001P040R001A060", 17, 1, 40, 1, 60, "infrared")),
        ("S001C001P001R001A001_depth.avi", None),
        ("xS001C001P001R001A001_rgb.avi", None),
        ("S001C001P001R001A001_rgb.avi.part", None),
        ("S001C001P001R001A001.skeleton", None),
        ("S1C1P1R1A1_rgb.avi", None),
    ],
)
def test_names(name, expected):
    assert names.parse(film_name(name)) == (expected and names.ClipName(*expected))


def test_names_of_other_datasets_are_odd():
    assert names.parse(film_name("S001C001P001R001A001_rgb.avi")).odd == ""
    odd = names.parse(film_name("S018C004P041R001A061_rgb.avi")).odd
    assert odd == (
        "setup 18 is not in 1 to 17, camera 4 is not in 1 to 3, subject 41 is not in 1 to 40, "
        "action 61 is not in 1 to 60"
    )


def test_published_lists():
    # 40,320 of 56,880 clips train cross-subject: 20 of 40 subjects; ten classes as the paper's.
    assert len(names.TRAIN_SUBJECTS) == 20 and sum(names.TRAIN_SUBJECTS) == 359
    assert len(set(names.CLASSES)) == 60
    assert names.CLASSES[3] == "brushing hair" and names.CLASSES[59].startswith("walking apart")


def test_records(built, tree):
    builder = opened(built)
    assert builder.info.features["label"].names == list(names.CLASSES[:10])
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {
        "train_subjects_c1": 2,
        "train_subjects_c23": 4,
        "test_subjects_c1": 2,
        "test_subjects_c23": 4,
    }
    seen = []
    for split in names.SPLITS:
        for record in builder.as_data_source(split):
            name = names.parse(record["clip_id"].decode() + "_rgb")
            assert name.split == split
            assert record["label"] == name.action - 1 in (0, 9)
            for field in ("subject", "camera", "setup", "repetition"):
                assert record[field] == getattr(name, field)
            assert (record["rgb_frames"], record["infrared_frames"]) == (12, 10)
            for kind in ("rgb", "infrared"):  # The same moments, as long as both last.
                assert [number_of(f) for f in record[kind]] == [0, 2, 4, 5, 7, 9]
            assert {np.shape(f) for f in record["rgb"]} == {(40, 53, 3)}
            assert {np.shape(f) for f in record["infrared"]} == {(40, 53, 1)}
            assert record["rgb"][0][25, 5, 0] > record["rgb"][0][25, 5, 2] + 60  # Red square.
            seen.append(name.key)
    assert sorted(seen) == sorted(key for key in tree[1] if not key.endswith("A011"))


def test_report_and_metadata(built):
    content = report(built)
    assert (content["built"], content["skipped_count"]) == (12, 0)
    assert content["found"]["rgb"] == content["found"]["infrared"] == 18
    assert sum(content["splits"].values()) == 12
    assert opened(built).info.metadata["max_frames"] == 6
    assert not list(Path(built, "ntu_rgbd_ir", "ten").glob(".encoded/*"))


def test_sixty_takes_every_class(tree, tmp_path):
    assert run(tree[0], tmp_path, dataset="ntu_rgbd_ir/sixty") == 0
    info = opened(tmp_path, "sixty").info
    assert info.features["label"].num_classes == 60
    assert info.splits.total_num_examples == 18


def test_already_built_says_so_and_names_other_options(built, tree, capsys):
    assert run(tree[0], built, "--max_frames=6", "--short_side=40") == 0
    assert "already built" in capsys.readouterr().out
    assert run(tree[0], built, "--max_frames=7", "--short_side=40") == 0
    out = capsys.readouterr().out
    assert "{'max_frames': 6}" in out and "{'max_frames': 7}" in out


def test_overwrite_builds_again(tree, tmp_path):
    assert run(tree[0], tmp_path, "--max_frames=2") == 0
    assert run(tree[0], tmp_path, "--max_frames=3", "--overwrite") == 0
    assert len(opened(tmp_path).as_data_source("test_subjects_c1")[0]["rgb"]) == 3
    # A replacement that fails leaves the old dataset.
    assert run(tmp_path / "ntu_rgbd_ir", tmp_path, "--overwrite") == 2
    assert len(opened(tmp_path).as_data_source("test_subjects_c1")[0]["rgb"]) == 3
    assert not list(tmp_path.glob("ntu_rgbd_ir/ten/replaced*"))


def test_archives_and_folders_mixed(tmp_path):
    raw = tmp_path / "raw"
    keys = ntu_tree(raw, cameras=(1, 2), actions=(1,), zipped=True)  # Two archives.
    again = ntu_tree(raw / "more" / "nturgb+d_rgb_s017", setups=(2,), cameras=(1,), actions=(2,))
    archive = raw / "nturgbd_ir_s001.zip"
    with zipfile.ZipFile(archive) as stored:
        members = {name: stored.read(name) for name in stored.namelist() if name[-1] != "/"}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in members.items():
            target.writestr(name, data)
            target.writestr(f"__MACOSX/{name.replace('/', '/._')}", b"\0\5\x16\7")
    rgb, _ = ntu_paths(tmp_path / "copy", keys[0])  # Unpacked once more, of another length.
    write_video(rgb, 5)
    rgb.rename(raw / rgb.name)
    before = sorted(path for path in raw.rglob("*"))
    assert run(raw, tmp_path / "out") == 0
    assert sorted(path for path in raw.rglob("*")) == before  # Nothing was unpacked.
    content = report(tmp_path / "out")
    assert content["built"] == len(keys) + len(again) and content["found"]["archives"] == 2
    assert content["remarks"] == {
        "duplicate file": 1,
        "short clip": 1,
        "lengths differ by more than 10%": 1,
    }
    assert f"{raw / rgb.name} used" in content["notes"][0]["detail"]
    sources = opened(tmp_path / "out").as_data_source("train_subjects_c1")
    lengths = {r["clip_id"].decode(): r["rgb_frames"] for r in sources}
    assert lengths[keys[0]] == 5 and set(lengths.values()) == {5, 12}


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    raw = tmp_path_factory.mktemp("spoilt")
    keys = ntu_tree(raw, actions=(1, 2, 3))
    return raw, keys, plant_ntu_faults(raw, keys)


def test_every_planted_fault_is_skipped_and_named(spoilt, tmp_path, capsys):
    raw, keys, expected = spoilt
    assert run(raw, tmp_path, "--max_skipped=0.5") == 2
    assert "nobody knows what is missing" in capsys.readouterr().err
    assert run(raw, tmp_path, "--max_skipped=0.5", "--skip_unreadable") == 0
    content = report(tmp_path)
    skipped = {item["name"]: f"{item['reason']} {item['detail']}" for item in content["skipped"]}
    assert skipped.keys() == expected.keys()
    for key, word in expected.items():
        assert word in skipped[key], (key, skipped[key])
    assert content["built"] == len(keys) - len(expected)
    assert [one["reason"] for one in content["unreadable"]] == ["unreadable archive"]
    head = capsys.readouterr().out
    assert "8 skipped (44.4%)" in head and "unreadable video: 6" in head


def test_too_many_skipped_is_refused_and_the_work_is_kept(spoilt, tmp_path, capsys, monkeypatch):
    raw, _, _ = spoilt
    assert run(raw, tmp_path, "--skip_unreadable") == 2
    error = capsys.readouterr().err
    assert "44.4% of the clips would be left out, more than --max_skipped=0.01" in error
    assert "no infrared file: 1" in error and "Traceback" not in error
    assert not Path(tmp_path, "ntu_rgbd_ir", "ten", "1.0.0").exists()
    from jax_irkd.tfds_builders._shared import pool

    encoded = []
    store = pool.encode_into
    monkeypatch.setattr(
        pool, "encode_into", lambda *args: encoded.append(args[-1].key) or store(*args)
    )
    assert run(raw, tmp_path, "--max_skipped=0.445", "--skip_unreadable") == 0
    assert len(encoded) == 6  # Only what gave nothing is tried again.


def test_nothing_usable_is_refused(tmp_path, capsys):
    raw = tmp_path / "raw"
    for key in ntu_tree(raw, cameras=(1,), subjects=(1,)):
        for path in ntu_paths(raw, key):
            path.write_bytes(b"")
    assert run(raw, tmp_path / "out", "--max_skipped=1") == 2
    error = capsys.readouterr().err
    assert "nothing could be built" in error and "is empty (0 bytes)" in error


def test_wrong_folders_say_what_was_looked_for(tree, tmp_path, capsys):
    def error_of(folder):
        assert run(folder, tmp_path / "out") == 2
        text = capsys.readouterr().err
        assert "Traceback" not in text
        return text

    assert "does not exist" in error_of(tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is empty" in error_of(empty) and "rose1.ntu.edu.sg" in error_of(empty)
    assert "no infrared (_ir.avi) clips" in error_of(next(Path(tree[0]).glob("nturgbd_rgb*")))
    assert "no RGB (_rgb.avi) clips" in error_of(next(Path(tree[0]).glob("nturgbd_ir*")))
    write_video(tmp_path / "pku" / "RGB_VIDEO" / "0002-L.avi", 3)
    assert "named as in PKU-MMD (build pku_mmd_ir instead)" in error_of(tmp_path / "pku")


def test_infrared_files_under_rgb_names_are_refused(tmp_path, capsys):
    for key in ntu_tree(tmp_path / "raw", cameras=(1,), actions=(1,)):
        write_video(ntu_paths(tmp_path / "raw", key)[0], 11, infrared=True)
    assert run(tmp_path / "raw", tmp_path / "out") == 2
    assert "2 of 2 RGB videos have no colour" in capsys.readouterr().err


def test_crop_shows_the_infrared_field_of_view(tmp_path):
    raw, key = tmp_path / "raw", "S001C002P001R001A001"
    rgb, infrared = ntu_paths(raw, key)
    scene = picture(5, (256, 192))
    write_video(rgb, [scene] * 9, size=(256, 192), codec="ffv1")
    write_video(infrared, 9, infrared=True)
    crop = {
        "infrared_size": [64, 48],
        "rgb_size": [256, 192],
        "cameras": {"2": [[2, 0, 40], [0, 2, 30]]},
    }
    path = tmp_path / "crop.json"
    path.write_text(json.dumps(crop))
    assert run(raw, tmp_path / "out", f"--crop_file={path}", "--quality=100") == 0
    image = opened(tmp_path / "out").as_data_source("train_subjects_c23")[0]["rgb"][0]
    np.testing.assert_allclose(image, scene[30:126, 40:168], atol=100)  # Chroma is half as fine.
    assert np.abs(image.astype(int) - scene[30:126, 40:168]).mean() < 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a crop file"),
        ('{"rgb_size": [2, 2]}', "has no field 'infrared_size'"),
        (
            '{"infrared_size": [4, 4], "rgb_size": [8, 8], "cameras": {"1": [[1, 0], [0, 1]]}}',
            "needs an invertible 2x3 matrix",
        ),
        ('{"infrared_size": [4, 4], "rgb_size": [8, 8], "cameras": {}}', "has no camera"),
    ],
)
def test_bad_crop_files_are_refused(tree, tmp_path, capsys, content, message):
    path = tmp_path / "crop.json"
    path.write_text(content)
    assert run(tree[0], tmp_path / "out", f"--crop_file={path}") == 2
    error = capsys.readouterr().err
    assert message in error and str(path) in error


def test_inventory_counts_and_names_problems(spoilt, tmp_path, capsys):
    raw, keys, _ = spoilt
    assert run(raw, tmp_path, "--check") == 0
    out = capsys.readouterr().out
    rgb, infrared = len(keys) - 1, len(keys) - 1
    assert f"{rgb}/{infrared}" in out and "S017" in out
    assert "16 of the 9,480 clips of ten have both modalities" in out
    for line in ("no infrared file: 1", "no rgb file: 1", "unreadable archive: 1"):
        assert line in out
    assert "unreadable video: 4" in out  # Two more have whole headers and show when decoding.
    assert "recordings without some actions: 6" in out and "A004, A005" in out
    assert "all of sixty" in out and "GB free" in out
    assert not list(tmp_path.rglob("*.array_record*"))


def test_builder_module_reads_like_any_other_frame_decoder(built):
    # What is stored is plain JPEG: bytes from the record decode with OpenCV alone.
    class Bytes(tfds.decode.SkipDecoding):
        def decode_batch_example_np(self, example):
            return example

    decoders = {"rgb": Bytes(), "infrared": Bytes()}
    source = opened(built).as_data_source("test_subjects_c23", decoders=decoders)
    frame = np.frombuffer(source[0]["infrared"][0], np.uint8)
    assert cv2.imdecode(frame, cv2.IMREAD_UNCHANGED).shape == (40, 53)

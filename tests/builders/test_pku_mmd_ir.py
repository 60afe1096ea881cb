"""PKU-MMD trees and annotation quirks to records. Frame i of every video shows the number i."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jax_irkd import build
from jax_irkd.data import loading
from jax_irkd.data.synthetic.raw_ntu import ntu_tree, number_of, write_video, zip_folder
from jax_irkd.data.synthetic.raw_pku import (
    label_path,
    pku_rows,
    pku_tree,
    plant_pku_faults,
    video_path,
    write_rows,
    write_split,
)
from jax_irkd.pku_mmd.annotations import CLASSES, Instance
from jax_irkd.pku_mmd.files import SPLITS, scan
from jax_irkd.tfds_builders._shared.cache import EncodingTask
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.pairs import FRAMES
from jax_irkd.tfds_builders.pku_mmd_ir import videos


def run(raw, out, *flags):
    return build.main(
        ["pku_mmd_ir", f"--manual_dir={raw}", f"--data_dir={out}", "--workers=1", *flags]
    )


def opened(out):
    return tfds.builder_from_directory(Path(out, "pku_mmd_ir", "1.0.0"))


def report(out):
    return json.loads(Path(out, "pku_mmd_ir", "1.0.0", "build_report.json").read_text())


def by_clip(out):
    builder = opened(out)
    return {
        record["clip_id"].decode(): record | {"split": split}
        for split in builder.info.splits
        for record in builder.as_data_source(split)
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    raw = tmp_path_factory.mktemp("pku")
    return raw, pku_tree(raw, classes=CLASSES)


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("built")
    assert run(tree[0], out, "--max_frames=8") == 0
    return out


@pytest.mark.slow
def test_a_build_with_background_has_one_more_class(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    pku_tree(raw, train=(2,), validation=(291,), views="LM", frames=110)
    for name in ("0002-L", "0002-M", "0291-L", "0291-M"):
        write_rows(label_path(raw, name), [(5, 5, 20, 2), (9, 90, 105, 2)])
    assert run(raw, out, "--max_frames=4", "--background") == 0
    names = opened(out).info.features["label"].names
    assert names == [*CLASSES, "background"]
    found = {key: (r["label"], r["start"], r["stop"]) for key, r in by_clip(out).items()}
    assert found["0002-M-002"] == (51, 28, 81) and len(found) == 12
    capsys.readouterr()
    assert run(raw, out, "--max_frames=4") == 0
    assert "built with {'background': True}, you asked for {'background': False}" in (
        capsys.readouterr().out
    )
    folder = [f"--manual_dir={raw}", f"--data_dir={out}", "--background"]
    assert build.main(["ntu_rgbd_ir", *folder]) == 2
    assert "--background is for pku_mmd_ir" in capsys.readouterr().err


def test_records_hold_exactly_the_annotated_frames(built, tree):
    found = by_clip(built)
    assert len(found) == sum(map(len, tree[1].values())) == 27
    for video, rows in tree[1].items():
        for number, (label, start, end, sure) in enumerate(rows):
            record = found[f"{video}-{number:03d}"]
            assert (record["label"], record["confidence"]) == (label - 1, sure)
            assert (record["start"], record["stop"]) == (start - 1, end)
            assert record["rgb_frames"] == record["infrared_frames"] == end - start + 1
            middles = [start - 1 + int((i + 0.5) * 20 / 8) for i in range(8)]
            assert [number_of(frame) for frame in record["rgb"]] == middles
            assert [number_of(frame) for frame in record["infrared"]] == middles
            assert record["infrared"][0].shape == (48, 64, 1)
            assert record["camera"] == "LMR".index(video[-1]) + 1
            assert record["video"].decode() == video


def test_splits_serve_both_protocols(built):
    videos_of = {}
    for record in by_clip(built).values():
        videos_of.setdefault(record["split"], set()).add(record["video"].decode())
    assert videos_of == {
        "train_subjects_train_views": {"0002-L", "0002-R", "0003-L", "0003-R"},
        "train_subjects_test_views": {"0002-M", "0003-M"},
        "test_subjects_train_views": {"0291-L", "0291-R"},
        "test_subjects_test_views": {"0291-M"},
    }
    assert opened(built).info.features["label"].names == list(CLASSES)


def test_planted_faults_are_named_and_everything_else_is_built(tmp_path, capsys):
    raw = tmp_path / "raw"
    rows = pku_tree(raw, classes=CLASSES)
    expected = plant_pku_faults(raw, rows)
    assert run(raw, tmp_path / "out", "--max_skipped=0.5") == 0
    content = report(tmp_path / "out")
    skipped = {}
    for item in content["skipped"]:
        words = f"{item['reason']} {item['detail']}"
        skipped[item["name"][:6]] = skipped.get(item["name"][:6], "") + words
    assert skipped.keys() == expected.keys()
    for video, word in expected.items():
        assert word in skipped[video], (video, skipped[video])
    assert content["remarks"]["start before frame 1"] == 1
    found = by_clip(tmp_path / "out")
    kept = {video: sum(clip.startswith(video) for clip in found) for video in rows}
    # The first video gains a repaired row and loses the false ones; the truncated one keeps
    # the instances before the fault.
    assert [kept[video] for video in rows] == [4, 0, 1, 0, 0, 3, 3, 3, 3]
    assert found["0002-L-000"]["label"] == 22 and found["0002-L-000"]["rgb_frames"] == 12
    assert "0002-R" in capsys.readouterr().out


def test_a_video_without_annotation_weighs_as_many_instances_as_others(tmp_path, capsys):
    """Two of twelve videos, three instances in each of the others: a sixth, not two of 32."""
    raw = tmp_path / "raw"
    pku_tree(raw, train=(2, 3, 4))
    for name in ("0002-L", "0291-R"):
        label_path(raw, name).unlink()
    assert run(raw, tmp_path / "out", "--max_frames=2", "--max_skipped=0.16") == 2
    said = capsys.readouterr().err
    assert "16.7% of the instances would be left out" in said
    assert "no annotation: 2" in said and "about 4 more instances" in said
    assert run(raw, tmp_path / "out", "--max_frames=2", "--max_skipped=0.17") == 0
    assert report(tmp_path / "out")["skipped_count"] == 6


def test_archives_are_read_in_place(tree, built, tmp_path):
    raw = tmp_path / "raw"
    pku_tree(raw, train=(2,), validation=(291,), views="LM")
    for folder in (raw / "Data" / "RGB_VIDEO", raw / "Label", raw / "Split"):
        zip_folder(folder)
    assert run(raw, tmp_path / "out", "--max_frames=8") == 0
    found, before = by_clip(tmp_path / "out"), by_clip(built)
    assert len(found) == 12
    np.testing.assert_array_equal(found["0002-L-001"]["rgb"], before["0002-L-001"]["rgb"])


def test_lengths_that_differ_a_little_share_a_clock(tmp_path):
    raw = tmp_path / "raw"
    pku_tree(raw, train=(2,), views="LM", infrared_frames=88)
    assert run(raw, tmp_path / "out") == 0
    record = by_clip(tmp_path / "out")["0002-L-002"]
    assert (record["rgb_frames"], record["infrared_frames"]) == (18, 18)  # Of frames 70 to 90.
    for kind in ("rgb", "infrared"):
        assert [number_of(f) for f in record[kind]] == list(range(70, 88))
    remarks = {"lengths differ": 4, "cut off at the end": 4}
    assert report(tmp_path / "out")["remarks"] == remarks


@pytest.mark.parametrize(
    ("frames", "infrared", "rate"), [(90, 88, 30), (88, 90, 30), (90, 44, 15), (88, 45, 15)]
)
@pytest.mark.parametrize("kept", [0, 5])
def test_what_passes_the_end_of_a_film_ends_there_in_both(tmp_path, frames, infrared, rate, kept):
    """RGB frames 70 to 90 of 30 a second are annotated; one of the films ends at frame 88."""
    rgb = write_video(tmp_path / "rgb.avi", frames)
    other = write_video(tmp_path / "infrared.avi", infrared, infrared=True, rate=rate)
    options = BuildOptions(max_frames=kept)
    work = (str(rgb), str(other), [Instance(3, 0, 20, 2), Instance(3, 70, 90, 2)], options)
    result = videos.encode(EncodingTask("0002-L", SPLITS[0], "", work))
    whole, cut = (record.scalars for record in result.records)
    pace = 30 // rate
    assert (whole["rgb_frames"], whole["infrared_frames"]) == (20, 20 // pace)
    assert (cut["rgb_frames"], cut["infrared_frames"]) == (18, 18 // pace)
    first, second = (
        [number_of(loading.decode(frame, kind)) for frame in result.records[1].frames[kind]]
        for kind in FRAMES
    )
    assert max(first) <= 87 and max(second) <= 87 // pace and len(first) >= len(second) > 0
    assert all(abs(a - pace * b) < pace for a, b in zip(first, second) if pace == 1 or kept)
    assert [note.name for note in result.notes if "cut off" in note.reason] == ["0002-L-001"]


def test_other_frame_rates_are_scaled(tmp_path):
    raw = tmp_path / "raw"
    pku_tree(raw, train=(2,), views="LM", infrared_frames=45)
    assert run(raw, tmp_path / "out") == 0
    record = by_clip(tmp_path / "out")["0002-L-001"]
    assert [number_of(f) for f in record["infrared"]] == list(range(20, 30))
    assert (record["rgb_frames"], record["infrared_frames"]) == (20, 10)


def test_missing_videos_and_views_do_not_stop_a_build(tmp_path):
    # The real split files name videos that not every copy has; here nearly all are missing.
    raw = tmp_path / "raw"
    pku_tree(raw, train=(2,), views="LM", validation=(291,))
    names = [f"{n:04d}-{v}" for n in range(2, 300) for v in "LMR"]
    write_split(raw / "Split" / "cross-subject.txt", names[:-30], names[-30:])
    write_split(
        raw / "Split" / "cross-view.txt",
        [n for n in names if n[-1] != "M"],
        [n for n in names if n[-1] == "M"],
    )
    assert run(raw, tmp_path / "out") == 0
    content = report(tmp_path / "out")
    assert len(content["found"]["videos_not_on_disk"]) == len(names) - 4
    assert content["built"] == 12


def test_wrong_folders_say_what_is_missing(tmp_path, capsys):
    def error_of(folder):
        assert run(folder, tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return error

    ntu_tree(tmp_path / "ntu", cameras=(1,), subjects=(1,), actions=(1,))
    assert "named as in NTU RGB+D (build ntu_rgbd_ir instead)" in error_of(tmp_path / "ntu")
    raw = tmp_path / "raw"
    write_video(video_path(raw, "0002-L", "rgb"), 60)
    assert "no infrared videos in" in error_of(raw)
    write_video(video_path(raw, "0002-L", "infrared"), 60, infrared=True)
    (raw / "Label_PKUMMD.7z").write_bytes(b"7z")
    error = error_of(raw)
    assert "no label files" in error and "unpack label_pkummd.7z first" in error
    write_rows(label_path(raw, "0002-L"), pku_rows(60))
    assert "no cross-subject.txt in" in error_of(raw)
    split = raw / "Split" / "cross-subject.txt"
    write_split(split, ["0002-L"], ["0002-L"])
    assert "no cross-view.txt" in error_of(raw) or "0002-L" in error_of(raw)
    write_split(raw / "Split" / "cross-view.txt", ["0002-L"], ["0003-M"])
    assert "names 0002-L for training and for validation" in error_of(raw)
    split.write_text("0002-L\n")
    assert "cross-subject.txt has 0 training and 0 validation videos" in error_of(raw)


def test_inventory(tmp_path, capsys):
    raw = tmp_path / "raw"
    rows = pku_tree(raw, train=(2, 3), views="LM", classes=CLASSES[::-1])
    plant_pku_faults(raw, rows)
    assert run(raw, tmp_path / "out", "--check") == 0
    out = capsys.readouterr().out
    assert "of the 1,076 videos are complete" in out and "21,545" in out
    for line in ("no rgb file: 3", "no annotation: 1", "start after end: 1", "class name differs"):
        assert line in out
    assert "all of PKU-MMD" in out


def test_scan_knows_which_labels_belong_to_which_video(tree):
    found = scan(tree[0])
    assert found.splits["0002-M"] == "train_subjects_test_views"
    assert len(found.labels) == len(found.videos) == 9 and not found.notes

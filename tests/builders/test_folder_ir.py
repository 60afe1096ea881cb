"""One's own classes, folder by folder, to records. Frame i of a clip shows the number i."""

import json
import re
import shutil
from pathlib import Path

import av
import pytest

from jax_irkd import build
from jax_irkd.configs import custom
from jax_irkd.data import loading
from jax_irkd.data.synthetic.raw_ntu import number_of, picture, write_video, zip_folder
from jax_irkd.tfds_builders._shared.finding import film_name
from jax_irkd.tfds_builders.folder_ir import clips
from jax_irkd.tfds_builders.folder_ir.folder_ir_dataset_builder import Builder
from jax_irkd.tfds_builders.folder_ir.folder_ir_dataset_builder_test import *  # noqa: F403
from jax_irkd.training.setup import make_reader


def write_mp4(path, frames, infrared):
    """H.264 in MP4 with B-frames, as phones and cameras write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(frames):
            image = picture(number, (64, 48), infrared)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def run(raw, out, *flags):
    return build.main(
        ["folder_ir", f"--manual_dir={raw}", f"--data_dir={out}", "--workers=1", *flags]
    )


def touch(root, *names):
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def pairs(*names):
    return [f"{kind}/{name}.mp4" for name in names for kind in ("rgb", "infrared")]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("out")
    for label in ("wave", "Clap hands"):
        for name in ("anna__1", "anna__2", "bert__1", "carl__1"):
            write_mp4(raw / "RGB" / label / f"{name}.mp4", 6, False)
            write_video(raw / "ir" / label / f"{name}.avi", 5, infrared=True, codec="mjpeg")
    touch(raw, "notes.txt", "rgb/loose.mp4")
    write_video(raw / "rgb" / "nod" / "anna__1.avi", 2, codec="mjpeg")
    assert run(raw, out) == 2  # One of nine lacks its infrared file.
    assert run(raw, out, "--max_skipped=0.2") == 0
    return out


def test_records(built):
    dataset = loading.open_dataset("folder_ir", built)
    assert dataset.class_names == ("Clap hands", "wave")
    seen = {}
    for split, records in dataset.splits.items():
        for record in (records[i] for i in range(len(records))):
            key = record["clip_id"].decode()
            label, name = key.split("/")
            assert dataset.class_names[record["label"]] == label
            assert record["subject"].decode() == name.split("__")[0]
            assert (record["rgb_frames"], record["infrared_frames"]) == (6, 5)
            for kind in ("rgb", "infrared"):
                shown = [loading.decode_frame(f, (48, 64), kind) for f in record[kind]]
                # The sixth RGB frame has no infrared one of its moment.
                assert [number_of(image) for image in shown] == list(range(5))
            seen[key] = split
    assert len(seen) == 8
    sides = {key.split("/")[1].split("__")[0]: split for key, split in seen.items()}
    assert all(split == sides[key.split("/")[1].split("__")[0]] for key, split in seen.items())
    assert sorted(sides.values()).count("test") == 1


def test_report_names_what_was_left_out(built):
    content = json.loads((built / "folder_ir" / "1.0.0" / "build_report.json").read_text())
    assert (content["built"], content["found"]["rgb"], content["found"]["infrared"]) == (8, 9, 8)
    place, skip = content["skipped"]
    assert (place["name"], place["reason"]) == ("rgb/loose.mp4", "video in another place")
    assert skip["name"] == "nod/anna__1" and skip["reason"] == "no infrared file"
    assert "distillation needs both" in skip["detail"]
    assert "class without a complete pair" in content["remarks"]


def test_the_custom_config_reads_it(built):
    config = custom.get_config("method=baseline")
    dataset = loading.open_dataset(config.dataset.name, built)
    config.input.num_segments = 2
    config.dataset.infrared_size = (48, 64)
    for split in ("train", "test"):
        reader = make_reader(config, dataset, split, ("infrared",))
        assert reader.centre(0)["clips"]["infrared"].shape == (2, 48, 64, 1)


def test_check_shows_every_class(built, tmp_path, capsys):
    for label in ("nod", "wave"):
        for name in ("1", "2"):
            for kind in ("rgb", "infrared"):
                write_video(tmp_path / kind / label / f"{name}.avi", 3, codec="mjpeg")
    touch(tmp_path, "rgb/wave/3.mp4")
    assert run(tmp_path, built, "--check") == 0
    text = capsys.readouterr().out
    assert "4 pairs of 2 classes; 2 train, 2 test, chosen by name" in text
    assert "no infrared file: 1" in text and "wave" in text and "GB of records" in text


def test_paths():
    def parse(path):
        return clips.parse(path, film_name(path))

    place = parse("a/train/RGB/wave/x.y.MP4")
    assert place == clips.Place("train", "wave", "x.y", "rgb")
    assert place.key == "train/wave/x.y" and place.subject == ""
    assert parse("ir/wave/anna__a__1.avi").subject == "anna"
    for name in ("infrared", "ir", "Thermal", "NIR", "lwir"):
        assert parse(f"{name}/wave/1.mp4").modality == "infrared" and name.lower() in clips.LAYOUT
    for path in ("rgb/x.mp4", "rgb/wave/x.txt", "rgb/wave/deeper/x.mp4", "depth/wave/x.mp4"):
        assert parse(path) is None, path


def test_shares_are_chosen_by_name_alone(tmp_path):
    names = [f"{label}/{i}" for label in ("a", "b") for i in range(10)] + ["c/only"]
    touch(tmp_path, *pairs(*names))
    chosen = clips.splits_of(clips.scan(tmp_path))
    testing = sorted(key for key, split in chosen.items() if split == "test")
    assert [key[0] for key in testing] == ["a", "a", "b", "b"]
    shutil.move(tmp_path / "rgb", tmp_path / "deep" / "rgb")
    shutil.move(tmp_path / "infrared", tmp_path / "deep" / "ir")
    assert clips.splits_of(clips.scan(tmp_path)) == chosen
    thin = clips.tasks_of(clips.scan(tmp_path), clips.BuildOptions())[2]
    assert [(note.name, note.reason) for note in thin] == [("c", "class without test clips")]


def test_train_and_test_folders_decide_and_archives_count_as_folders(tmp_path):
    for split, names in (("train", ["a/1", "b/1", "b/2"]), ("test", ["a/1", "b/9"])):
        touch(tmp_path / split, *pairs(*names))
    expected = {f"train/{n}": "train" for n in ("a/1", "b/1", "b/2")}
    expected |= {"test/a/1": "test", "test/b/9": "test"}
    assert clips.splits_of(clips.scan(tmp_path)) == expected
    zip_folder(tmp_path / "train" / "rgb")
    zip_folder(tmp_path / "test")
    assert clips.splits_of(clips.scan(tmp_path)) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/b/x.mp4"], "no clips in .*: expected rgb/CLASS/NAME.mp4.*1 files, 1 of them videos"),
        (
            ["rgb/a/1.mp4", "rgb/a/2.mp4"],
            "no infrared clips in .*, only 2 .*needs both",
        ),
        (["ir/a/1.mp4"], "no rgb clips in"),
        (["rgb/a/1.mp4", "ir/a/2.mp4"], "no pairs in .*called, for example, a/1 and a/2"),
        ([*pairs("a/1"), *[f"train/{n}" for n in pairs("a/2")]], "move all of them below"),
        ([f"train/{n}" for n in pairs("a/1", "b/1")], "lie below train/; add the other folder"),
        (pairs("a/1", "b/1"), "2 pairs of 2 classes are too few to keep one for testing"),
    ],
)
def test_wrong_folders_are_explained(tmp_path, capsys, names, message):
    touch(tmp_path / "raw", *names)
    assert run(tmp_path / "raw", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


def test_folder_follows_the_conventions_of_tfds(tmp_path):
    assert Builder.name == "folder_ir" and Builder.code_path.parent == Path(clips.__file__).parent
    assert Builder.get_metadata().tags == ["content.data-type.video"]
    assert "one folder per class" in Builder(data_dir=tmp_path).info.description

"""One's own classes, folder by folder, to records. Frame i of a clip shows the number i."""

import collections
import json
import re
import shutil
from pathlib import Path

import av
import cv2
import pytest

from jax_irkd import build
from jax_irkd.configs import custom
from jax_irkd.data import loading
from jax_irkd.data.synthetic.raw_ntu import number_of, picture, write_video, zip_folder
from jax_irkd.errors import UserError
from jax_irkd.tfds_builders.folder_ir import clips
from jax_irkd.tfds_builders.folder_ir.folder_ir_dataset_builder import Builder
from jax_irkd.tfds_builders.folder_ir.folder_ir_dataset_builder_test import *  # noqa: F403
from jax_irkd.tfds_builders.folder_ir.remarks import remarks
from jax_irkd.training.setup import make_reader
from jax_irkd.video.finding import film_name


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
    thin = remarked(tmp_path)
    assert thin["class without test clips"] == ["c"]
    assert thin["classes of unlike size"] == ["c"] and thin["few test clips"] == ["4 test clips"]


def remarked(raw):
    """The names of all remarks on a folder, by what they remark."""
    found, options = clips.scan(raw), clips.BuildOptions()
    names = found.class_names(options.unpaired)
    made = collections.defaultdict(list)
    for note in remarks(found, clips.tasks_of(found, options)[0], names):
        made[note.reason].append(note.name)
    return made


@pytest.mark.parametrize("zipped", [False, True])
def test_films_and_people_that_train_and_test_are_named(tmp_path, zipped):
    """One film under two names, with two classes, in both splits; one person in both."""
    layout = {
        "train": ["a/anna__1", "a/bert__2", "b/bert__3", "b/bert__4", "b/copy"],
        "test": ["a/carl__5", "b/bert__6", "b/again", "a/other"],
    }
    same = {"copy": "3", "again": "4", "other": "6"}  # these hold the film of that number
    for split, names in layout.items():
        for path in pairs(*names):
            name = Path(path).stem.split("__")[-1]
            file = tmp_path / split / path
            file.parent.mkdir(parents=True, exist_ok=True)
            kind = path.split("/")[0]
            file.write_bytes(f"{kind} film {same.get(name, name)}".ljust(99).encode())
        if zipped:
            zip_folder(tmp_path / split / "rgb")
    made = remarked(tmp_path)
    assert made["subject in train and test"] == ["bert"]
    for reason, key in (
        ("one film under two names", "train/b/bert__3"),
        ("one film trains and tests", "test/b/again"),
        ("one film in two classes", "test/a/other"),
    ):
        assert made[reason] == [f"{key} rgb", f"{key} infrared"]


def test_a_class_that_loses_all_its_films_stops_the_build(tmp_path, capsys):
    """It would be an output that nothing trains; what loses its test clips alone is named."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number, label in enumerate("abc"):
        for clip in range(4):
            film = f"{label}/{number}{clip}"
            write_mp4(raw / f"rgb/{film}.mp4", 4 + clip, False)
            coloured = label == "c"  # no infrared film
            write_mp4(raw / f"ir/{film}.mp4", 4 + clip, not coloured)
    assert run(raw, out, "--max_skipped=0.5") == 2
    error = capsys.readouterr().err
    assert "class c: all of its 4 clips are left out" in error and "Traceback" not in error
    write_mp4(raw / "ir/c/20.mp4", 4, True)
    assert run(raw, out, "--max_skipped=0.5") == 0
    report = json.loads((out / "folder_ir/1.0.0/build_report.json").read_text())
    sides = {"class without test clips", "class without train clips"}
    assert sum(note["name"] == "c" and note["reason"] in sides for note in report["notes"]) == 1


def test_frames_of_a_clip_may_have_a_name(tmp_path):
    """As action recognition's tools write them: CLASS/NAME/img_00001.jpg, and numbers alone."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    for label in "ab":
        for clip in ("x0", "x1", "x2"):
            for number in range(4):
                for kind, name in (("rgb", f"img_{number:05}.jpg"), ("ir", f"{number}.png")):
                    file = raw / kind / label / clip / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    image = picture(4 * ord(label) % 64 + number, (64, 48), kind == "ir")
                    cv2.imwrite(str(file), image[..., ::-1])
    assert sorted(clips.scan(raw).pairs) == [f"{c}/x{i}" for c in "ab" for i in range(3)]
    assert run(raw, out) == 0
    assert counts(out) == {"train": 4, "test": 2}


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
            ["rgb/a/1.mp4", "rgb/a/2.mp4", "cam2/a/1.mp4"],
            "no infrared clips in .*, only 2 .*needs both, .*1 videos lie in other places",
        ),
        (["ir/a/1.mp4", "ir/a/2.mp4"], "all clips are of one class, a, and a network needs two"),
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


def films(root, *names):
    for name in names:
        kind = name.split("/")[0]
        path = root / name
        write_video(path, 3, infrared=kind != "rgb", codec="mjpeg")


def counts(out):
    splits = loading.open_dataset("folder_ir", out).splits
    return {name: len(records) for name, records in splits.items()}


def test_infrared_films_alone_make_a_data_set(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    films(raw, *[f"thermal/{label}/{i}.avi" for label in ("nod", "wave") for i in range(3)])
    assert run(raw, out, "--check") == 0
    assert "0 pairs and 6 single films of 2 classes; 4 train, 2 test" in capsys.readouterr().out
    assert run(raw, out) == 0
    assert "one modality only" in capsys.readouterr().out
    assert counts(out) == {"train_infrared": 4, "test_infrared": 2}
    config = custom.get_config("method=baseline")
    dataset = loading.open_dataset("folder_ir", out)
    for split, count in (("train", 4), ("test", 2)):
        reader = make_reader(config, dataset, split, ("infrared",))
        assert len(reader.records) == count and reader.centre(0)["mask"] == 1
    with pytest.raises(UserError, match="this needs pairs; method=baseline trains on infrared al"):
        make_reader(config, dataset, "train", ("rgb", "infrared"))


def test_single_films_are_kept_beside_pairs_when_asked(tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    names = ["wave/ann__1", "wave/bob__1", "nod/ann__1", "nod/bob__1"]
    films(raw, *[f"{kind}/{name}.avi" for kind in ("rgb", "infrared") for name in names])
    films(raw, "infrared/wave/ann__2.avi", "infrared/wave/bob__2.avi", "rgb/nod/cat__1.avi")
    films(raw, "infrared/fall/cat__2.avi")
    assert run(raw, out) == 2
    said = capsys.readouterr().err
    assert "no rgb file" in said and "--unpaired keeps clips of one modality" in said
    assert run(raw, out, "--unpaired") == 0
    found = counts(out)
    # One of the two subjects tests, with all her films; who has no pairs trains.
    assert found == {"train": 2, "test": 2, "train_infrared": 2, "train_rgb": 1, "test_infrared": 1}
    dataset = loading.open_dataset("folder_ir", out)
    assert dataset.class_names == ("fall", "nod", "wave")
    sides = {name: {r["subject"] for r in map(records.__getitem__, range(len(records)))}
             for name, records in dataset.splits.items()}  # fmt: skip
    assert sides["test_infrared"] == sides["test"] and not sides["test"] & sides["train_infrared"]
    record = dataset.splits["train_rgb"][0]
    assert not len(record["infrared"]) and (record["infrared_frames"], record["rgb_frames"]) == (
        0,
        3,
    )


def test_other_data_sets_have_pairs_only(tmp_path, capsys):
    argv = ["ntu_rgbd_ir", f"--manual_dir={tmp_path}", "--unpaired"]
    assert build.main(argv) == 2
    assert "ntu_rgbd_ir has pairs only; --unpaired is for folder_ir" in capsys.readouterr().err


def test_folder_follows_the_conventions_of_tfds(tmp_path):
    assert Builder.name == "folder_ir" and Builder.code_path.parent == Path(clips.__file__).parent
    assert Builder.get_metadata().tags == ["content.data-type.video"]
    assert "one folder per class" in Builder(data_dir=tmp_path).info.description

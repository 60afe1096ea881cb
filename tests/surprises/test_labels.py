"""PKU-MMD's text files as they lie about: copies, odd rows, other separators, encrypted, empty."""

import zipfile

import pytest

from jax_irkd import build
from jax_irkd.data.synthetic.raw_ntu import write_video
from jax_irkd.data.synthetic.raw_pku import label_path, pku_tree, video_path, write_split
from jax_irkd.errors import UserError
from jax_irkd.pku_mmd.annotations import looks_like_labels, parse_labels
from jax_irkd.pku_mmd.files import scan
from jax_irkd.pku_mmd.texts import SPLIT_FILES
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders.pku_mmd_ir import inventory, videos
from tests.helpers import made_films as films
from tests.surprises.test_archives import encrypted


@pytest.fixture
def raw(tmp_path):
    """Two complete videos without content, and their annotation."""
    root = tmp_path / "raw"
    for name in ("0002-L", "0291-M"):
        for kind in ("rgb", "infrared"):
            path = video_path(root, name, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        label = label_path(root, name)
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("8,11,30,2\n3,41,60,2\n")
    for name in SPLIT_FILES:
        split = root / "Split" / name
        split.parent.mkdir(parents=True, exist_ok=True)
        write_split(split, ["0002-L"], ["0291-M"])
    return root


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("8,1,9,3000000000", "a number out of range"),
        ("8,1,900000000,2", "a number out of range"),
        ("8,-900000000,9,2", "a number out of range"),
        ("8,1,9,2,7", "not a row of three or four numbers"),
        ("8,1", "not a row of three or four numbers"),
        ("8,1,9,9" + "9" * 5000, "not a row of whole numbers"),
        ("99,1,9,2", "label not in 1 to 51"),
    ],
)
def test_rows_that_cannot_be_are_named(raw, row, reason):
    label = label_path(raw, "0002-L")
    label.write_text(f"{row}\n3,41,60,2\n")
    found = scan(raw)
    assert found.labels["0002-L"].dropped == [(row, reason)]
    tasks, skipped = videos.tasks_of(found, BuildOptions())
    assert len(tasks) == 2
    assert [(skip.name, skip.reason) for skip in skipped] == [("0002-L", reason)]


def test_semicolons_and_tabs_separate_too():
    for text in ("8;11;30;2\n3;41;60;2", "8\t11\t30\t2\n3 41 60 2", "8, 11, 30, 2\n3;41;60"):
        found = parse_labels(text).instances
        assert [(i.label, i.start, i.stop) for i in found] == [(7, 10, 30), (2, 40, 60)]
        assert looks_like_labels(text)


def test_two_label_files_for_a_video(raw):
    first = label_path(raw, "0002-L")
    copy = raw / "old labels" / first.name
    copy.parent.mkdir()
    copy.write_text(first.read_text())
    assert not scan(raw).notes  # The same rows twice are no news.
    copy.write_text("9,1,5,2\n")
    (note,) = scan(raw).notes
    assert (note.name, note.reason) == ("0002-L", "two label files")
    assert str(first) in note.detail and str(copy) in note.detail


def test_an_empty_label_file_is_named(raw):
    label_path(raw, "0002-L").write_text("\n")
    (note,) = scan(raw).notes
    assert note.reason == "empty label file" and note.name.endswith("0002-L.txt")


@pytest.mark.parametrize("content", [" ".join(["0.5"] * 150) + "\n", None])
def test_a_label_file_that_is_none_is_not_called_absent(raw, content):
    path = label_path(raw, "0002-L")
    if content is None:
        path.unlink()
        with zipfile.ZipFile(raw / "labels.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("Label/0002-L.txt", "8,1,9,2\n" * 200)
        data = bytearray((raw / "labels.zip").read_bytes())
        data[50:60] = bytes(10)  # Damaged inside.
        (raw / "labels.zip").write_bytes(data)
    else:
        path.write_text(content)
    _, skipped = videos.tasks_of(scan(raw), BuildOptions())
    (why,) = [skip.detail for skip in skipped if skip.reason == "no annotation"]
    assert "0002-L.txt" in why and "no label file" not in why


def test_two_different_split_files_are_refused(raw):
    split = raw / "Split" / "cross-view.txt"
    copy = raw / "a" / "cross-view.txt"
    copy.parent.mkdir()
    copy.write_text(split.read_text())
    assert scan(raw).splits["0002-L"] == "train_subjects_train_views"
    write_split(copy, ["0291-M"], ["0002-L"])
    with pytest.raises(UserError, match=r"two different files cross-view\.txt: .* and .*; keep"):
        scan(raw)


def test_an_encrypted_archive_with_the_split_file(raw):
    (raw / "Split" / "cross-view.txt").unlink()
    encrypted(raw / "split.zip")
    with pytest.raises(
        UserError, match=r"no cross-view\.txt in .*split\.zip: 2 files are encrypted"
    ):
        scan(raw)


@pytest.mark.slow
def test_the_inventory_finds_what_the_build_will(raw):
    for name in ("0002-L", "0291-M"):
        write_video(video_path(raw, name, "rgb"), 45)
        write_video(video_path(raw, name, "infrared"), 20, infrared=True)
    films.promise(video_path(raw, "0002-L", "infrared"), 0)  # A header that counts nothing.
    label_path(raw, "0002-L").write_text("8,11,30,2\n3,41,60,2\n5,900,950,2\n")
    found = inventory.take(raw, BuildOptions(), raw.parent)
    said = {(problem.name, problem.reason) for problem in found.problems}
    assert ("0002-L", "past the end") in said
    assert ("0002-L", "lengths differ by more than 10%") in said
    assert not any(reason == "unreadable video" for _, reason in said)
    crop = raw.parent / "crop.json"
    crop.write_text('{"infrared_size": [4, 4], "rgb_size": [8, 8], "cameras": {"L": [[2, 0, 0], '
                    '[0, 2, 0]]}}')  # fmt: skip
    with pytest.raises(UserError, match="has no camera M"):
        inventory.take(raw, BuildOptions(crop_file=str(crop)), raw.parent)
    flags = [f"--manual_dir={raw}", f"--data_dir={raw.parent / 'out'}", f"--crop_file={crop}"]
    assert build.main(["pku_mmd_ir", *flags]) == 2  # Before anything is encoded.


def test_an_instance_cut_off_at_the_end_is_named(tmp_path):
    pku_tree(tmp_path, train=(2,), validation=(291,), views="LM")
    label_path(tmp_path, "0002-L").write_text("8,11,30,2\n3,81,95,2\n")
    found = scan(tmp_path)
    tasks, _ = videos.tasks_of(found, BuildOptions())
    done = videos.encode(tasks[0])
    assert [record.key for record in done.records] == ["0002-L-000", "0002-L-001"]
    assert [(note.name, note.reason, note.detail) for note in done.notes] == [
        (
            "0002-L-001",
            "cut off at the end",
            "frames 80-95, there are 90 rgb and 90 infrared frames",
        )
    ]

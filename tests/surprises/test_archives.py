"""Folders and archives as they lie about: nothing vanishes, wins or hangs in silence."""

import errno
import os
import unicodedata
import zipfile
from pathlib import Path

import pytest

from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders.folder_ir import clips as folder_clips
from jax_irkd.tfds_builders.ntu_rgbd_ir import clips as ntu_clips
from jax_irkd.tfds_builders.ntu_rgbd_ir.ntu_rgbd_ir_dataset_builder import Builder
from jax_irkd.video import formats
from jax_irkd.video.archives import Member, base_name, find_files, name_of, open_source, size_of
from jax_irkd.video.decoding import Film
from jax_irkd.video.faults import VideoError
from jax_irkd.video.finding import film_name, find
from jax_irkd.video.playback import find_videos
from tests.helpers import made_films

KEY = "S001C001P001R001A001"


def zipped(path: Path, *names: str, method: int = zipfile.ZIP_STORED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, f"content of {name}")
    return path


def patched(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


def encrypted(path: Path) -> Path:
    """A zip whose flags say that its files are encrypted."""
    data = bytearray(zipped(path, "a.avi", "b.avi").read_bytes())
    for tag, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.find(tag)
        while place >= 0:
            data[place + offset] |= 1
            place = data.find(tag, place + 4)
    path.write_bytes(data)
    return path


def bad_name(path: Path) -> Path:
    """A zip that says its names are UTF-8, and they are not."""
    zipped(path, "é.avi")
    return patched(path, "é".encode(), b"\xff\xfe")


def half(path: Path) -> Path:
    path.write_bytes(zipped(path, "a.avi").read_bytes()[:40])
    return path


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (encrypted, "2 files are encrypted; unpack it with its password"),
        (bad_name, "is not a readable zip archive"),
        (half, "is not a readable zip archive"),
        (lambda path: path.write_bytes(b""), "is not a readable zip archive"),
        (lambda path: path.symlink_to("gone.zip"), "No such file or directory"),
    ],
)
def test_an_archive_that_cannot_be_read_stops_a_build(tmp_path, make, why):
    make(tmp_path / "a.zip")
    (tmp_path / f"{KEY}_rgb.avi").write_bytes(b"x")
    (tmp_path / f"{KEY}_ir.avi").write_bytes(b"y")
    found = find(tmp_path)
    assert len(found.films) == 2
    (one,) = found.unreadable
    assert one.name == str(tmp_path / "a.zip") and why in one.detail
    builder = Builder(data_dir=tmp_path / "out", config="ten", options=BuildOptions())
    assert builder.plan(tmp_path).report.unreadable == [one]
    assert any(item.reason == "unreadable archive" for item in builder.inventory(tmp_path).problems)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    for label in ("wave", "nod"):
        folder = tmp_path / "rgb" / label
        folder.mkdir(parents=True)
        (folder / "1.avi").write_bytes(b"x")
    honest = os.scandir

    def broken(path):
        if str(path).endswith("nod"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return honest(path)

    monkeypatch.setattr(os, "scandir", broken)
    (one,) = find(tmp_path).unreadable
    assert one.name.endswith("rgb/nod")
    assert (one.reason, one.detail) == (
        "unreadable folder",
        "cannot be listed (Input/output error)",
    )
    _, (lost,) = find_videos([tmp_path])
    assert str(lost).endswith("nod: cannot be listed (Input/output error)")


@pytest.mark.parametrize("link", ["latest", "zz", "rgb/wave/again", "infrared/up"])
def test_a_link_does_not_take_a_folder_s_name(tmp_path, link):
    """Before and behind its target, to it, and in circles."""
    for kind in ("rgb", "infrared"):
        (tmp_path / "raw" / kind / "wave").mkdir(parents=True)
        (tmp_path / "raw" / kind / "wave" / "1.avi").write_text(kind)
    target = ".." if link == "infrared/up" else tmp_path / "raw" / "rgb"
    (tmp_path / "raw" / link).symlink_to(target)
    found = folder_clips.scan(tmp_path / "raw")
    assert list(found.pairs) == ["wave/1"] and not found.skipped and not found.notes


def test_links_to_elsewhere_are_followed_and_links_to_each_other_end(tmp_path):
    for kind in ("rgb", "infrared"):
        (tmp_path / "disk" / kind / "wave").mkdir(parents=True)
        (tmp_path / "disk" / kind / "wave" / "1.avi").write_text(kind)
        (tmp_path / "disk" / kind / "wave" / "disk").symlink_to(tmp_path / "disk")
    (tmp_path / "raw").mkdir()
    for kind in ("rgb", "infrared"):
        (tmp_path / "raw" / kind).symlink_to(tmp_path / "disk" / kind)
    assert list(folder_clips.scan(tmp_path / "raw").pairs) == ["wave/1"]


def test_what_is_no_file_hangs_nobody(tmp_path):
    os.mkfifo(tmp_path / "a.avi")
    (tmp_path / "b.avi").symlink_to("/dev/zero")
    found = find(tmp_path)
    assert not found.films
    assert {(Path(s.name).name, s.detail) for s in found.skipped} == {
        (name, "is a pipe, a socket or a device, no file") for name in ("a.avi", "b.avi")
    }
    for name in ("a.avi", "b.avi"):
        with pytest.raises(VideoError, match="is a pipe, a socket or a device, no file"):
            _ = Film(tmp_path / name).timing


def test_names_that_are_not_utf8_are_named(tmp_path):
    raw = os.fsencode(tmp_path)
    try:
        Path(os.fsdecode(raw + b"/caf\xe9.avi")).write_bytes(b"x")
        os.mkdir(raw + b"/\xff\xfe")
    except OSError:
        pytest.skip("this file system has no such names")
    found = find(tmp_path)
    (skip,), (folder,) = found.skipped, found.unreadable
    assert skip.name.endswith(r"/caf\xe9.avi") or skip.name.endswith(r"/caf\udce9.avi")
    assert skip.detail == folder.detail == "its name is not UTF-8; rename it"
    assert skip.name.encode() and folder.name.encode()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", ["./x/{}", "./{}", "x//{}", "x/./{}", "x\\{}", "/{}", "{}"])
def test_members_are_found_whatever_their_path_looks_like(tmp_path, name, method):
    member = name.format(f"{KEY}_rgb.avi")
    zipped(tmp_path / "a.zip", member, "./.hidden/a.avi", "__MACOSX/._a.avi", method=method)
    (found,) = find_files(tmp_path)[0]
    assert base_name(found.source) == f"{KEY}_rgb.avi" and "/./" not in name_of(found.source)
    assert size_of(found.source) == found.size
    with open_source(found.source) as file:
        assert file.read() == f"content of {member}".encode()
    assert ntu_clips.scan(tmp_path).clips[KEY]["rgb"].source == found.source


def test_unpacked_files_win_over_archived_ones_and_it_is_said(tmp_path):
    names = [f"{kind}/wave/{i}.avi" for kind in ("rgb", "infrared") for i in (1, 2)]
    for name in names:
        path = tmp_path / "a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"unpacked")
    zipped(tmp_path / "a.zip", *names)
    found = folder_clips.scan(tmp_path)
    for pair in found.clips.values():
        assert all(not isinstance(film.source, Member) for film in pair.values())
    assert [note.reason for note in found.notes] == ["duplicate file"] * 4
    assert "a.zip/" in found.notes[0].detail and found.notes[0].detail.endswith("not")


@pytest.mark.parametrize("suffix", [*formats.VIDEOS, ".TIFF", ".AVI", ".Mts"])
def test_every_door_knows_the_same_suffixes(tmp_path, suffix):
    for kind in ("rgb", "infrared"):
        path = tmp_path / kind / "wave" / f"1{suffix}"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    assert list(folder_clips.scan(tmp_path).pairs) == ["wave/1"]
    assert film_name(f"{KEY}_ir{suffix}") == f"{KEY}_ir"
    if formats.is_video(suffix):
        assert len(find_videos([tmp_path])[0]) == 2


def test_accents_in_two_forms_are_one_name(tmp_path):
    for kind, form in (("rgb", "NFC"), ("infrared", "NFD")):
        path = tmp_path / kind / unicodedata.normalize(form, "Größe") / f"{form[:0]}é.avi"
        path = path.with_name(unicodedata.normalize(form, path.name))
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    assert list(folder_clips.scan(tmp_path).pairs) == ["Größe/é"]


def test_clips_of_other_data_sets_count_as_left_out(tmp_path):
    for key in (KEY, "S018C001P041R001A001", "S001C001P001R001A061"):
        for kind in ("rgb", "ir"):
            (tmp_path / f"{key}_{kind}.avi").write_bytes(kind.encode())
    report = Builder(data_dir=tmp_path / "out", config="ten").plan(tmp_path).report
    assert [skip.name for skip in report.skipped] == [
        "S001C001P001R001A061",
        "S018C001P041R001A001",
    ]
    assert {skip.reason for skip in report.skipped} == {"not an NTU RGB+D 60 clip"}
    report.built = 1
    assert report.skipped_share == pytest.approx(2 / 3) and "remark" not in report.head()


def test_predict_passes_over_nothing_that_has_a_films_name(tmp_path, monkeypatch):
    """Links to folders and archives are read; what cannot be read is named, and stops nothing."""
    (tmp_path / "disk").mkdir()
    made_films.write_timed(tmp_path / "disk" / "a.avi", range(4))
    folder = tmp_path / "films"
    folder.mkdir()
    for name, target in (("gone.avi", "no.avi"), ("nod", "/gone"), ("cover.jpg", "/gone.jpg")):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.avi")
    (folder / "link").symlink_to(tmp_path / "disk")
    (folder / "d.zip").write_bytes(b"no archive")
    (folder / ".hidden.avi").write_bytes(b"x")
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.write(tmp_path / "disk" / "a.avi", "c.avi")
    made_films.write_stills(folder / "walk", 4)
    made_films.write_stills(folder / "sit", 4)
    for picture in (folder / "sit" / "10.png", folder / "sit" / "11.png"):
        picture.unlink()
        picture.symlink_to("/gone")
    found, lost = find_videos([folder])
    read = {
        name_of(film).removeprefix(f"{folder}/"): len(Film(film).timing.times) for film in found
    }
    assert read == {"b.zip/c.avi": 4, "link/a.avi": 4, "walk": 4, "sit": 2}
    said = {error.name.removeprefix(f"{folder}/"): error.reason for error in lost}
    gone = dict.fromkeys(("gone.avi", "nod", "sit/10.png", "sit/11.png"))
    assert set(said) == {*gone, "pipe.avi", "d.zip"}
    assert all("No such file" in said[name] for name in gone)
    assert "not a readable zip archive" in said["d.zip"] and "a pipe" in said["pipe.avi"]
    assert find_videos([f"{folder}/g*.avi"]) == ([folder / "gone.avi"], [])
    monkeypatch.chdir(folder / "walk")
    ((here,), _) = find_videos(["."])
    assert name_of(here) == str(folder / "walk") and len(here.files) == 4


def test_films_come_in_the_order_in_which_they_were_named(tmp_path):
    named = [tmp_path / name for name in ("b.tiff", "a.avi", "c.avi")]
    assert find_videos(named) == (named, [])

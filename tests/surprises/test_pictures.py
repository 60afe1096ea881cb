"""Pictures for films: what is missing, damaged, turned or a film of its own is never closed up."""

import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from jax_irkd.data.synthetic.raw_ntu import write_video
from jax_irkd.deployment import prediction
from jax_irkd.tfds_builders._shared import inventory, pairs
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.video import stills
from jax_irkd.video.archives import Stills
from jax_irkd.video.decoding import Film
from jax_irkd.video.faults import VideoError
from jax_irkd.video.finding import film_name, find
from tests.deployment.test_predict import Reader
from tests.helpers import made_films as films


def spoiled(path, how):
    path.unlink(missing_ok=True)
    os.mkfifo(path) if how == "pipe" else path.symlink_to("/gone/" + path.name)


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".tif"])
@pytest.mark.parametrize("how", ["dead link", "pipe"])
def test_a_sequence_without_one_of_its_pictures_is_left_out(tmp_path, suffix, how):
    films.write_stills(tmp_path / "whole", 3, suffix, deep=False)
    films.write_stills(tmp_path / "torn", 5, suffix, deep=False)
    for number in (9, 10):
        spoiled(tmp_path / "torn" / f"{number}{suffix}", how)
    found = find(tmp_path)
    assert [film_name(film.source) for film in found.films] == ["whole"] and not found.others
    (skip,) = found.skipped
    assert (skip.name, skip.reason) == (str(tmp_path / "torn"), "unreadable file")
    assert skip.detail.startswith(f"2 of its 5 pictures cannot be used, the first is 10{suffix} (")


def test_pictures_of_which_none_is_there_are_one_film_left_out_and_tiffs_are_each(tmp_path):
    for name in ("a/1.png", "a/2.png", "a/3.png", "b/anna_1.tif", "b/anna_2.tif", "cover.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        spoiled(tmp_path / name, "dead link")
    skipped = {
        skip.name.removeprefix(f"{tmp_path}/"): skip.detail for skip in find(tmp_path).skipped
    }
    assert set(skipped) == {"a", "b/anna_1.tif", "b/anna_2.tif", "cover.png"}
    assert skipped["a"].startswith("3 of its 3 pictures") and "No such file" in skipped["cover.png"]


def test_a_dead_link_may_have_been_a_class(tmp_path):
    spoiled(tmp_path / "wave", "dead link")
    (one,) = find(tmp_path).unreadable
    assert one.name == str(tmp_path / "wave") and one.reason == "unreadable folder"


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([0, 1, 2, 3], ""),
        ([71, 72, 73], ""),
        ([0, 5, 10, 15], ""),
        ([4, 9], ""),
        ([1000, 1033, 1067, 1100, 1150], ""),  # milliseconds
        ([0, 1, 2, 6, 7, 9], "lacks 4 of 10 pictures by their numbers, the first behind 2.png"),
        ([0, 5, 10, 20], "lacks 1 of 5 pictures by their numbers, the first behind 10.png"),
    ],
)
def test_gaps_in_the_numbers(numbers, said):
    assert stills.gap(Stills("a", tuple(f"a/{number}.png" for number in numbers))) == said


def test_a_gap_is_named_by_checks_builds_and_predictions(tmp_path):
    films.write_stills(tmp_path / "ir", 30, deep=False)
    for number in range(15, 25):
        (tmp_path / "ir" / f"{number}.png").unlink()
    write_video(tmp_path / "rgb.avi", 30, codec="mjpeg")
    infrared, rgb = find(tmp_path).films
    lost = "it lacks 10 of 30 pictures by their numbers, the first behind 14.png"
    (checked,) = inventory.gap_problems({("a", "infrared"): infrared, ("a", "rgb"): rgb})
    done = pairs.encode_pair("a", {}, rgb.source, infrared.source, BuildOptions(), "1")
    lengths, gap = sorted(done.notes, key=lambda note: note.reason)
    assert gap == checked == ("a infrared", "unusual film", lost)
    assert lengths.reason == "lengths differ by more than 10%"
    assert lengths.detail.startswith("30 RGB and 20 infrared frames; ")
    assert lost[3:] in prediction.predict(Reader(), infrared.source).warnings


@pytest.mark.parametrize("count", [27, 33])
def test_pictures_nearly_as_many_as_the_video_s_frames_are_no_remark(tmp_path, count):
    films.write_stills(tmp_path / "ir", count, deep=False)
    write_video(tmp_path / "rgb.avi", 30, codec="mjpeg")
    infrared, rgb = find(tmp_path).films
    done = pairs.encode_pair("a", {}, rgb.source, infrared.source, BuildOptions(), "1")
    assert len(done.records) == 1 and done.notes == []


@pytest.mark.parametrize("place", [1, 3, 5])
@pytest.mark.parametrize("how", ["one page", "damaged", "empty"])
def test_tiffs_of_pages_stay_films_of_their_own(tmp_path, place, how):
    for number in range(1, 6):
        films.write_pages(tmp_path / f"anna_{number}.tif", 4)
    odd = tmp_path / f"anna_{place}.tif"
    films.write_pages(odd, 1)
    if how != "one page":
        odd.write_bytes(odd.read_bytes()[:20] if how == "damaged" else b"")
    found = find(tmp_path).films
    assert [film_name(film.source) for film in found] == [f"anna_{n}" for n in range(1, 6)]


def test_a_damaged_tiff_among_single_pages_spoils_its_sequence(tmp_path):
    films.write_stills(tmp_path / "wave", 5, ".tif")
    (tmp_path / "wave" / "8.tif").write_bytes(b"II*")
    (film,) = find(tmp_path).films
    with pytest.raises(VideoError, match=r"wave: .*8\.tif"):
        list(Film(film.source).shots())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_tiffs_of_an_archive_are_found_and_refused(tmp_path, method):
    films.write_pages(tmp_path / "anna_1.tif", 4)
    content = (tmp_path / "anna_1.tif").read_bytes()
    (tmp_path / "anna_1.tif").unlink()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for number in (1, 2):
            archive.writestr(f"anna_{number}.tif", content)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    start = data.index(b"anna_1.tif") + 10
    data[start : start + 40] = b"\xff" * 40
    (tmp_path / "a.zip").write_bytes(data)
    first, second = find(tmp_path).films
    assert len(list(Film(second.source).shots())) == 4
    with pytest.raises(VideoError, match=r"a\.zip/anna_1\.tif: "):
        list(Film(first.source).shots())


# What EXIF's orientations make of a picture, by NumPy.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", TURNS)
def test_pictures_are_turned_as_their_header_wants(tmp_path, suffix, orientation):
    grey = np.repeat(np.repeat(np.uint8([[0, 80, 160], [200, 120, 40]]), 16, 0), 16, 1)
    header = Image.Exif()
    header[0x0112] = orientation
    for number in range(2):
        Image.fromarray(grey).save(tmp_path / f"{number}.{suffix}", exif=header)
    (film,) = find(tmp_path).films
    opened = Film(film.source)
    facts = opened.facts()
    for shot in opened.shots():
        upright = TURNS[orientation](grey)
        image = shot.image()
        image = image if image.ndim == 2 else image[..., 0]
        assert image.shape == upright.shape == (facts.height, facts.width)
        np.testing.assert_allclose(image.astype(int), upright, atol=12)  # JPEG, WebP


def test_metadata_that_cannot_be_read_turn_nothing(tmp_path):
    for number in range(2):
        Image.new("L", (32, 16)).save(tmp_path / f"{number}.jpg", exif=b"Exif\0\0nonsense")
    (film,) = find(tmp_path).films
    assert [shot.image().shape[:2] for shot in Film(film.source).shots()] == [(16, 32)] * 2

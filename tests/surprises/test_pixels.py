"""What a film's pixels mean: depth, colour, rotation, pictures for videos, nothing at all."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from jax_irkd import build
from jax_irkd.data import loading
from jax_irkd.data.spec import InputSpec
from jax_irkd.data.synthetic.raw_ntu import number_of, write_video
from jax_irkd.deployment import prediction
from jax_irkd.deployment.prediction import VideoSettings
from jax_irkd.deployment.recognizer import Recognizer
from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared import encoding, pairs
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.video import depth, grid, pixels, playback
from jax_irkd.video.decoding import Film
from jax_irkd.video.faults import VideoError
from jax_irkd.video.stills import films_of
from tests.deployment.test_predict import Reader, turned
from tests.helpers import made_films as films

WANTED = InputSpec("infrared", 4, (48, 64))


def stored(source, **options):
    clip = encoding.encode_clip(source, infrared=True, **options)
    return [cv2.imdecode(np.frombuffer(f, np.uint8), cv2.IMREAD_UNCHANGED) for f in clip.frames]


DEEP = {
    "gray16": lambda p: films.write_deep(p / "a.mkv", 9),
    "gray14": lambda p: films.write_deep(p / "a.mkv", 9, "gray14le"),
    "gray12": lambda p: films.write_deep(p / "a.mkv", 9, "gray12le", low=1300, high=1700),
    "gray10": lambda p: films.write_deep(p / "a.mkv", 9, "gray10le", low=300, high=400),
    "luma of 10 bits": lambda p: films.write_deep(p / "a.mkv", 9, "yuv420p10le", low=300, high=400),
    "16-bit PNG": lambda p: films_of(films.write_stills(p / "a", 9).iterdir())[0],
    "16-bit TIFF": lambda p: films_of(films.write_stills(p / "a", 9, ".tiff").iterdir())[0],
    "pages": lambda p: films.write_pages(p / "a.TIF", 9),
    "temperatures": lambda p: films.write_pages(p / "a.tif", 9, "float32"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_few_of_many_values_fill_the_grey_levels(tmp_path, kind):
    source = DEEP[kind](tmp_path)
    images = stored(source)
    assert [number_of(image) for image in images] == list(range(9))
    assert np.mean([image.min() for image in images]) < 8
    assert np.mean([image.max() for image in images]) > 247
    # Predictions read the same pictures as the data set holds.
    film = Film(source, tolerant=True)
    (window,) = playback.windows(film, WANTED, [grid.whole(film.timing, 4)])
    middles = [images[index] for index in window.indices]
    np.testing.assert_allclose(window.frames[..., 0], middles, atol=24)
    assert np.abs(window.frames[..., 0].astype(int) - middles).mean() < 3


def test_a_fixed_range_makes_a_grey_level_a_temperature(tmp_path):
    path = films.write_deep(tmp_path / "a.mkv", 3)
    images = stored(path, range=depth.parse_range("7000,8000"), quality=100)
    expected = np.clip((films.counts(0) - 7000.0) / 1000 * 255 + 0.5, 0, 255).astype(np.uint8)
    assert np.abs(images[0].astype(int) - expected).mean() < 2


def test_eight_bits_are_taken_as_they_are(tmp_path):
    path = write_video(tmp_path / "a.avi", 3, infrared=True, codec="ffv1")
    np.testing.assert_array_equal(stored(path), stored(path, range=depth.parse_range("0,9")))


@pytest.mark.parametrize("text", ["", "7000", "8,7", "a,b", "nan,3", "1,2,3", "5,5"])
def test_impossible_ranges(text):
    with pytest.raises(UserError, match="give auto, or the lowest and the highest value"):
        BuildOptions(range=text)


def test_what_cannot_be_read_as_it_is_is_refused(tmp_path):
    path = films.write_deep(tmp_path / "a.mkv", 2, "gbrp16le")
    with pytest.raises(VideoError, match=r"gbrp16le, of which the 16 bits .* ffmpeg -pix_fmt gray"):
        stored(path)


def constant(path: Path, value: int) -> Path:
    return write_video(path, [np.full((48, 64, 3), value, np.uint8)] * 5, infrared=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: constant(p / "a.avi", 0), "its pictures are black"),
        (lambda p: constant(p / "a.avi", 120), r"nearly constant \(\d grey levels\)"),
        (lambda p: films.write_deep(p / "a.mkv", 3, low=7300, high=7301), "values 7300 to 7301"),
    ],
)
def test_pictures_in_which_nothing_is_to_be_seen(tmp_path, make, words):
    path = make(tmp_path)
    assert re.search(words, encoding.encode_clip(path, infrared=True).flat)
    warnings = prediction.predict(Reader(), path).warnings
    assert any("its pictures are" in line for line in warnings), warnings


def pale(image: np.ndarray, share: float) -> np.ndarray:
    grey = image.mean(axis=2, keepdims=True)
    return np.clip(grey + share * (image - grey), 0, 255).astype(np.uint8)


def room(seed: int) -> np.ndarray:
    """A grey room with a thing of every colour in it, as `h w 3`."""
    rng = np.random.default_rng(seed)
    image = np.repeat(rng.normal(120, 25, (96, 128, 1)), 3, axis=2)
    for _ in range(6):
        top, left = rng.integers(0, 80), rng.integers(0, 110)
        image[top : top + 14, left : left + 14] = rng.integers(0, 256, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mjpeg"])
def test_pale_rooms_have_colours_and_infrared_has_none(tmp_path, seed, codec):
    scene = room(seed)
    for name, frames, coloured in (
        ("pale", pale(scene, 0.2), True),
        ("grey", pale(scene, 0.0), False),
        ("tinted", np.clip(pale(scene, 0.0) + np.array([0, 9, 4]), 0, 255).astype(np.uint8), False),
    ):
        path = tmp_path / f"{name}.avi"
        write_video(path, [frames] * 3, size=(128, 96), codec=codec, infrared=True)
        measured = np.mean([pixels.colourfulness(shot.image()) for shot in Film(path).shots()])
        assert (measured > pixels.COLOURED) == coloured, (name, measured)


def pair(rgb, infrared, **options):
    done = pairs.encode_pair("a", {}, str(rgb), str(infrared), BuildOptions(**options), "1")
    return done, [f"{item.reason}: {item.detail}" for item in (*done.skipped, *done.notes)]


def test_one_film_under_two_names(tmp_path):
    path = write_video(tmp_path / "a.avi", 9, infrared=True)
    (tmp_path / "b.avi").write_bytes(path.read_bytes())
    done, said = pair(path, tmp_path / "b.avi")
    assert not done.records and "RGB and infrared are one film" in said[0]
    done, _ = pair(path, tmp_path / "b.avi", trust_names=True)
    assert len(done.records) == 1
    colour = write_video(tmp_path / "c.avi", 9)
    assert not pair(colour, colour)[0].records
    assert pair(colour, colour, trust_names=True)[0].records


def test_the_header_turns_the_picture_everywhere(tmp_path):
    path = write_video(tmp_path / "a.avi", 9, infrared=True)
    phone = turned(path, tmp_path / "phone.mp4")
    assert {image.shape for image in stored(phone)} == {(48, 64)}
    assert [number_of(image) for image in stored(phone)] == list(range(9))
    _, said = pair(write_video(tmp_path / "rgb.avi", 9), phone)
    assert any("is stored rotated; turned by" in line for line in said)


def test_the_recognizer_takes_sixteen_bits():
    seen = []

    class Deep(Reader):
        range = "auto"

        def __call__(self, clips):
            seen.append(clips)
            return super().__call__(clips)

    for given in ({}, {"range": "7300,7700"}):
        reader = Deep()
        recognizer = Recognizer(reader, seconds=8 / 30, stride=8, warm_up=False, **given)
        for number in range(8):
            recognizer.push(films.counts(number))
        assert reader.seen == [[1, 3, 5, 7]]
        assert seen[-1].dtype == np.uint8 and seen[-1].max() == 255 and seen[-1].min() == 0
    with pytest.raises(ValueError, match="uint16 of one channel, not uint16"):
        recognizer.push(np.zeros((8, 8, 3), np.uint16))


def folder_of_classes(root: Path) -> Path:
    """Two classes, filmed as frame folders, numbered pictures, pages and 16-bit videos."""
    for label in ("wave", "nod"):
        for name in ("1", "2", "3"):
            write_video(root / "rgb" / label / f"{name}.avi", 9)
        films.write_stills(root / "infrared" / label / "1", 9)
        films.write_stills(root / "infrared" / label, 9, ".tif", name="2_")
        films.write_pages(root / "infrared" / label / "3.tiff", 9)
    (root / "infrared" / "wave" / "poster.png").write_bytes(b"no picture of a film")
    return root


@pytest.mark.slow
def test_a_build_from_pictures_remembers_its_range(tmp_path, capsys):
    raw = folder_of_classes(tmp_path / "raw")
    flags = [f"--manual_dir={raw}", f"--data_dir={tmp_path}", "--workers=1", "--range=7300,7700"]
    assert build.main(["folder_ir", *flags, "--check"]) == 0
    assert "6 pairs of 2 classes" in capsys.readouterr().out
    assert build.main(["folder_ir", *flags]) == 0
    dataset = loading.open_dataset("folder_ir", tmp_path)
    assert dataset.range == "7300,7700"
    for records in dataset.splits.values():
        for record in (records[index] for index in range(len(records))):
            shown = [loading.decode_frame(f, (48, 64), "infrared") for f in record["infrared"]]
            assert [number_of(image) for image in shown] == list(range(9))
            assert record["infrared_frames"] == 9
    report = json.loads((tmp_path / "folder_ir" / "1.0.0" / "build_report.json").read_text())
    assert report["options"]["range"] == "7300,7700" and report["built"] == 6


def test_predict_takes_folders_of_pictures(tmp_path):
    films.write_stills(tmp_path / "a" / "walk", 40)
    films.write_stills(tmp_path / "a" / "sit", 1)  # One picture is no film.
    (found,), _ = playback.find_videos([tmp_path / "a"])
    reader = Reader()
    result = prediction.predict(reader, found, VideoSettings(range="7300,7700"))
    assert reader.seen == [[5, 15, 25, 35]] and result.path.name == "walk"
    assert any("without time stamps" in line for line in result.warnings)


def test_a_picture_of_another_kind_is_named(tmp_path):
    folder = films.write_stills(tmp_path / "a", 6)
    (folder / "10.png").write_bytes(b"no picture")
    (found,) = films_of(folder.iterdir())
    with pytest.raises(VideoError, match=r"a: .*10\.png cannot be read"):
        stored(found)
    reader = Reader()
    result = prediction.predict(reader, found)
    assert "is damaged: 2 of 6 frames are readable" in result.warnings[0]


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".png", np.uint16), (".tiff", np.uint16), (".png", np.uint8)]
)
def test_colours_of_sixteen_bits_are_named(tmp_path, suffix, kind):
    scale = 257 if kind == np.uint16 else 1
    for number in range(3):
        picture = np.full((96, 96, 3), (200, 40, number), np.uint8).astype(kind) * kind(scale)
        cv2.imwrite(str(tmp_path / f"{number}{suffix}"), picture[..., ::-1])
    film = Film(films_of(tmp_path.iterdir())[0])
    assert [tuple(shot.image()[0, 0]) for shot in film.shots()] == [(200, 40, n) for n in range(3)]
    said = ["has colours of 16 bits, of which eight are kept"]
    assert film.remarks == (said if kind == np.uint16 else [])


def test_a_network_brings_the_range_of_its_data(tmp_path):
    class Fixed(Reader):
        range = "7000,9000"

    seen = []

    class Looking(Fixed):
        def __call__(self, clips):
            seen.append(int(clips.max()))
            return super().__call__(clips)

    path = films.write_deep(tmp_path / "a.mkv", 8)
    prediction.predict(Looking(), path)
    prediction.predict(Looking(), path, VideoSettings(range="auto"))
    assert seen == [pytest.approx((7700 - 7000) / 2000 * 255, abs=2), 255]


def test_pictures_of_two_sizes_are_one_film(tmp_path):
    folder = films.write_stills(tmp_path / "a", 4)
    image = cv2.resize(films.counts(4), (96, 72), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(folder / "12.png"), image)
    (found,) = films_of(folder.iterdir())
    assert [number_of(image) for image in stored(found)] == [0, 1, 2, 3, 4]
    assert prediction.predict(Reader(), found).frames == 5

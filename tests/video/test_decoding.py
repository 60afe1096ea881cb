"""Frames in decode order, exact counts, and every fault named. Frame i carries the number i."""

import pickle
import wave
import zipfile

import cv2
import numpy as np
import pytest

from jax_irkd.data.synthetic.raw_ntu import (
    number_of,
    picture,
    truncate,
    without_frames,
    write_video,
)
from jax_irkd.tfds_builders._shared import encoding
from jax_irkd.video import decoding, faults, pixels
from jax_irkd.video.archives import Member, find_files
from tests.helpers import films


def _numbers(frames):
    return [number_of(frame) for frame in frames]


def _decoded(encoded):
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "a_rgb.avi", 40, size=(112, 80))


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mjpeg", "ffv1"])
def test_frames_come_in_decode_order(tmp_path, codec):
    # H.264 has B-frames and one keyframe: its packets lie in another order than its frames.
    path = write_video(tmp_path / "a.avi", 30, codec=codec)
    frames = list(films.iterate_frames(path))
    assert _numbers(frames) == list(range(30))
    assert frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8
    red, _, blue = frames[3][30, 10].astype(int)
    assert red > blue + 60  # RGB, not BGR: the square is red.
    assert films.count_frames(path) == len(decoding.Film(path).timing.times) == 30


def test_iterate_frames_holds_one_frame_at_a_time(clip):
    frames = films.iterate_frames(clip)
    assert number_of(next(frames)) == 0
    frames.close()


@pytest.mark.parametrize("total", [1, 2, 7, 8, 9, 63, 64, 65, 103, 8604])
@pytest.mark.parametrize("count", [0, 1, 8, 64])
def test_evenly_spaced(total, count):
    got = encoding.evenly_spaced(total, count)
    if count == 0 or count >= total:
        assert got == list(range(total))
    else:
        parts = np.array_split(np.arange(total * count), count)  # Middle of each equal part.
        assert got == [int(part[len(part) // 2]) // count for part in parts]
        assert np.all(np.diff(got) > 0)


def test_read_frames_picks_by_index(clip):
    frames = films.read_frames(clip, [39, 0, 7, 7], short_side=40)
    assert _numbers(frames) == [39, 0, 7, 7]
    assert frames[0].shape == (40, 56, 3)
    assert films.read_frames(clip, []) == []
    with pytest.raises(faults.VideoError, match=r"has no frame 40; counting from 0 the last is 39"):
        films.read_frames(clip, [1, 40])
    with pytest.raises(ValueError, match="frame index -1 is negative"):
        films.read_frames(clip, [-1])


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((1080, 1920), 256, (256, 455)),
        ((424, 512), 256, (256, 309)),
        ((1920, 1080), 256, (455, 256)),
        ((200, 300), 256, (200, 300)),
        ((300, 200), 0, (300, 200)),
    ],
)
def test_resize_shrinks_the_shorter_side_and_never_enlarges(size, short_side, expected):
    assert pixels.resize(np.zeros((*size, 3), np.uint8), short_side).shape[:2] == expected


def test_resize_averages(clip):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    expected = image.reshape(16, 4, 24, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(pixels.resize(image, 16), expected, atol=0.51)


def test_encode_clip_stores_chosen_frames_as_jpeg(clip):
    encoded = encoding.encode_clip(clip, max_frames=8, short_side=40, quality=95)
    assert encoded.indices == [2, 7, 12, 17, 22, 27, 32, 37]
    assert encoded.total == 40
    images = [_decoded(frame) for frame in encoded.frames]
    assert _numbers(images) == encoded.indices
    assert {image.shape for image in images} == {(40, 56, 3)}
    assert len(encoding.encode_clip(clip, max_frames=0).frames) == 40
    smaller = encoding.encode_clip(clip, max_frames=8, quality=20)
    assert sum(map(len, smaller.frames)) < sum(map(len, encoded.frames)) * 4


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg", "h264"])
def test_infrared_is_stored_in_one_channel(tmp_path, codec):
    path = write_video(tmp_path / "a_ir.avi", 9, infrared=True, codec=codec)
    encoded = encoding.encode_clip(path, infrared=True)
    images = [_decoded(frame) for frame in encoded.frames]
    assert {image.shape for image in images} == {(48, 64)}
    assert _numbers(images) == list(range(9))
    channel = np.array(list(films.iterate_frames(path))).mean(axis=-1)
    np.testing.assert_allclose(np.array(images), channel, atol=24)
    assert abs(np.mean(images) - channel.mean()) < 1.5  # MJPEG tints a little


def test_rgb_given_as_infrared_is_refused(clip):
    with pytest.raises(
        faults.VideoError, match=r"a_rgb\.avi: is not infrared: its channels differ"
    ):
        encoding.encode_clip(clip, infrared=True)


def test_encode_ranges_decodes_once_and_cuts_every_instance(clip):
    spans = [(0, 5), (3, 30), (35, 60), (70, 80)]
    clips, total, fault = encoding.encode_ranges(clip, spans, max_frames=6)
    assert (total, fault) == (40, None)
    assert [c.indices for c in clips[:2]] == [[0, 1, 2, 3, 4], [5, 9, 14, 18, 23, 27]]
    assert _numbers(_decoded(frame) for frame in clips[1].frames) == clips[1].indices
    assert [c.total for c in clips] == [5, 27, 5, 0]
    assert all(index < 40 for index in clips[2].indices) and clips[3].frames == []


def test_encode_ranges_keeps_what_lies_before_a_fault(tmp_path):
    path = write_video(tmp_path / "a.avi", 60, gop=10)
    truncate(path, 0.7)
    clips, total, fault = encoding.encode_ranges(path, [(0, 20), (40, 60)])
    assert 20 < total < 60 and "is truncated" in str(fault)
    assert clips[0].total == 20 and clips[1].total < 20
    truncate(path, 0.12)
    with pytest.raises(faults.VideoError, match=r"is truncated by \d+ bytes"):
        encoding.encode_ranges(path, [(0, 20)])


def _audio_only(path):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\0" * 8000)


def _with_bytes(data):
    return lambda path: path.write_bytes(data)


def _truncated(path):
    truncate(write_video(path, 30, gop=5))


def _damaged(path):
    data = bytearray(write_video(path, 40).read_bytes())
    data[6600:6900] = bytes(300)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_with_bytes(b""), r"is empty \(0 bytes\)"),
        (_with_bytes(b"no video" * 99), "is not a readable video"),
        (_audio_only, "has no video stream"),
        (without_frames, "has no frames"),
        (_truncated, r"is truncated by \d+ bytes: (1\d|2\d) of 30 frames are readable"),
        (_damaged, r"is damaged: \d+ of 40 frames are readable before the fault"),
        (lambda path: None, "does not exist"),
    ],
)
def test_faults_name_the_file_and_the_reason(tmp_path, spoil, reason):
    path = tmp_path / "S001C001P001R001A001_rgb.avi"
    spoil(path)
    for read in (
        films.count_frames,
        encoding.encode_clip,
        lambda p: list(films.iterate_frames(p)),
    ):
        with pytest.raises(faults.VideoError, match=rf"{path.name}.*{reason}"):
            read(path)


def test_mutated_files_are_read_or_refused_but_never_crash(tmp_path):
    rng = np.random.default_rng(0)
    refused = 0
    for codec in ("h264", "mpeg4", "mjpeg"):
        whole = write_video(tmp_path / "a.avi", 12, codec=codec).read_bytes()
        for _ in range(40):
            data = bytearray(whole)
            place, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
            data[place : place + length] = rng.bytes(length)
            path = tmp_path / "b.avi"
            path.write_bytes(data[: None if rng.random() < 0.7 else int(rng.integers(len(data)))])
            try:
                encoded = encoding.encode_clip(path)
            except faults.VideoError as error:
                assert str(path) in str(error)
                refused += 1
            else:
                assert len(encoded.frames) == encoded.total > 0
    assert refused > 40


def _movie(data):
    start = data.index(b"movi") - 8
    return start, start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")


def _patched(data, place, value):
    return data[:place] + value.to_bytes(4, "little") + data[place + 4 :]


def test_a_cut_index_behind_whole_frames_is_no_fault(clip, tmp_path):
    data = clip.read_bytes()
    path = tmp_path / "a.avi"
    path.write_bytes(data[: _movie(data)[1] + 20])
    assert encoding.encode_clip(path).frames == encoding.encode_clip(clip, max_frames=64).frames


@pytest.mark.parametrize(("dropped", "announced"), [(6, 6), (0, 6)])
def test_dropped_frames_of_a_recorder_are_told_from_lost_ones(clip, tmp_path, dropped, announced):
    # A recorder that drops a frame writes an empty chunk and counts it in the header.
    data = clip.read_bytes()
    start, end = _movie(data)
    data = data[:end] + b"00dc\0\0\0\0" * dropped
    data = _patched(data, start + 4, len(data) - start - 8)
    data = _patched(data, 4, len(data) - 8)
    for tag, place in ((b"avih", 24), (b"strh", 40)):
        data = _patched(data, data.index(tag) + place, 40 + announced)
    path = tmp_path / "a.avi"
    path.write_bytes(data)
    if dropped == announced:
        assert films.count_frames(path) == 40
    else:
        with pytest.raises(faults.VideoError, match="is damaged: 40 of 46 frames are readable"):
            films.count_frames(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_members_are_read_in_place(tmp_path, clip, method):
    archive = tmp_path / "nturgbd_rgb_s001.zip"
    with zipfile.ZipFile(archive, "w", method) as target:
        target.write(clip, "nturgb+d_rgb/a_rgb.avi")
        target.write(clip, "__MACOSX/nturgb+d_rgb/._a_rgb.avi")
    (tmp_path / "half.zip").write_bytes(archive.read_bytes()[:300])
    found, broken = find_files(tmp_path)
    assert [f.source for f in found] == [Member(str(archive), "nturgb+d_rgb/a_rgb.avi")]
    assert broken[0][0].endswith("half.zip") and "zip" in broken[0][1]
    assert encoding.encode_clip(found[0].source) == encoding.encode_clip(clip)
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".zip"] == []


def test_damaged_zip_members_are_named(tmp_path, clip):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.write(clip, "a_rgb.avi")
    data = bytearray(archive.read_bytes())
    data[500:520] = bytes(20)
    archive.write_bytes(data)
    with pytest.raises(faults.VideoError, match=r"a\.zip/a_rgb\.avi: "):
        encoding.encode_clip(Member(str(archive), "a_rgb.avi"))
    with pytest.raises(faults.VideoError, match=r"no item named .b\.avi"):
        films.count_frames(Member(str(archive), "b.avi"))


def test_crop_maps_infrared_pixels_to_rgb_pixels():
    # RGB is twice as fine and starts 16 pixels further left and 8 further up.
    image = picture(0, (256, 192))
    image[8 + 2 * 20, 16 + 2 * 30] = (0, 0, 255)
    matrix = np.array([[2.0, 0, 16], [0, 2.0, 8]])
    cropped = encoding.CameraCrop(matrix, (100, 80), (256, 192))(image)
    assert cropped.shape == (160, 200, 3)
    np.testing.assert_array_equal(cropped[40, 60], (0, 0, 255))
    np.testing.assert_array_equal(cropped, image[8:168, 16:216])
    half = encoding.CameraCrop(matrix, (100, 80), (512, 384))(
        image
    )  # The file is smaller than the fit's.
    assert half.shape == (80, 100, 3)


def test_video_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(faults.VideoError("a.avi", "is empty")))
    assert (str(error), error.name, error.reason) == ("a.avi: is empty", "a.avi", "is empty")


def test_mutated_archives_give_frames_or_errors_but_never_crash(tmp_path, clip):
    rng = np.random.default_rng(0)
    refused = 0
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive = tmp_path / "a.zip"
        with zipfile.ZipFile(archive, "w", method) as target:
            target.write(clip, "a_rgb.avi")
        whole = archive.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            place = int(rng.integers(len(data)))
            data[place : place + 20] = rng.bytes(20)
            archive.write_bytes(data[: None if rng.random() < 0.8 else place])
            found, broken = find_files(tmp_path)
            refused += len(broken)
            for file in found:
                try:
                    assert encoding.encode_clip(file.source, max_frames=4).frames
                except faults.VideoError as error:
                    assert "a.zip/" in str(error)
                    refused += 1
    assert refused > 40

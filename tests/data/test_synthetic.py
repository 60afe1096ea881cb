"""The demo's films: names, codecs, determinism, and bodies that do what their class says."""

import colorsys
import subprocess
import sys

import av
import cv2
import numpy as np
import pytest
from scipy import stats

from jax_irkd.data.synthetic import (
    __main__,
    acting,
    actors,
    filming,
    motions,
    rendering,
    skeleton,
    staging,
    things,
)
from jax_irkd.data.synthetic.staging import ClipNumbers
from jax_irkd.errors import UserError

SETTINGS = {"subjects": [1, 9], "cameras": [2], "classes": [1, 6], "seed": 5, "progress": False}
CLIPS = [ClipNumbers(s, 2, p, 1, a) for s, p in ((1, 1), (2, 9)) for a in (1, 6)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw") / "films"
    return root, filming.generate(root, workers=1, **SETTINGS)


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*.avi")}


def decode(path):
    with av.open(path) as container:
        return list(container.decode(video=0))


def acted(action, *, seconds=None, duration=2.0, side=-1, seed=3):
    body = skeleton.Body(1.7, 0.19, 0.09, 1.0)
    rng = np.random.default_rng([seed, action])
    seconds = np.linspace(0, duration, 61) if seconds is None else seconds
    return motions.perform(action, seconds, duration, body, side, rng)


def test_names_and_folders_are_those_of_ntu(raw):
    root, summary = raw
    assert (summary.clips, summary.written) == (4, 4)
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert names == {
        "synthetic.json",
        "nturgbd_rgb_s001/nturgb+d_rgb/S001C002P001R001A001_rgb.avi",
        "nturgbd_rgb_s001/nturgb+d_rgb/S001C002P001R001A006_rgb.avi",
        "nturgbd_rgb_s002/nturgb+d_rgb/S002C002P009R001A001_rgb.avi",
        "nturgbd_rgb_s002/nturgb+d_rgb/S002C002P009R001A006_rgb.avi",
        "nturgbd_ir_s001/nturgb+d_ir/S001C002P001R001A001_ir.avi",
        "nturgbd_ir_s001/nturgb+d_ir/S001C002P001R001A006_ir.avi",
        "nturgbd_ir_s002/nturgb+d_ir/S002C002P009R001A001_ir.avi",
        "nturgbd_ir_s002/nturgb+d_ir/S002C002P009R001A006_ir.avi",
    }


def test_rgb_is_h264_with_one_keyframe(raw):
    root, summary = raw
    total = 0
    for clip in CLIPS:
        path = filming.clip_path(root, clip, "rgb")
        with av.open(path) as container:
            codec = container.streams.video[0].codec_context
            assert (container.format.name, codec.name, codec.pix_fmt) == ("avi", "h264", "yuv420p")
            assert container.streams.video[0].average_rate == staging.RGB_RATE
        frames = decode(path)
        assert [frame.key_frame for frame in frames] == [True] + [False] * (len(frames) - 1)
        assert {(frame.width, frame.height) for frame in frames} == {staging.RGB_SIZE}
        total += len(frames)
    assert total == summary.rgb_frames


def test_what_makes_x264_write_other_bytes_is_off(raw):
    """It shows once in some hundred films only; x264 writes its options into the file."""
    for clip in CLIPS:
        data = filming.clip_path(raw[0], clip, "rgb").read_bytes()
        assert b" mbtree=0 " in data and b" threads=1 " in data


def test_infrared_is_grey_intra_coded_and_of_its_own_length(raw):
    root, summary = raw
    total = 0
    for clip in CLIPS:
        frames = decode(filming.clip_path(root, clip, "ir"))
        assert all(frame.key_frame for frame in frames)
        pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        assert pixels.shape[1:] == (staging.INFRARED_SIZE[1], staging.INFRARED_SIZE[0], 3)
        assert (pixels == pixels[..., :1]).all()
        assert len(frames) != len(decode(filming.clip_path(root, clip, "rgb")))
        total += len(frames)
    assert total == summary.infrared_frames
    aspect = staging.INFRARED_SIZE[0] / staging.INFRARED_SIZE[1]
    assert aspect == pytest.approx(512 / 424, rel=0.01)


def test_files_decode_to_what_was_filmed(raw):
    root, _ = raw
    rgb, infrared = staging.film(CLIPS[1], SETTINGS["seed"])
    for modality, frames, error in (("rgb", rgb, 4.0), ("ir", infrared, 4.0)):
        read = decode(filming.clip_path(root, CLIPS[1], modality))
        assert len(read) == len(frames)
        for one, frame in zip(read, frames):
            shown = one.to_ndarray(format="rgb24").astype(float)
            expected = frame if frame.ndim == 3 else frame[..., None]
            assert np.abs(shown - expected).mean() < error


def test_files_depend_on_seed_and_name_only(raw, tmp_path):
    root, _ = raw
    more = SETTINGS | {"classes": [6, 1, 3]}
    filming.generate(tmp_path / "two", workers=2, **more)
    first, second = contents(root), contents(tmp_path / "two")
    assert len(second) == 12 and set(first) < set(second)
    assert all(second[name] == data for name, data in first.items())
    filming.generate(tmp_path / "other", workers=1, **(SETTINGS | {"seed": 6}))
    other = contents(tmp_path / "other")
    assert all(other[name] != data for name, data in first.items())


def test_an_interrupted_run_is_finished_by_repeating_it(tmp_path):
    settings = SETTINGS | {"subjects": [3], "workers": 1}
    filming.generate(tmp_path, **settings)
    before = contents(tmp_path)
    lost = filming.clip_path(tmp_path, ClipNumbers(1, 2, 3, 1, 6), "ir")
    lost.unlink()
    summary = filming.generate(tmp_path, **settings)
    assert (summary.clips, summary.written) == (2, 1)
    assert contents(tmp_path) == before
    assert filming.generate(tmp_path, **settings).written == 0


def test_mpeg4(tmp_path):
    settings = SETTINGS | {"subjects": [2], "classes": [8]}
    filming.generate(tmp_path, workers=1, codec="mpeg4", **settings)
    (path,) = tmp_path.rglob("*_rgb.avi")
    with av.open(path) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert sum(frame.key_frame for frame in decode(path)) < len(decode(path)) / 4


@pytest.mark.slow
def test_every_class_can_be_filmed_and_moves():
    for action in range(1, 11):
        rgb, infrared = staging.film(ClipNumbers(1, 1 + action % 3, 4, 2, action), 1)
        assert rgb.dtype == infrared.dtype == np.uint8
        for frames in (rgb, infrared):
            change = np.abs(frames.astype(float) - frames.mean(0)).mean((1, 2))
            assert 15 < len(frames) < 60 and change.max() > 0.5
        assert infrared.mean() < 0.6 * rgb.mean()  # a dark room


def test_three_cameras_see_the_same_take():
    lengths = {len(staging.film(ClipNumbers(1, camera, 1, 1, 3), 0)[0]) for camera in (1, 2, 3)}
    assert len(lengths) == 1


@pytest.mark.parametrize("action", range(1, 11))
def test_a_performance_does_not_depend_on_the_instants(action):
    seconds = np.linspace(0, 2.0, 61)
    whole, some = acted(action), acted(action, seconds=seconds[[3, 17, 40]])
    for name, path in whole.joints.items():
        np.testing.assert_allclose(some.joints[name], path[[3, 17, 40]], atol=1e-9)
    for one, other in zip(whole.props, some.props, strict=True):
        np.testing.assert_allclose(other.position, one.position[[3, 17, 40]], atol=1e-9)


@pytest.mark.parametrize("action", range(1, 11))
def test_bones_keep_their_length_and_feet_stay_above_the_floor(action):
    joints = acted(action).joints
    for side in ("left", "right"):
        for bone in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
            start, end = (joints[f"{side}_{joint}"] for joint in bone)
            length = np.linalg.norm(end - start, axis=-1)
            assert np.ptp(length) < 1e-6
        assert joints[f"{side}_ankle"][:, 1].min() > 0.03
    assert max(np.abs(np.diff(path, axis=0)).max() for path in joints.values()) < 0.3


def test_left_handers_use_the_other_hand():
    for side, name in ((-1, "right_hand"), (1, "left_hand")):
        cup = acted(1, side=side).props[0]
        assert np.linalg.norm(cup.position - acted(1, side=side).joints[name], axis=-1).max() < 0.1


def distance(performance, first, second):
    return np.linalg.norm(performance.joints[first] - performance.joints[second], axis=-1)


def test_actions_do_what_their_names_say():
    for seed in range(4):
        for action in (1, 2, 3):  # drink, eat, brush teeth: at the mouth, not above it
            assert distance(acted(action, seed=seed), "right_hand", "head").min() < 0.25
        hair = acted(4, seed=seed).joints
        assert (hair["right_hand"] - hair["head"])[:, 1].max() > 0.05
        fall = acted(5, seed=seed).props[0].position[:, 1]
        assert fall[0] > 0.7 and fall[-1] < 0.15
        lift = acted(6, seed=seed).props[0].position[:, 1]
        assert lift[0] < 0.15 and lift[-1] > 0.7
        thrown = acted(7, seed=seed).props[0].position
        assert np.linalg.norm(thrown[-1] - thrown[0]) > 1.0
        sits, rises = (acted(action, seed=seed).joints["pelvis"][:, 1] for action in (8, 9))
        assert sits[0] > 0.8 > 0.6 > sits[-1] and rises[0] < 0.6 < 0.8 < rises[-1]
        hands = distance(acted(10, seed=seed), "right_hand", "left_hand")[20:]
        assert hands.min() < 0.12 and np.sum(np.diff(np.sign(np.diff(hands))) != 0) >= 3


def shown(action, *, takes=40):
    """The things held in many takes of a class, as solids."""
    still = np.zeros((1, 3)), np.array([[0.0, 1.0, 0.0]])
    for seed in range(takes):
        rng = np.random.default_rng([action, seed])
        for thing in acted(action, seconds=np.zeros(1), seed=seed).props:
            yield from things.prop(acting.Prop(thing.kind, *still), rng)


def test_neither_colour_nor_reflectance_of_a_thing_names_its_class():
    # One-way analysis of variance over the classes that hold things: F near 1 without any effect.
    with_things = [action for action in motions.ACTIONS if acted(action).props]
    assert len(with_things) == 7
    solids = {action: list(shown(action)) for action in with_things}
    hue = {
        action: [colorsys.rgb_to_hsv(*solid.color)[0] for solid in made]
        for action, made in solids.items()
    }
    for number in (np.cos, np.sin):
        groups = [number(2 * np.pi * np.array(values)) for values in hue.values()]
        assert stats.f_oneway(*groups).pvalue > 0.001
    groups = [[solid.infrared for solid in made] for made in solids.values()]
    assert stats.f_oneway(*groups).pvalue > 0.001


@pytest.mark.slow
def test_infrared_shows_things_too(monkeypatch):
    # The same films without the things held: what changes is more than the sensor's noise.
    def films(action):
        return np.array([
            staging.film(ClipNumbers(1, 2, person, 1, action), 0)[1][8].astype(float)
            for person in range(1, 9)
        ])  # fmt: skip

    whole = {action: films(action) for action in (4, 5)}
    monkeypatch.setattr(things, "prop", lambda thing, rng: [])
    for action, shown in whole.items():
        change = np.abs(shown - films(action))
        assert np.mean([np.percentile(clip, 99.8) > 8 for clip in change]) > 0.6
        assert np.median(change) == 0  # the rest of the picture is the same, noise and all


@pytest.mark.slow
def test_mean_colours_of_films_do_not_name_the_class():
    # Nearest class mean of the saturated pixels' hues on held-out people, by chance 25 %.
    def look(action, person):
        rgb, _ = staging.film(ClipNumbers(1, 2, person, 1, action), 0)
        hsv = cv2.cvtColor(rgb[len(rgb) // 3], cv2.COLOR_RGB2HSV).reshape(-1, 3)
        vivid = hsv[(hsv[:, 1] > 120) & (hsv[:, 2] > 80), 0]
        return np.histogram(vivid, bins=6, range=(0, 180))[0] / max(len(vivid), 1)

    actions, people = (1, 2, 3, 4), range(1, 17)
    films = np.array([[look(action, person) for person in people] for action in actions])
    means = films[:, ::2].mean(axis=1)
    distance = np.linalg.norm(films[:, 1::2, None] - means, axis=-1)
    right = distance.argmin(-1) == np.arange(4)[:, None]
    assert right.mean() < 0.5  # of 32; with one colour to a class nearly all are right


def test_infrared_brightness_of_cloth_is_independent_of_its_colour():
    looks = [actors.subject(np.random.default_rng(i)) for i in range(300)]
    colour = [sum(look.shirt) for look in looks]
    assert abs(np.corrcoef(colour, [look.infrared["shirt"] for look in looks])[0, 1]) < 0.15


def test_camera_projects_by_hand():
    # From 2 m in front, 90 degrees over 100 pixels: focal length 50, so 1 m is 25 pixels.
    view = rendering.camera(0.0, 2.0, 1.0, np.array([0.0, 1.0, 0.0]), np.pi / 2, (100, 80))
    pixels, depth = view.project(np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 1.0]]))
    np.testing.assert_allclose(pixels, [[50, 40], [75, 40], [50, -10]], atol=1e-9)
    np.testing.assert_allclose(depth, [2, 2, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subjects": 41}, r"subjects must be numbers from 1 to 40, at least one; got 41"),
        ({"subjects": []}, r"subjects must be numbers from 1 to 40, at least one; got \[\]"),
        ({"cameras": (0, 1)}, r"cameras must be numbers from 1 to 3"),
        ({"repetitions": 3}, r"repetitions must be numbers from 1 to 2"),
        ({"classes": [11]}, r"classes must be numbers from 1 to 10"),
        ({"codec": "vp9"}, r"unknown codec 'vp9'; choose from h264, mpeg4"),
        ({"workers": 0}, r"workers 1 or more, not 5 and 0"),
        ({"seed": -1}, r"seed must be 0 or more .* not -1"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        filming.generate(tmp_path / "films", **(SETTINGS | change))
    assert not (tmp_path / "films").exists()


def test_folders_of_others_are_refused(raw, tmp_path):
    root, _ = raw
    with pytest.raises(UserError, match=r"'seed': 5.* not .*'seed': 6.* choose another --out"):
        filming.generate(root, **(SETTINGS | {"seed": 6}))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder; choose another --out"):
        filming.generate(tmp_path, **SETTINGS)
    with pytest.raises(UserError, match="cannot write the demo data to"):
        filming.generate(tmp_path / "thesis.txt" / "films", **SETTINGS)


def test_command_line(tmp_path, capsys):
    out = f"--out={tmp_path / 'films'}"
    chosen = ["--subjects=2", "--cameras=1-2", "--classes=7", "--workers=1"]
    assert __main__.main([out, *chosen]) == 0
    assert "2 clips in" in capsys.readouterr().out
    assert __main__.main([out, "--subjects=1-99"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: subjects must be numbers") and error.count("\n") == 1
    assert __main__.main([out, "--subjects=all"]) == 2
    assert "--subjects: invalid numbers value: 'all'" in capsys.readouterr().err


def test_filming_needs_neither_jax_nor_tensorflow():
    code = (
        "import sys, jax_irkd.data.synthetic;"
        "print([m for m in ('jax', 'tensorflow', 'flax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    blocked = filming.clip_path(tmp_path / "films", CLIPS[0], "rgb").parent
    filming.generate(tmp_path / "films", workers=1, **(SETTINGS | {"subjects": [2]}))
    (blocked / f"{CLIPS[0].name}_rgb.avi").mkdir()  # where the file should go
    with pytest.raises(UserError, match=r"cannot write the demo data to .*P001R001A001_rgb\.avi"):
        filming.generate(tmp_path / "films", workers=1, **SETTINGS)
    assert not list(blocked.glob(".*.part"))

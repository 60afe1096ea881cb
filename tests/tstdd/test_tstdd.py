import os
import signal

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import algorithm
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.host.interrupts import Interrupted, StopRequest
from jax_irkd.runs.identity import identity_of
from jax_irkd.training.logs import read_log
from jax_irkd.training.setup import make_reader
from jax_irkd.tstdd import encoding, flow, network, pictures, pipeline, training
from tests.helpers import fakes


def config():
    made = fakes.config("tstdd")
    section = made.tstdd
    section.size, section.resolution, section.bound = (64, 80), 64, 16.0
    section.stack, section.stride, section.tube, section.width = 2, 1, 2, 3
    section.words, section.samples, section.components = 24, 3000, 16
    section.dropout = 0.1
    section.training.update(
        {
            "optimizer": "sgd",
            "learning_rate": 0.05,
            "num_epochs": 4.0,
            "batch_size": 12,
            "warmup_epochs": 0.0,
        }
    )
    made.input.eval_batch_size = 8
    return made


def pattern(shift, size=64):
    """A smooth random texture, moved by `shift` (right, down) pixels."""
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.random((size + 32, size + 32)).astype(np.float32), (0, 0), 2)
    texture = (texture - texture.min()) / np.ptp(texture) * 255
    right, down = shift
    return texture[16 - down : 16 - down + size, 16 - right : 16 - right + size].astype(np.uint8)


def test_flow_of_a_translated_pattern():
    frames = np.stack([pattern((2 * i, -i)) for i in range(4)])
    found = flow.clip_flow(frames, flow.make_flow("dis"))
    assert found.shape == (3, 64, 64, 2)
    np.testing.assert_allclose(np.median(found, axis=(1, 2)), [[2, -1]] * 3, atol=0.15)
    still = flow.clip_flow(frames[:1], flow.make_flow("dis"))
    assert still.shape == (1, 64, 64, 2) and not still.any()


def test_flow_is_kept_to_a_fraction_of_the_bound():
    fields = np.array([-30.0, -8.0, -1.0, 0.0, 0.3, 8.0, 30.0])
    stored = flow.quantise(fields, 8.0)
    assert stored.tolist() == [1, 1, 112, 128, 133, 255, 255]
    np.testing.assert_allclose(flow.restore(stored) * 8, np.clip(fields, -8, 8), atol=8 / 254)


def test_motion_history_by_hand():
    # Lengths 1, 0, 0.6 at one place; 0, 0.2, 3 (cut off at 1) at another.
    fields = np.array([[[0.6, 0.8], [0, 0]], [[0, 0], [0, 0.2]], [[0, -0.6], [3, 0]]])[:, None]
    history = flow.motion_history(fields, 0.5)
    np.testing.assert_allclose(history[:, 0], [[1, 0], [0.5, 0.2], [0.6, 1]])


def test_stacked_difference_by_hand():
    # Changes of x: 3 then 0 at one place, 0 then 1 at another; of y 4 then 0, and none.
    fields = np.array([[[0, 0], [0, 0]], [[3, 4], [0, 0]], [[3, 4], [1, 0]]], float)[:, None]
    # Means of |x| 1.5, 0.5; |y| 2, 0; length 2.5, 0.5: scaled each place is the largest or least.
    np.testing.assert_allclose(flow.stacked_difference(fields)[0], [[1, 1, 1], [0, 0, 0]])
    three = np.concatenate([fields, fields[:, :, :1] / 2], axis=2)  # 0.75, 1, 1.25 are in between
    np.testing.assert_allclose(flow.stacked_difference(three)[0, 2], [0.25, 0.5, 0.375])
    assert not flow.stacked_difference(fields[:1]).any()


def test_stacks_of_flow_repeat_the_last_field():
    fields = np.arange(3 * 2).reshape(3, 1, 1, 2).astype(float)
    assert flow.stacked_flow(fields, 1, 3)[0, 0].tolist() == [2, 3, 4, 5, 4, 5]


def test_moments_and_pictures_of_a_clip():
    assert pictures.moments(20, 10, 5) == [0, 5, 10] and pictures.moments(4, 10, 5) == [0]
    rng = np.random.default_rng(0)
    stored = rng.integers(1, 256, (6, 64, 80, 2), dtype=np.uint8)
    section = config().tstdd
    for name, count in (("local", 3), ("history", 3), ("difference", 1)):
        made = pictures.make(name, stored, section, [0, 2, 4])
        assert made.shape == (count, 64, 80, pictures.channels(name, section.stack))
        assert np.abs(made).max() <= 1.01
        one = pictures.draw(name, stored, section, [0, 1])
        np.testing.assert_array_equal(one, pictures.draw(name, stored, section, [0, 1]))
        assert one.shape == (64, 64, made.shape[-1])


def test_a_mirrored_clip_has_the_mirrored_flow():
    frames = np.stack([pattern((2 * i, i)) for i in range(3)])
    section = config().tstdd
    both = [
        flow.quantise(flow.clip_flow(found, flow.make_flow("dis")), 8)
        for found in (frames, np.ascontiguousarray(frames[:, :, ::-1]))
    ]
    made = [pictures.make("local", found, section, [0]) for found in both]
    turned = pictures.mirror("local", made[0])
    difference = np.abs(turned - made[1])[:, 8:-8, 8:-8]
    assert difference.mean() < 0.02 < np.abs(made[0] - made[1])[:, 8:-8, 8:-8].mean()


def test_normalised_maps_and_tubes_by_hand():
    maps = np.array([[1.0, 2.0], [4.0, 0.0], [0.0, 0.0]]).reshape(3, 1, 1, 2)
    np.testing.assert_allclose(
        network.normalise_channels(maps)[:, 0, 0], [[0.5, 1], [1, 0], [0, 0]]
    )
    np.testing.assert_allclose(network.normalise_volume(maps)[:, 0, 0], [[0.25, 1], [1, 0], [0, 0]])
    found = network.tube_descriptors(maps, 2)
    # The second tube would have one map only and takes the last two.
    np.testing.assert_allclose(found, [[0.75, 0.5, 0.625, 0.5], [0.5, 0, 0.5, 0]])
    assert network.tube_descriptors(maps, 9).shape == (1, 4)
    with pytest.raises(ValueError, match="at least one map, not 0"):
        network.tube_descriptors(maps, 0)


def test_layers_of_the_network():
    model = network.StreamNet(7, width=6)
    shapes = jax.eval_shape(
        lambda key: model.init_with_output(key, jnp.zeros((2, 112, 112, 4)), train=False),
        jax.random.key(0),
    )
    outputs, variables = shapes
    sides = [outputs.features[name].shape[1] for name in network.LAYERS]
    widths = [outputs.features[name].shape[-1] for name in network.LAYERS]
    assert sides == [56, 14, 7, 7, 7] and widths == [6, 16, 32, 32, 32]
    assert variables["params"]["hidden1"]["kernel"].shape == (4 * 4 * 32, 256)
    assert outputs.logits.shape == (2, 7)


def test_linear_codes_against_a_constrained_least_squares():
    rng = np.random.default_rng(1)
    words, descriptors = rng.normal(size=(20, 6)), rng.normal(size=(9, 6))
    ridge = 1e-2
    codes = encoding.linear_codes(descriptors, words, neighbours=5, ridge=ridge)
    np.testing.assert_allclose(codes.sum(1), 1)
    for x, code in zip(descriptors, codes):
        nearest = np.argsort(((words - x) ** 2).sum(1))[:5]
        assert set(np.flatnonzero(code)) == set(nearest)
        shifted = words[nearest] - x
        # Lagrange: 2 (C + ridge tr(C) I) c = l 1 and 1^T c = 1, solved as one system.
        matrix = shifted @ shifted.T
        matrix += ridge * np.trace(matrix) * np.eye(5)
        system = np.block([[2 * matrix, -np.ones((5, 1))], [np.ones((1, 5)), np.zeros((1, 1))]])
        np.testing.assert_allclose(
            code[nearest], np.linalg.solve(system, [0, 0, 0, 0, 0, 1])[:5], rtol=1e-6
        )


def test_codes_of_hard_cases():
    words = np.array([[0.0, 0.0], [1.0, 0.0]])
    on_a_word = encoding.linear_codes(words[:1], words, neighbours=5)
    np.testing.assert_allclose(on_a_word, [[1, 0]], atol=1e-3)
    single = encoding.linear_codes(np.ones((3, 2)), words[:1])
    np.testing.assert_array_equal(single, np.ones((3, 1)))
    same = encoding.linear_codes(np.zeros((2, 2)), np.zeros((5, 2)))
    np.testing.assert_allclose(same, np.full((2, 5), 0.2))


@pytest.mark.slow
def test_codebooks_whiten():
    rng = np.random.default_rng(2)
    descriptors = rng.normal(size=(500, 8)) * [9, 5, 3, 1, 1, 1, 0, 0] + 4
    book = encoding.fit_codebook(descriptors, components=6, words=12, seed=0)
    white = book.whiten(descriptors)
    np.testing.assert_allclose(np.cov(white.T), np.eye(6), atol=1e-6)
    assert book.words.shape == (12, 6)
    vector = encoding.encode(descriptors[:30], book, 5)
    assert vector.shape == (12,) and np.linalg.norm(vector) == pytest.approx(1)
    flat = encoding.fit_codebook(np.ones((10, 8)), components=6, words=12, seed=0)
    assert len(flat.words) == 1 and np.isfinite(encoding.encode(np.ones((4, 8)), flat, 5)).all()


def test_machines_decide_for_the_right_class():
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 2, 3], 20)
    codes = np.eye(4)[labels] + 0.05 * rng.normal(size=(60, 4))
    svms = encoding.fit_svms(codes, labels, num_classes=4, cost=1.0, seed=0)
    values = svms(codes)
    assert values.shape == (60, 4) and (values.argmax(1) == labels).all()
    alone = encoding.fit_svms(codes[:5], labels[:5], num_classes=4, cost=1.0, seed=0)
    assert (alone(codes).argmax(1) == 0).all()


def cache_in(folder, **fields):
    chosen = {"fingerprint": "f", "size": (32, 40), "bound": 8.0, "algorithm": "dis"}
    return flow.FlowCache(folder, **chosen | fields)


def test_flow_is_kept_and_made_anew_when_damaged(tmp_path, monkeypatch):
    cache, frames = cache_in(tmp_path), fakes.record(0, 1)["infrared"]
    assert cache.read("a/b") is None
    cache.fill("a/b", frames)
    kept = cache.read("a/b")
    assert kept.shape == (4, 32, 40, 2) and kept.dtype == np.uint8
    for damage in (b"", cache.path("a/b").read_bytes()[:-200], b"PK nonsense"):
        cache.path("a/b").write_bytes(damage)
        assert cache.read("a/b") is None
        cache.fill("a/b", frames)
        np.testing.assert_array_equal(cache.read("a/b"), kept)
    assert not list(tmp_path.rglob("*.partial"))
    assert cache_in(tmp_path, bound=4.0).read("a/b") is None
    with pytest.raises(ValueError, match="no readable image"):
        cache.fill("c", [b"nonsense"])
    with pytest.raises(ValueError, match="without frames"):
        cache.fill("c", [])

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(UserError, match=r"Permission denied; name another folder with --config"):
        cache.fill("d", frames)


def test_clips_that_cannot_be_read_are_left_out(tmp_path):
    data = fakes.dataset(clips=9)
    data.splits["train_subjects_c1"][1]["infrared"][2] = b"nonsense"
    made = config()
    reader = make_reader(made, data, "train", ("infrared",))
    found = [*pipeline.find_clips(reader, cache_in(tmp_path), 2, StopRequest(), "train")]
    assert len(found) == 8 and len(reader.faults.clips) == 1
    assert all(isinstance(clip.label, int) for clip in found)


@pytest.fixture
def data(monkeypatch):
    made = fakes.dataset(clips=36, test=12)
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: made)
    return made


@pytest.mark.slow
def test_from_frames_to_results(tmp_path, data, monkeypatch):
    """Interrupted in the first stream and continued: as good as in one go, and beats chance."""
    made = config()
    made.dataset.data_dir = str(tmp_path / "data")
    observe = training.StreamTrainer._observe

    def stop_once(self, log, before, step, progress):
        observe(self, log, before, step, progress)
        if (self.name, step) == ("local", 4):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training.StreamTrainer, "_observe", stop_once)
    with pytest.raises(Interrupted, match="saved step 4 of 12 of the local stream"):
        algorithm.run(made, tmp_path / "runs")
    assert not (tmp_path / "runs" / "tstdd" / "results.json").exists()
    monkeypatch.setattr(training.StreamTrainer, "_observe", observe)
    results = algorithm.run(made, tmp_path / "runs")
    assert results["metrics"]["top1"] >= 0.7  # of three classes
    assert results["method"] == "tstdd" and results["modality"] == "infrared"
    assert set(results["streams"]) == {"local", "history", "difference"}
    assert results["steps"] == 36 and results["num_clips"] == 12
    folder = tmp_path / "runs" / "tstdd"
    steps = [line["step"] for line in read_log(folder)]
    assert steps == list(range(1, 37))
    with np.load(folder / "scores.npz") as scores:
        assert scores["logits"].shape == (12, 3) and len(set(scores["clip_id"])) == 12
        assert np.mean(scores["logits"].argmax(1) == scores["label"]) == results["metrics"]["top1"]
    assert "Streams" in (folder / "report.html").read_text()
    assert list((tmp_path / "data" / "flow").rglob("*.npz"))
    monkeypatch.setattr(pipeline, "_train_and_test", None)
    (folder / "report.html").unlink()  # as if killed before it
    assert algorithm.run(made, tmp_path / "runs") == results
    assert "Streams" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_nothing_is_learned_from_test_clips(tmp_path, monkeypatch):
    """Labels at random give chance; other test clips change no decision, labels none at all."""
    monkeypatch.setattr(pipeline, "STREAMS", ("difference",))
    made = config()
    made.tstdd.training.num_epochs, made.tstdd.cache_dir = 1.0, str(tmp_path / "flow")
    rng = np.random.default_rng(1)

    def scores(name, kept):
        data = fakes.dataset(clips=24, test=30)
        for split, records in data.splits.items():
            for place, record in enumerate(records):
                of_train = np.random.default_rng([split.endswith("c1"), place]).integers(3)
                record["label"] = int(of_train if split.startswith("train") else rng.integers(3))
            if split.startswith("test"):
                del records[kept:]
        return pipeline._train_and_test(made, data, tmp_path / name, StopRequest())[0]

    every = scores("every", 15)
    assert np.mean(every.logits.argmax(1) == every.labels) < 0.6  # known labels would give 1
    some = scores("some", 4)
    same = np.isin(every.clip_ids, some.clip_ids)
    assert len(some.clip_ids) == same.sum() == 8
    np.testing.assert_array_equal(every.logits[same], some.logits)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("resolution", 65, r"tstdd\.resolution is 65; it must be at most the shorter side"),
        ("words", 0, r"tstdd\.words is 0; it must be a whole number of 1 or more"),
        ("decay", 1.0, r"tstdd\.decay is 1\.0; it must be a number of 0 or more and below 1"),
        ("flow", "brox", r"tstdd\.flow is 'brox'; it must be one of dis, tvl1"),
        ("layers", ("conv9",), r"unknown tstdd.layers \['conv9'\]; choose from \['conv1'"),
    ],
)
def test_bad_fields_are_named(tmp_path, data, field, value, message):
    made = config()
    made.dataset.data_dir = str(tmp_path)
    made.tstdd[field] = value
    with pytest.raises(UserError, match=message):
        algorithm.run(made, tmp_path)


def test_a_shift_of_the_student_s_is_said_to_change_nothing(tmp_path, data, monkeypatch, capsys):
    """Its networks have no segments; what was asked for is not dropped in silence."""
    made = config()
    made.student_model.temporal = "shift"
    monkeypatch.setattr(pipeline.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs scikit-learn"):
        pipeline.run(made, data, tmp_path)
    assert "temporal=shift changes nothing there" in capsys.readouterr().err


def test_tvl1_needs_the_contributed_modules(monkeypatch):
    monkeypatch.delattr(cv2, "optflow", raising=False)
    with pytest.raises(UserError, match=r"opencv-contrib.*--config.tstdd.flow=dis"):
        flow.make_flow("tvl1")


def test_only_this_method_is_identified_by_its_section():
    made = config()
    tstdd_fields = [k for k in identity_of(made, "tstdd") if k.startswith("tstdd.")]
    assert "tstdd.words" in tstdd_fields and "tstdd.cache_dir" not in tstdd_fields
    assert not [k for k in identity_of(made, "baseline") if k.startswith("tstdd")]

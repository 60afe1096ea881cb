import dataclasses

import cv2
import numpy as np
import pytest

from jax_irkd.data import loading
from jax_irkd.data.sampling import frame_indices, segment_positions
from jax_irkd.errors import UserError
from jax_irkd.training import setup
from tests.helpers import fakes


def reader(records=None, max_broken=0.5, modalities=("rgb", "infrared")):
    records = fakes.dataset().records(fakes.SPLITS[:2]) if records is None else records
    sizes = {"rgb": (32, 40), "infrared": (24, 30)}
    return loading.ClipReader(
        records, modalities, 2, sizes, loading.Faults(max_broken, len(records))
    )


def take(batches, count):
    return [next(batches) for _ in range(count)]


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        if isinstance(left[name], dict):
            assert_same(left[name], right[name])
        else:
            np.testing.assert_array_equal(left[name], right[name])


def test_a_batch_has_the_documented_shapes_and_types():
    batch = next(loading.training_batches(reader(), seed=0, batch_size=4, first_step=0))
    assert batch["clips"]["rgb"].shape == (4, 2, 32, 40, 3)
    assert batch["clips"]["infrared"].shape == (4, 2, 24, 30, 1)
    assert batch["clips"]["rgb"].dtype == np.uint8
    assert batch["label"].dtype == np.int32 and batch["seed"].dtype == np.uint32


def test_an_epoch_reads_every_clip_once_and_the_next_in_another_order():
    batches = take(loading.training_batches(reader(), seed=0, batch_size=6, first_step=0), 6)
    names = np.concatenate([batch["clip_id"] for batch in batches])
    first, second = names[:18], names[18:]
    assert len(set(first)) == 18 and set(first) == set(second)
    assert list(first) != list(second)


@pytest.mark.parametrize("first_step", [1, 3, 7])
def test_starting_later_gives_the_same_batches(first_step):
    whole = take(loading.training_batches(reader(), seed=5, batch_size=4, first_step=0), 9)
    later = loading.training_batches(reader(), seed=5, batch_size=4, first_step=first_step)
    for expected, batch in zip(whole[first_step:], later, strict=False):
        assert_same(expected, batch)


def test_balanced_batches_go_on_and_are_dealt_out_as_the_others():
    records = [fakes.record(label, i) for i, label in enumerate([0] * 8 + [1] * 2)]
    labels = [record["label"] for record in records]
    options = {"seed": 5, "balanced": labels}
    whole = take(
        loading.training_batches(reader(records), **options, batch_size=4, first_step=0), 6
    )
    assert all(sorted(batch["label"]) == [0, 0, 1, 1] for batch in whole)
    later = loading.training_batches(reader(records), **options, batch_size=4, first_step=4)
    assert_same(whole[4], next(later))
    halves = [
        take(
            loading.training_batches(
                reader(records), **options, batch_size=2, first_step=0, process=(index, 2)
            ),
            2,
        )
        for index in (0, 1)
    ]
    for expected, *parts in zip(whole, *halves):
        assert sorted(expected["clip_id"]) == sorted(np.concatenate([p["clip_id"] for p in parts]))


def test_processes_together_read_what_one_reads():
    whole = take(loading.training_batches(reader(), seed=1, batch_size=6, first_step=2), 4)
    parts = [
        take(
            loading.training_batches(
                reader(), seed=1, batch_size=3, first_step=2, process=(index, 2)
            ),
            4,
        )
        for index in range(2)
    ]
    for step, batch in enumerate(whole):
        together = np.concatenate([part[step]["clip_id"] for part in parts])
        assert sorted(together) == sorted(batch["clip_id"])
        seeds = np.concatenate([part[step]["seed"] for part in parts])
        assert set(seeds) == set(batch["seed"])


@pytest.mark.parametrize(("batch_size", "count"), [(4, 1), (3, 2), (16, 1), (1, 3)])
def test_evaluation_counts_every_clip_once(batch_size, count):
    seen = []
    for index in range(count):
        for batch in loading.evaluation_batches(
            reader(), batch_size=batch_size, process=(index, count)
        ):
            assert len(batch["mask"]) == batch_size
            seen += list(batch["index"][batch["mask"] > 0])
    assert sorted(seen) == list(range(18))


def test_only_the_chosen_frames_are_decoded_and_they_are_the_right_ones():
    record = fakes.record(0, 0, frames=6)
    chosen = frame_indices(segment_positions(2), 6)
    for i in set(range(6)) - set(chosen):
        record["rgb"][i] = b"never read"
    clip = reader([record], modalities=("rgb",)).centre(0)["clips"]["rgb"]
    expected = loading.decode_frame(record["rgb"][chosen[1]], (32, 40), "rgb")
    np.testing.assert_array_equal(clip[1], expected)


def test_a_broken_clip_is_named_and_gives_way_without_shifting_the_rest(caplog):
    good = [fakes.record(i % 3, i) for i in range(12)]
    broken = [dict(record) for record in good]
    broken[4]["rgb"] = [b""] * 6
    broken[4]["clip_id"] = b"BROKEN"
    expected = take(loading.training_batches(reader(good), seed=0, batch_size=4, first_step=0), 3)
    watched = reader(broken)
    batches = take(loading.training_batches(watched, seed=0, batch_size=4, first_step=0), 3)
    differing = 0
    for left, right in zip(expected, batches):
        for i, name in enumerate(left["clip_id"]):
            if name == good[4]["clip_id"].decode():
                differing += 1
                assert right["clip_id"][i] != "BROKEN"
            else:
                assert right["clip_id"][i] == name
                np.testing.assert_array_equal(left["clips"]["rgb"][i], right["clips"]["rgb"][i])
    assert differing == 1
    assert set(watched.faults.clips) == {"BROKEN"}  # how often, depends on what is read ahead
    assert "BROKEN cannot be decoded" in caplog.text


def test_too_many_broken_clips_stop_the_run():
    records = [fakes.record(i % 3, i) for i in range(12)]
    for record in records[:8]:
        record["infrared"] = [b"xx"] * 5
    batches = loading.training_batches(reader(records, 0.01), seed=0, batch_size=4, first_step=0)
    with pytest.raises(UserError, match=r"could not be decoded, more than input.max_broken=1"):
        take(batches, 20)


class Sparse(list):
    """Tiny infrared clips; some are broken."""

    def __init__(self, count, broken):
        good = cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tobytes()
        frames = [[b"" if i in broken else good] for i in range(count)]
        super().__init__(
            {"clip_id": str(i), "label": 0, "infrared": f} for i, f in enumerate(frames)
        )

    @property
    def reader(self):
        faults = loading.Faults(0.01, len(self))
        return loading.ClipReader(self, ("infrared",), 1, {"infrared": (8, 8)}, faults)


@pytest.mark.parametrize(
    ("count", "broken"),
    [(190, [0]), (60, [7]), (200, [0, 1]), (200, [198, 199])],
)
def test_a_share_that_is_allowed_never_stops_a_run(count, broken):
    """Wherever the broken clips lie, in evaluations and in training, however often it reads."""
    evaluated, trained = Sparse(count, broken).reader, Sparse(count, broken).reader
    for _ in range(2):
        batches = loading.evaluation_batches(evaluated, batch_size=count, threads=1)
        assert sum(int(batch["mask"].sum()) for batch in batches) == count - len(broken)
    options = {"seed": 0, "batch_size": count, "first_step": 0, "threads": 1}
    take(loading.training_batches(trained, **options), 2)
    names = {str(i) for i in broken}
    assert set(evaluated.faults.clips) == set(trained.faults.clips) == names


def test_one_more_than_is_allowed_stops_an_evaluation():
    batches = loading.evaluation_batches(
        Sparse(300, [0, 9, 150, 299]).reader, batch_size=10, threads=1
    )
    with pytest.raises(UserError, match=r"^4 of 300 clips could not be decoded.*broken=1\.00%"):
        list(batches)


def test_what_fails_now_and_then_is_judged_by_all_that_was_read():
    faults = loading.Faults(0.01, total=100)
    for number in range(1000):
        faults.count(f"clip {number}" if number % 200 == 0 else None, "the network was away")
    assert faults.read == 1000 and len(faults.clips) == 5


def test_a_broken_test_clip_has_mask_zero():
    records = [fakes.record(0, 0), fakes.record(1, 1)]
    records[1]["rgb"] = []
    batch = next(loading.evaluation_batches(reader(records), batch_size=2))
    np.testing.assert_array_equal(batch["mask"], [1, 0])


def test_frames_cover_the_size_and_keep_their_aspect():
    # A 100 x 200 frame with a bright middle column, fitted to 50 x 50: halved, middle kept.
    frame = np.zeros((100, 200), np.uint8)
    frame[:, 96:104] = 255
    fitted = loading.fit(frame, (50, 50))
    assert fitted.shape == (50, 50)
    assert fitted[25].argmax() in range(23, 27)
    assert loading.fit(np.zeros((20, 20, 3), np.uint8), (32, 40)).shape == (32, 40, 3)


def test_a_missing_dataset_says_how_to_build_it(tmp_path):
    with pytest.raises(UserError) as caught:
        loading.open_dataset("ntu_rgbd_ir/ten", str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "python -m jax_irkd.build ntu_rgbd_ir/ten" in str(caught.value)


def test_splits_that_were_not_built(caplog):
    data = fakes.dataset()
    with pytest.raises(UserError, match=r"none of the splits \['val'\]; it has"):
        data.records(["val"])
    assert len(data.records(["val", "train_subjects_c1"])) == 6
    assert "no clips for the splits ['val']" in caplog.text


def test_a_record_that_cannot_be_read_stays_where_classes_are_left_out():
    """It may be of a class that is left, and has to be counted; it is no clip of a given class."""
    records = Unreadable([fakes.record(i % 3, i) for i in range(9)])
    data = loading.Dataset("x", ("a", "b", "c"), {"train": records}, "x")
    left = data.without(["c"])
    assert left.catalogue(("train",)).labels == [0, 1, 0, -1, 0, 1]
    read = reader(left.records(("train",)))
    masks = [read.centre(i)["mask"] for i in range(6)]
    assert masks == [1, 1, 1, 0, 1, 1] and list(read.faults.clips) == ["record 3"]
    assert data.only("b").catalogue(("train",)).labels == [1, 1]


class Unreadable(list):
    """Records of which the fifth is damaged."""

    def __getitem__(self, index):
        if index == 4:
            raise ValueError("damaged")
        return super().__getitem__(index)


def test_a_large_part_of_a_picture_is_not_cut_off_in_silence():
    """Films of 32 x 40, of which 64 x 32 keeps two fifths, and nothing is lost at 32 x 40."""
    upright = dataclasses.replace(reader(), sizes={"rgb": (64, 32), "infrared": (24, 30)})
    [said] = setup.cut_words(upright)
    assert said == (
        "rgb frames of 32 × 40 (height × width) are read as 64 × 32, without 60% of them; "
        "--config.dataset.rgb_size=32,40 leaves them whole"
    )
    # The films' order is shuffled, so the first says nothing of the others.
    lying = [*upright.records][:3]
    tall = cv2.imencode(".jpg", np.zeros((80, 32, 3), np.uint8))[1].tobytes()
    mixed = upright.of([*lying, {"rgb": [tall], "infrared": []}])
    sizes = {"rgb": (32, 40), "infrared": (24, 30)}
    [said] = setup.cut_words(dataclasses.replace(mixed, sizes=sizes))
    assert said == (
        "rgb frames of 80 × 32 (height × width) are read as 32 × 40, without 68% of them; "
        "others have another shape: no size leaves all of them whole"
    )
    broken = upright.of([{"rgb": [b"no image"], "infrared": []}])
    assert setup.cut_words(reader()) == setup.cut_words(broken) == []

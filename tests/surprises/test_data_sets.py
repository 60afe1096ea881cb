"""A built data set is known by its content, and what lies there now must be what was built."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jax_irkd import build
from jax_irkd.data import built, loading
from jax_irkd.data.synthetic.raw_ntu import ntu_paths, ntu_tree, write_video
from jax_irkd.errors import UserError
from jax_irkd.training import setup
from tests.helpers import fakes

NAME = "ntu_rgbd_ir/ten"


def make(raw: Path, out: Path, *flags: str) -> loading.Dataset:
    flags = ("--workers=1", "--max_frames=3", "--short_side=32", *flags)
    assert build.main([NAME, f"--manual_dir={raw}", f"--data_dir={out}", *flags]) == 0
    return loading.open_dataset(NAME, str(out))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    place = tmp_path_factory.mktemp("raw")
    ntu_tree(place, subjects=(1, 3), cameras=(1, 2), actions=(1, 2), frames=(4, 4))
    return place


@pytest.fixture(scope="module")
def whole(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("built")
    make(raw, out)
    return out


@pytest.fixture
def copy(whole, tmp_path):
    """A copy to damage: its data folder, and the folder of the data set."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / NAME / "1.0.0"


def test_what_an_exchange_left_behind_is_opened_only_alone(copy):
    """`replaced.1.0.0` is the older of two; between two renames it is the only one."""
    place, folder = copy
    now = loading.open_dataset(NAME, str(place)).fingerprint
    for name in ("replaced.1.0.0", "replaced.9.0.0", "incomplete.X9_1.0.0", "0.9.9", "copy.of.it"):
        shutil.copytree(folder, folder.with_name(name))
        assert loading.open_dataset(NAME, str(place)).fingerprint == now
    shutil.rmtree(folder)
    assert ":0.9.9:" in loading.open_dataset(NAME, str(place)).fingerprint
    shutil.rmtree(folder.with_name("0.9.9"))
    assert ":replaced.9.0.0:" in loading.open_dataset(NAME, str(place)).fingerprint
    shutil.rmtree(folder.with_name("replaced.9.0.0"))
    shutil.rmtree(folder.with_name("replaced.1.0.0"))
    with pytest.raises(UserError, match="no dataset"):
        loading.open_dataset(NAME, str(place))


@pytest.mark.slow
def test_the_same_films_are_the_same_data_elsewhere(raw, whole, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    again = make(tmp_path / "raw", tmp_path / "out")
    assert again.fingerprint == loading.open_dataset(NAME, str(whole)).fingerprint
    assert again.generated == ""


def test_one_film_replaced_is_other_data_and_generated_films_are_called_so(raw, whole, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    write_video(ntu_paths(tmp_path / "raw", "S001C001P001R001A001")[1], 5, infrared=True)
    (tmp_path / "raw" / "synthetic.json").write_text("{}")
    made = make(tmp_path / "raw", tmp_path / "out")
    assert made.fingerprint != loading.open_dataset(NAME, str(whole)).fingerprint
    assert made.generated == "generated people, not filmed"


def edit(name, change):
    def damage(folder):
        path = folder / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def one_more(info):
    lengths = info["splits"][0]["shardLengths"]
    lengths[0] = str(int(lengths[0]) + 1)


def one_less(info):
    lengths = info["splits"][0]["shardLengths"]
    lengths[0] = str(int(lengths[0]) - 1)


def records_of(folder):
    return sorted(folder.glob("*.array_record*"))[0]


def cut(folder):
    path = records_of(folder)
    path.write_bytes(path.read_bytes()[:-100])


def old(damage):
    """The same in a data set of before its metadata knew its files."""

    def both(folder):
        edit("metadata.json", lambda about: [about.pop(key) for key in ("files", "digest")])(folder)
        damage(folder)

    return both


DAMAGE = {
    "names lost": (lambda f: (f / "label.labels.txt").unlink(), "labels.txt is missing, and with"),
    "names empty": (lambda f: (f / "label.labels.txt").write_text(""), "labels.txt"),
    "a name twice": (
        lambda f: (f / "label.labels.txt").write_text("a\n" * 10),
        "cannot be read|has other classes",
    ),
    "a name changed": (
        lambda f: (f / "label.labels.txt").write_text("\n".join("abcdefghij")),
        "has other classes than",
    ),
    "file lost": (lambda f: records_of(f).unlink(), "array_record.*No such file"),
    "file cut": (cut, "bytes, .* were built"),
    "file empty": (lambda f: records_of(f).write_bytes(b""), "has 0 bytes"),
    "more announced": (edit("dataset_info.json", one_more), "announces .* records"),
    "fewer announced": (edit("dataset_info.json", one_less), "announces .* records"),
    "old, more announced": (old(edit("dataset_info.json", one_more)), "holds . records where"),
    "old, fewer announced": (old(edit("dataset_info.json", one_less)), "holds . records where"),
    "old, file cut": (old(cut), "is damaged"),
    "metadata damaged": (
        lambda f: (f / "metadata.json").write_text("{"),
        "cannot be read|not JSON",
    ),
    "info damaged": (lambda f: (f / "dataset_info.json").write_text("{"), "cannot be read"),
    "features lost": (lambda f: (f / "features.json").unlink(), "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_was_built_must_still_be_there(copy, kind):
    out, folder = copy
    damage, message = DAMAGE[kind]
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        loading.open_dataset(NAME, str(out))
    assert "build" in str(error.value) and "\n" not in str(error.value)


def test_a_data_set_of_before_can_be_opened(copy):
    out, folder = copy
    old(lambda folder: None)(folder)
    found = loading.open_dataset(NAME, str(out))
    assert "test_subjects_c1=" in found.fingerprint and found.generated == ""


def test_a_renamed_class_changes_the_digest(tmp_path):
    clips = [("a", "train", "1"), ("b", "test", "2")]
    first = built.describe(tmp_path, ["x", "y"], clips, {})["digest"]
    assert built.describe(tmp_path, ["x", "y"], clips[::-1], {})["digest"] == first
    for names, rows in (
        (["x", "z"], clips),
        (["y", "x"], clips),
        (["x", "y"], [("a", "test", "1"), clips[1]]),
        (["x", "y"], [("a", "train", "3"), clips[1]]),
        (["x", "y"], clips[:1]),
    ):
        assert built.describe(tmp_path, names, rows, {})["digest"] != first


@pytest.mark.parametrize("label", [3, -1, 1 << 20])
def test_a_label_beyond_the_classes_stops_the_run(label):
    data = fakes.dataset()
    for records in data.splits.values():
        records[0]["label"] = label
    reader = setup.make_reader(fakes.config(), data, "train", ("infrared",))
    with pytest.raises(UserError, match=f"has the label {label}, but the data set has 3 classes"):
        reader(0, np.random.default_rng(0))
    with pytest.raises(UserError, match=f"has the label {label}"):
        reader.centre(0)

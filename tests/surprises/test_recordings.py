"""Which films belong together in a folder per class: never those of different recordings."""

import itertools
import shutil
import zipfile
from pathlib import Path

import pytest

from jax_irkd.errors import UserError
from jax_irkd.tfds_builders.folder_ir import clips, refusals

KINDS = ("rgb", "infrared")


def write(root: Path, *names: str, content: str = "") -> None:
    """Files that hold `content`, or each its own name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content or name)


def sessions(root: Path) -> None:
    """Two sessions that number their clips alike: the same sizes, other bytes."""
    parts = itertools.product(("s1", "s2"), KINDS, ("clap", "wave"), ("001", "002"))
    write(root, *[f"{session}/{kind}/{label}/{name}.avi" for session, kind, label, name in parts])


def kept(root: Path) -> list[list[str]]:
    """Where the films of every pair lie, below `root`."""
    found = clips.scan(root)
    refusals.refuse_wrong_folder(root, found)
    return [
        [Path(film.source).relative_to(root).as_posix() for film in pair.values()]
        for pair in found.pairs.values()
    ]


def test_recordings_of_one_name_are_refused(tmp_path):
    sessions(tmp_path)
    (tmp_path / "s1/infrared/wave/001.avi").unlink()
    with pytest.raises(UserError) as caught:
        kept(tmp_path)
    message = str(caught.value)
    assert "/s1/" in message and "/s2/" in message and "(4 clips are so)" in message
    assert message.count("\n") == 0 and "rename one recording's films" in message


def test_films_without_partners_in_two_sessions_are_no_pair(tmp_path):
    sessions(tmp_path)
    for path in tmp_path.glob("s2/*/*/*"):
        path.rename(path.with_name(f"1{path.name}"))
    assert len(kept(tmp_path)) == 8
    write(tmp_path, "s1/rgb/wave/9.avi", "s2/infrared/wave/9.avi")
    with pytest.raises(UserError, match=r"s1/rgb/wave/9\.avi and .*s2/infrared/wave/9\.avi are"):
        kept(tmp_path)


def test_two_files_of_one_name_in_one_folder_are_refused(tmp_path):
    write(tmp_path, "rgb/wave/1.avi", "ir/wave/1.avi", "ir/wave/1.mp4")
    with pytest.raises(UserError, match=r"1\.avi and .*1\.mp4 are different recordings"):
        kept(tmp_path)


def test_a_film_in_two_formats_is_named_by_its_pictures(tmp_path):
    names = [f"ir/wave/1/{number}.{suffix}" for number in (1, 2) for suffix in ("jpg", "png")]
    write(tmp_path, "rgb/wave/1.avi", *names)
    with pytest.raises(UserError, match=r"wave/1/1\.jpg and .*wave/1/1\.png are different"):
        kept(tmp_path)


def test_a_folder_per_camera_is_one_recording(tmp_path):
    write(tmp_path, "colour/rgb/wave/1.avi", "heat/ir/wave/1.avi")
    assert kept(tmp_path) == [["colour/rgb/wave/1.avi", "heat/ir/wave/1.avi"]]


def test_copies_are_used_once(tmp_path):
    write(tmp_path, *[f"{kind}/wave/1.avi" for kind in KINDS])
    for kind in KINDS:
        shutil.copytree(tmp_path / kind, tmp_path / "saved" / kind)
    assert len(kept(tmp_path)) == 1
    assert [note.reason for note in clips.scan(tmp_path).notes] == ["duplicate file"] * 2


@pytest.mark.parametrize(
    "second", ["thermal/wave/2.avi", "Thermal/wave/1.avi", "s2/thermal/a/1.avi"]
)
def test_infrared_of_two_cameras_is_no_data_set(tmp_path, second):
    write(tmp_path, "rgb/wave/1.avi", "rgb/wave/2.avi", "nir/wave/1.avi", second)
    with pytest.raises(UserError, match=r"called nir, thermal, and .* move all folders but one"):
        kept(tmp_path)


def test_one_camera_s_folder_may_be_written_in_any_case(tmp_path):
    write(
        tmp_path, "s1/rgb/wave/1.avi", "s1/IR/wave/1.avi", "s2/RGB/wave/2.avi", "s2/ir/wave/2.avi"
    )
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("suffix", [".zip", ".ZIP", ".Zip"])
def test_archives_are_folders_whatever_the_case_of_their_suffix(tmp_path, suffix):
    for kind in ("RGB", "Ir"):
        with zipfile.ZipFile(tmp_path / f"{kind}{suffix}", "w") as archive:
            archive.writestr("wave/1.mp4", kind)
    found = clips.scan(tmp_path)
    assert list(found.pairs) == ["wave/1"] and not found.skipped

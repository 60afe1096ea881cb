"""PKU-MMD's label files, split files and workbook, as published and with their quirks."""

import io

import numpy as np
import pytest

from jax_irkd.data.synthetic.raw_pku import pku_rows, write_actions, write_rows, write_split
from jax_irkd.pku_mmd.annotations import (
    CLASSES,
    Instance,
    background,
    looks_like_labels,
    parse_labels,
    parse_split,
    read_actions,
)


def test_classes_are_alphabetical_as_in_the_workbook():
    assert len(CLASSES) == 51 and list(CLASSES) == sorted(CLASSES)
    assert (CLASSES[0], CLASSES[28], CLASSES[37], CLASSES[50]) == (
        "bow",
        "put something inside pocket",
        "take out something from pocket",
        "writing",
    )


def test_rows_become_half_open_ranges_from_zero():
    # The published base: counted from 1, both ends included.
    labels = parse_labels("8,101,200,2\n51,1,12,1\n")
    assert labels.instances == [Instance(50, 0, 12, 1), Instance(7, 100, 200, 2)]
    assert labels.dropped == labels.repaired == []


@pytest.mark.parametrize(
    ("text", "instances", "dropped", "repaired"),
    [
        # Rows of the published files: 0043-L, 0089-L and 0133-L.
        ("1,4925,4036,2\n", [], ["start after end"], []),
        ("23,0,23,1\n", [(22, 0, 23, 1)], [], ["start before frame 1"]),
        ("34,3644,3650,2\n", [(33, 3643, 3650, 2)], [], []),
        ("5,7,7,0\n", [(4, 6, 7, 0)], [], []),
        ("3,30,40,2\n2,10,20,2", [(1, 9, 20, 2), (2, 29, 40, 2)], [], []),
        ("\ufeff 3 30\t40\r\n\r\n", [(2, 29, 40, 0)], [], []),
        ("52,1,9,2\n0,1,9,2\n", [], ["label not in 1 to 51"] * 2, []),
        ("3,1.5,9,2\nx,1,2,3\n", [], ["not a row of whole numbers"] * 2, []),
        ("3,1\n", [], ["not a row of three or four numbers"], []),
        ("3,-9,-1,2\n", [], ["ends before the first frame"], []),
        ("3,1,9,2\n3,1,9,2\n", [(2, 0, 9, 2)], [], ["row given twice"]),
        (
            "3,1,9,2\n3,1,9,1\n3,0,9\n4,1,9,2\n",
            [(2, 0, 9, 2), (3, 0, 9, 2)],
            [],
            ["row given twice", "start before frame 1", "row given twice"],
        ),
        ("", [], [], []),
    ],
)
def test_label_quirks(text, instances, dropped, repaired):
    labels = parse_labels(text)
    assert labels.instances == [Instance(*row) for row in instances]
    assert [reason for _, reason in labels.dropped] == dropped
    assert [reason for _, reason in labels.repaired] == repaired


def test_skeleton_files_are_no_labels():
    assert looks_like_labels("\n8,101,200,2\n") and looks_like_labels("3,1,2\n")
    assert not looks_like_labels(" ".join(["0.5"] * 150))


def test_split_files_as_published():
    text = "Training videos: \n0002-L, 0002-M, 0364-R, \nValidataion videos: \n0291-L, 0334-R,\n"
    for given in (text, text.replace("\n", "\r\n"), text.replace("Validataion", "Validation")):
        assert parse_split(given) == (["0002-L", "0002-M", "0364-R"], ["0291-L", "0334-R"], [])
    one_line = "training videos: 0002-L, 0002-M\ntest videos: '0291-L', bogus"
    assert parse_split(one_line) == (["0002-L", "0002-M"], ["0291-L"], [])
    assert parse_split(text.replace("0334-R", "334-R")).odd == ["334-R"]


def test_background_lies_between_the_annotations():
    def instance(start, stop):
        return Instance(3, start, stop, 2)

    rows = [instance(300, 360), instance(10, 100), instance(90, 120), instance(600, 640),
            instance(700, 710)]  # fmt: skip
    found = background(rows)
    assert [i.label for i in found] == [51, 51]
    # Frames 128 to 292 and 368 to 592 are free, the middle 150 of each are taken.
    assert [(i.start, i.stop) for i in found] == [(135, 285), (405, 555)]
    assert background([instance(40, 90), instance(150, 200)]) == []  # 32 and 44 frames are short
    assert background([instance(64, 90)]) == [Instance(51, 8, 56, 0)]


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ("9,401,480,2", []),  # a row that is used divides the stretch into two short ones
        ("99,431,440,2", []),
        ("9,431,440,3000000", []),
        ("9,440,401,2", []),  # begins at 440, and nobody knows when it ends
        ("9,520,431,2", []),
        ("99,521,560,2", [(391, 509)]),  # within the next action
        ("9,900000000,431,2", [(391, 509)]),  # names no frames
        ("9,431,x,2", [(391, 509)]),
    ],
)
def test_no_background_where_a_row_was_left_out(row, kept):
    """Something happens between the actions that end at frame 383 and begin at 517."""
    labels = parse_labels(f"3,1,383,2\n{row}\n5,518,600,2\n")
    found = background(labels.instances, labels.taken)
    assert [(i.start, i.stop) for i in found] == kept


def test_workbook(tmp_path):
    names = dict(enumerate(CLASSES, start=1))
    write_actions(tmp_path / "Actions.xlsx", names)
    assert read_actions(tmp_path / "Actions.xlsx") == names
    with pytest.raises(ValueError, match="not a workbook"):
        read_actions(io.BytesIO(b"no zip"))


def test_mutated_annotation_files_never_crash(tmp_path):
    rng = np.random.default_rng(0)
    write_actions(tmp_path / "a.xlsx", dict(enumerate(CLASSES, start=1)))
    write_split(tmp_path / "split.txt", ["0002-L", "0002-M"], ["0291-L"])
    write_rows(tmp_path / "rows.txt", pku_rows(300))
    for name, read in [
        ("a.xlsx", lambda data: read_actions(io.BytesIO(data))),
        ("split.txt", lambda data: parse_split(data.decode("utf-8", "replace"))),
        ("rows.txt", lambda data: parse_labels(data.decode("utf-8", "replace"))),
    ]:
        whole = (tmp_path / name).read_bytes()
        for _ in range(100):
            data = bytearray(whole)
            place = int(rng.integers(len(data)))
            data[place : place + 8] = rng.bytes(int(rng.integers(9)))
            try:
                read(bytes(data[: int(rng.integers(len(data))) if rng.random() < 0.3 else None]))
            except ValueError as error:
                assert name == "a.xlsx" and "not a workbook" in str(error)

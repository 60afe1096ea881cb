"""Raw trees in the layout of PKU-MMD phase 1 at any size, with the quirks of its annotations.

Frame i of every video is `raw_trees.picture(i)`.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from jax_irkd.data.synthetic.raw_ntu import truncate, write_video

Rows = Sequence[tuple[int, int, int, int]]  # Label, first frame, last frame (from 1), confidence.

FOLDERS = {"rgb": "Data/RGB_VIDEO", "infrared": "Data/IR_VIDEO"}
LABELS = "Label/Train_Label_PKU_final"


def pku_rows(frames: int, first_label: int = 1, length: int = 20, gap: int = 10) -> Rows:
    """Annotation rows of `length` frames with gaps between, labels counting up through 51."""
    starts = range(gap + 1, frames - length + 2, length + gap)
    return [
        ((first_label - 1 + i) % 51 + 1, start, start + length - 1, 2)
        for i, start in enumerate(starts)
    ]


def video_path(root: str | Path, name: str, modality: str) -> Path:
    """Where `pku_tree` puts the "rgb" or "infrared" file of a video such as 0002-L."""
    suffix = "-infrared" if modality == "infrared" else ""
    return Path(root, FOLDERS[modality], f"{name}{suffix}.avi")


def label_path(root: str | Path, name: str) -> Path:
    """Where `pku_tree` puts the annotation of a video."""
    return Path(root, LABELS, f"{name}.txt")


def pku_tree(
    root: str | Path,
    *,
    train: Sequence[int] = (2, 3),
    validation: Sequence[int] = (291,),
    views: str = "LMR",
    frames: int = 90,
    infrared_frames: int | None = None,
    size: tuple[int, int] = (64, 48),
    codec: str = "mpeg4",
    classes: Sequence[str] = (),
) -> dict[str, Rows]:
    """Writes videos, annotations, split files and Actions.xlsx; returns the rows by video.

    `train` and `validation` are video numbers, `views` the cameras; M is the validation view.
    """
    everything = {}
    for position, number in enumerate([*train, *validation]):
        for view in views:
            name = f"{number:04d}-{view}"
            write_video(video_path(root, name, "rgb"), frames, size=size, codec=codec)
            write_video(
                video_path(root, name, "infrared"), infrared_frames or frames, infrared=True
            )
            everything[name] = pku_rows(frames, first_label=1 + 7 * position)
            write_rows(label_path(root, name), everything[name])
    held_out = {f"{number:04d}" for number in validation}
    write_split(
        Path(root, "Split", "cross-subject.txt"),
        [name for name in everything if name[:4] not in held_out],
        [name for name in everything if name[:4] in held_out],
    )
    write_split(
        Path(root, "Split", "cross-view.txt"),
        [name for name in everything if not name.endswith("M")],
        [name for name in everything if name.endswith("M")],
    )
    if classes:
        write_actions(Path(root, "Split", "Actions.xlsx"), dict(enumerate(classes, start=1)))
    return everything


def write_rows(path: Path, rows: Rows) -> None:
    """`label,start,end,confidence` lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))


def write_split(path: Path, train: Sequence[str], validation: Sequence[str]) -> None:
    """Four lines as published: trailing blanks, trailing commas and the misspelt header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["Training videos: ", ", ".join(train) + ", "]
    lines += ["Validataion videos: ", ", ".join(validation) + ","]
    path.write_text("".join(line + "\n" for line in lines))


def write_actions(path: Path, names: Mapping[int, str]) -> None:
    """A workbook with the columns Label and Action."""
    texts = ["Label", "Action", *names.values()]
    rows = ['<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c></row>']
    for i, label in enumerate(names, start=2):
        rows.append(
            f'<row r="{i}"><c r="A{i}"><v>{label}</v></c><c r="B{i}" t="s"><v>{i}</v></c></row>'
        )
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    strings = "".join(f"<si><t>{escape(text)}</t></si>" for text in texts)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("[Content_Types].xml", "<Types/>")
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{strings}</sst>")
        sheet = f"<worksheet {space}><sheetData>{''.join(rows)}</sheetData></worksheet>"
        book.writestr("xl/worksheets/sheet1.xml", sheet)


def plant_pku_faults(root: str | Path, rows: Mapping[str, Rows]) -> dict[str, str]:
    """Spoils videos and annotations one after another; returns names with a word expected.

    Needs six videos of which the first has three rows or more.
    """
    names = list(rows)
    if len(names) < 6 or len(rows[names[0]]) < 3:
        raise ValueError("six videos with three rows each are needed")
    label, start, end, sure = rows[names[0]][1]
    spoilt = [(23, 0, 12, 1), *rows[names[0]][::-1], (label, end + 9, start, sure), (99, 5, 20, 2)]
    write_rows(label_path(root, names[0]), spoilt)
    video_path(root, names[1], "rgb").unlink()
    truncate(video_path(root, names[2], "infrared"))
    label_path(root, names[3]).unlink()
    video_path(root, names[4], "infrared").write_bytes(b"")
    last = len(rows[names[5]]) * 1000
    write_rows(label_path(root, names[5]), [*rows[names[5]], (4, last, last + 50, 2)])
    skeleton = Path(root, "Data", "PKU_Skeleton_Renew", f"{names[0]}.txt")
    skeleton.parent.mkdir(parents=True)
    skeleton.write_text(" ".join(["0.125"] * 150) + "\n")
    write_video(Path(root, "Data", "DEPTH_VIDEO", f"{names[0]}-depth.avi"), 3)
    return dict(
        zip(
            names,
            ("start after end", "no rgb", "truncated", "no annotation", "empty", "past the end"),
        )
    )

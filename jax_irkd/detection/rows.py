"""Labelled segments of a video as text, in PKU-MMD's format.

A segment is a row `label,start,end,confidence`. Labels count from 1 and frames count from 1 with
the end included, as in the annotations of PKU-MMD (Liu et al., 2017, arXiv:1703.07475).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from jax_irkd.host.files import write_whole


class Row(NamedTuple):
    """One action: class from 1, first and last frame from 1, and how sure the detector is."""

    label: int
    start: float
    end: float
    confidence: float


def read_rows(path: str | Path, *, confidence: float | None = None) -> list[Row]:
    """Read `label,start,end,confidence` lines, separated by commas or blanks.

    Rows of three numbers (some labels of PKU-MMD phase 2) get `confidence`, or are an error when
    it is None. Empty lines are skipped.
    """
    rows = []
    for number, line in enumerate(Path(path).read_text("utf-8-sig").splitlines(), 1):
        fields = line.replace(",", " ").split()
        if not fields:
            continue
        if len(fields) == 3 and confidence is not None:
            fields.append(str(confidence))
        try:
            label, start, end, sure = (float(field) for field in fields)
            rows.append(Row(int(label), start, end, sure))
        except (ValueError, OverflowError):
            raise ValueError(
                f"{path}, line {number}: expected label,start,end,confidence, found {line!r}"
            ) from None
    return rows


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows in the official format, one `label,start,end,confidence` per line."""
    lines = [f"{r.label},{r.start:.12g},{r.end:.12g},{r.confidence:.12g}\n" for r in rows]
    write_whole(path, "".join(lines))


def read_folder(folder: str | Path, *, confidence: float | None = None) -> dict[str, list[Row]]:
    """Read one file per video; the name without `.txt` is the video, in alphabetical order."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: give one text file per video, 0002-L.txt")
    # A link to nothing is there, too: reading it raises, where passing over it would lose a video.
    there = (p for p in folder.iterdir() if p.is_file() or not p.exists())
    files = sorted(p for p in there if not p.name.startswith("."))
    return {p.name.removesuffix(".txt"): read_rows(p, confidence=confidence) for p in files}


def write_folder(folder: str | Path, rows: Mapping[str, Iterable[Row]]) -> None:
    """Write one `VIDEO.txt` per video, also for a video in which nothing was found."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, found in rows.items():
        write_rows(Path(folder) / f"{name}.txt", found)

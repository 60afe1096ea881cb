"""PKU-MMD's label files, split files and Actions.xlsx, quirks included."""

import re
import zipfile
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from jax_irkd.video.archives import DAMAGED_ZIP

VIDEO_NAME = re.compile(r"^\d{4}-[LMR]$")
LONG_ROW = 20  # numbers, from which on a row is none of an annotation
LAST_FRAME = 10_000_000  # four days of 30 frames per second
HIGHEST_CONFIDENCE = 1_000_000
CLASSES = (
    "bow",
    "brushing hair",
    "brushing teeth",
    "check time (from watch)",
    "cheer up",
    "clapping",
    "cross hands in front (say stop)",
    "drink water",
    "drop",
    "eat meal/snack",
    "falling",
    "giving something to other person",
    "hand waving",
    "handshaking",
    "hopping (one foot jumping)",
    "hugging other person",
    "jump up",
    "kicking other person",
    "kicking something",
    "make a phone call/answer phone",
    "pat on back of other person",
    "pickup",
    "playing with phone/tablet",
    "point finger at the other person",
    "pointing to something with finger",
    "punching/slapping other person",
    "pushing other person",
    "put on a hat/cap",
    "put something inside pocket",
    "reading",
    "rub two hands together",
    "salute",
    "sitting down",
    "standing up",
    "take off a hat/cap",
    "take off glasses",
    "take off jacket",
    "take out something from pocket",
    "taking a selfie",
    "tear up paper",
    "throw",
    "touch back (backache)",
    "touch chest (stomachache/heart pain)",
    "touch head (headache)",
    "touch neck (neckache)",
    "typing on a keyboard",
    "use a fan (with hand or paper)/feeling warm",
    "wear jacket",
    "wear on glasses",
    "wipe face",
    "writing",
)


class Instance(NamedTuple):
    """One action: label from 0, frames `start` to `stop` from 0 and half-open."""

    label: int
    start: int
    stop: int
    confidence: int


MOST_STRETCHES = 2  # of background, a video: about five times as many as clips of an action
MARGIN, SHORTEST, LONGEST = 8, 48, 150  # frames: left out at both ends, kept at least and at most


class Labels(NamedTuple):
    """The instances of a video in order of start, rows left out and repairs, each with a reason.

    `taken` are the frames, from 0 and half-open, in which rows that were left out lie.
    """

    instances: list[Instance]
    dropped: list[tuple[str, str]]
    repaired: list[tuple[str, str]]
    taken: list[tuple[int, int]]


class Split(NamedTuple):
    """Video names of a split file, and the entries that are none."""

    train: list[str]
    validation: list[str]
    odd: list[str]


def background(
    instances: Sequence[Instance], taken: Sequence[tuple[int, int]] = ()
) -> list[Instance]:
    """The longest stretches before and between annotated actions, as a class of their own.

    `MARGIN` frames at both ends are left out, as nobody knows to the frame when an action begins;
    of a long stretch the middle is taken. What comes after the last action is not looked at, and
    neither is a stretch into which frames `taken` by rows that were left out reach: something
    happens there.
    """
    gaps, end = [], 0
    for instance in sorted(instances, key=lambda i: i.start):
        if not any(start < instance.start and stop > end for start, stop in taken):
            gaps.append((end + MARGIN, instance.start - MARGIN))
        end = max(end, instance.stop)
    long = sorted((start - stop, start, stop) for start, stop in gaps if stop - start >= SHORTEST)
    found = []
    for _, start, stop in sorted(long[:MOST_STRETCHES], key=lambda gap: gap[1]):
        length = min(stop - start, LONGEST)
        begin = start + (stop - start - length) // 2
        found.append(Instance(len(CLASSES), begin, begin + length, 0))
    return found


def looks_like_labels(text: str) -> bool:
    """Whether the first row is short; skeleton files share the names and have 150 numbers a row."""
    row = next((line for line in text.splitlines() if line.strip()), "")
    return len(_fields(row)) < LONG_ROW


def parse_labels(text: str) -> Labels:
    """Rows `label,start,end,confidence` to instances.

    Frames in the file count from 1 and include the end. A start of 0 becomes 1; a row that ends
    before it starts is dropped (its numbers belong to other rows, swapping them invents an
    action); rows are sorted. The confidence may be missing (0 then).
    """
    found, dropped, repaired, taken = [], [], [], []
    for line in text.removeprefix("\ufeff").splitlines():
        if not line.strip():
            continue
        reason, instance, span = _row(line)
        if instance is None:
            dropped.append((line.strip(), reason))
            taken += [span] if span else []
            continue
        if reason:
            repaired.append((line.strip(), reason))
        if any(instance[:3] == known[:3] for known in found):  # whatever their confidence
            repaired.append((line.strip(), "row given twice"))
        else:
            found.append(instance)
    return Labels(sorted(found, key=lambda i: (i.start, i.stop)), dropped, repaired, taken)


def _row(line: str) -> tuple[str, Instance | None, tuple[int, int] | None]:
    """What is odd about a row, its instance if it can be used, and the frames it names."""
    try:
        numbers = [int(field) for field in _fields(line)]
    except ValueError:
        return "not a row of whole numbers", None, None
    if len(numbers) not in (3, 4):
        return "not a row of three or four numbers", None, None
    label, start, end, confidence = [*numbers, 0][:4]
    if max(abs(start), abs(end)) > LAST_FRAME:
        return "a number out of range", None, None
    span = min(start, end) - 1, max(start, end)
    if not 1 <= label <= len(CLASSES):
        return f"label not in 1 to {len(CLASSES)}", None, span
    if abs(confidence) > HIGHEST_CONFIDENCE:
        return "a number out of range", None, span
    if start > end:
        return "start after end", None, span
    if end < 1:
        return "ends before the first frame", None, span
    reason = "start before frame 1" if start < 1 else ""
    return reason, Instance(label - 1, max(start, 1) - 1, end, confidence), span


def _fields(line: str) -> list[str]:
    return line.replace(",", " ").replace(";", " ").split()


def parse_split(text: str) -> Split:
    """The four lines of a split file: a header starting with train or valid, then names."""
    result = Split([], [], [])
    target = None
    for line in text.removeprefix("\ufeff").splitlines():
        heading = line.strip().lower()
        if heading.startswith("train"):
            target = result.train
        elif heading.startswith(("valid", "test")):
            target = result.validation
        line = line.split(":", 1)[-1] if ":" in line else line
        for entry in filter(None, (part.strip(" \t\"'[]") for part in line.split(","))):
            if target is not None and VIDEO_NAME.match(entry):
                target.append(entry)
            elif not heading.startswith(("train", "valid", "test")):
                result.odd.append(entry)
    return result


def read_actions(file) -> dict[int, str]:
    """Label and name from Actions.xlsx, an open binary file. Raises ValueError if it is not one."""
    try:
        with zipfile.ZipFile(file) as book:
            names = book.namelist()
            strings = []
            if "xl/sharedStrings.xml" in names:
                root = ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
                strings = ["".join(item.itertext()) for item in root]
            sheets = sorted(name for name in names if name.startswith("xl/worksheets/sheet"))
            sheet = ElementTree.fromstring(book.read(sheets[0]))
        rows = [element for element in sheet.iter() if element.tag.endswith("}row")]
        cells = [[_cell(cell, strings) for cell in row] for row in rows]
    except (*DAMAGED_ZIP, IndexError, ElementTree.ParseError) as error:
        raise ValueError(f"not a workbook ({error})") from error
    return {
        int(float(values[0])): values[1].strip()
        for values in cells
        if len(values) >= 2 and re.fullmatch(r"\d+(\.0)?", values[0])
    }


def _cell(cell: ElementTree.Element, strings: list[str]) -> str:
    value = cell.find("{*}v")
    if cell.get("t") == "s" and value is not None:
        return strings[int(value.text)]
    return value.text or "" if value is not None else "".join(cell.itertext())

"""Records of a built data set: some of them, several parts of them, their names and labels."""

import concurrent.futures
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

# What a record that is damaged, or not as it should be, makes its readers raise.
UNREADABLE = (ValueError, LookupError, TypeError, cv2.error, OSError, RuntimeError)


class Catalogue(NamedTuple):
    """The names and labels of clips; a record that cannot be read has its number and -1."""

    clip_ids: list[str]
    labels: list[int]


def catalogue(records: Sequence, threads: int) -> Catalogue:
    """Reads every record for it."""
    read = functools.partial(_name_and_label, records)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(read, range(len(records))))
    return Catalogue([row[0] for row in rows], [row[1] for row in rows])


def _name_and_label(records: Sequence, index: int) -> tuple[str, int]:
    try:
        record = records[index]
        return text(record["clip_id"]), int(record["label"])
    except UNREADABLE:  # counted and named when it is its turn
        return f"record {index}", -1


class Chosen(Sequence):
    """The records at some places of others; `label_of` may give their labels other numbers."""

    def __init__(
        self,
        records: Sequence,
        places: Sequence[int],
        label_of: Mapping[int, int] | None = None,
    ):
        self._records, self._places, self._label_of = records, places, label_of

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict:
        record = self._records[self._places[index]]
        if self._label_of is None:
            return record
        return {**record, "label": self._label_of[int(record["label"])]}


class Concatenated(Sequence):
    """The records of several parts, one after the other."""

    def __init__(self, parts: Sequence[Sequence]):
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - (int(self._ends[part - 1]) if part else 0)]


def text(value: bytes | str) -> str:
    """A string of a record, which older files hold as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)

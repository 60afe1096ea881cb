"""Who and what is to be seen in which clips, by their names, and which people are kept aside."""

import collections
import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

# What clips have in common that must not be on both sides of a cut, by clip id.
_GROUPS = {
    "subjects": re.compile(r"S\d{3}C\d{3}(?P<group>P\d{3})R\d{3}A\d{3}"),
    "recordings": re.compile(r"(?P<group>\d{4})-[LMR]\b"),
    "named subjects": re.compile(r"(?:.*/)?(?P<group>[^/]+?)__"),
}
# What is left out of an id for what several cameras filmed at once.
_CAMERAS = re.compile(r"(?<=^S\d{3})C\d{3}(?=P\d{3}R\d{3}A\d{3}$)|(?<=^\d{4})-[LMR]-\d+$")


def performances_of(clip_ids: Sequence[str]) -> Int[np.ndarray, " n"]:
    """A number for what each clip shows: the same for clips of one performance.

    NTU RGB+D films every performance with three cameras at once, so that these clips are right or
    wrong together. Of PKU-MMD a recording is one, some twenty actions in a row: its three views do
    not always number them alike. Clips of other names are a performance each.
    """
    names = [_CAMERAS.sub("", str(clip)) for clip in clip_ids]
    return np.unique(names, return_inverse=True)[1].reshape(-1)


def grouped(clip_ids: Sequence[str]) -> tuple[str, list[str]]:
    """What clips are grouped by, and the group of each.

    NTU RGB+D's clips are grouped by subject, PKU-MMD's by recording (its three views are the same
    people), names like `anna__3` by what precedes `__`. A clip whose name says nothing of people
    is a group of its own, called as the clip; its neighbours stay in theirs. What most clips are
    grouped by gives the name.
    """
    found = [_group(str(clip)) for clip in clip_ids]
    kinds = collections.Counter(kind for kind, _ in found) or {"clips": 0}
    return max(kinds, key=lambda kind: kinds[kind]), [group for _, group in found]


def _group(clip: str) -> tuple[str, str]:
    for name, pattern in _GROUPS.items():
        if match := pattern.match(clip):
            return name, match["group"]
    return "clips", clip


def kept_aside(groups: Iterable[str], share: float) -> list[str]:
    """`share` of the distinct groups, at least one and not all; the same ones at every call.

    They are those whose names have the smallest hashes, so that the choice depends on nothing else:
    not on the seed, the method or the order, and a larger share keeps the groups of a smaller one.
    Raises ValueError when there are fewer than two.
    """
    known = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).digest())
    if len(known) < 2:
        raise ValueError(f"{len(known)} group cannot be divided")
    return sorted(known[: min(max(round(share * len(known)), 1), len(known) - 1)])

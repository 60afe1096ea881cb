"""Clips that cannot be read: how many a run bears, and how many in a row."""

import collections
import dataclasses
import logging
import threading

from jax_irkd.errors import UserError

# Clips tried for one place of a batch. Where half of a data set is broken, as many in a row are
# by chance once in 10^12 places.
REPLACEMENTS = 40


@dataclasses.dataclass
class Faults:
    """Clips that could not be decoded; more than `max_share` of all `total` stop the run.

    One broken clip is met again in every pass, and early or late in it: clips are counted once,
    and what fails only now and then is judged by all that was read.
    """

    max_share: float
    total: int
    read: int = 0
    clips: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def count(self, clip: str | None = None, reason: str = "") -> None:
        with self.lock:
            self.read += 1
            if clip is None:
                return
            if clip not in self.clips:
                logging.warning("clip %s cannot be decoded and is skipped: %s", clip, reason)
            self.clips[clip] += 1
            often = sum(self.clips.values()) > self.max_share * max(self.read, self.total)
            if often and len(self.clips) > max(1, self.max_share * self.total):
                raise UserError(
                    f"{len(self.clips)} of {self.total} clips could not be decoded, more than "
                    f"input.max_broken={self.max_share:.2%}; first: {sorted(self.clips)[:5]}; "
                    "check the disk or build the dataset again"
                )

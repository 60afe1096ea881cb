"""When training has blown up: updates, or a network's answers, that are not finite."""

import collections
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jax_irkd.errors import UserError
from jax_irkd.host.files import write_whole

ADVICE = "Lower the learning rate, or set clip_norm, and begin anew with --restart"


class Divergence:
    """How many updates in a row were rejected, and by which clips.

    A state between them is not known to be good: the update that let the network blow up was
    finite itself.
    """

    def __init__(self, folder: Path, most: int):
        self.rejected, self._folder, self._most = 0, folder, most
        self._recent: collections.deque = collections.deque(maxlen=most + 2)

    def read(self, step: int, names: Sequence[str]) -> None:
        self._recent.append((step, names))

    def see(self, step: int, rejected: int, newest: Callable[[], int], writes: bool) -> None:
        """Raises UserError at too many in a row. `newest` tells the last checkpoint's step."""
        self.rejected = rejected
        if rejected < self._most:
            return
        dump = self._folder / f"rejected_batches_{step}.json"
        if writes:
            write_whole(dump, json.dumps(dict(self._recent), indent=1))
        raise UserError(
            f"{rejected} updates in a row were not finite, up to step {step}; the run stops with "
            f"the last good checkpoint, step {newest()}. The clips of these batches are in {dump}. "
            f"{ADVICE}"
        )

    def words(self) -> str:
        """For the end of training; "" where the last update was a good one."""
        if not self.rejected:
            return ""
        return f"warning: the last {self.rejected} updates were not finite and left out. {ADVICE}"


def check_answers(step: int, logits: np.ndarray) -> None:
    """Raises UserError where a network in training puts out what is no number."""
    wrong = int((~np.isfinite(logits)).any(axis=-1).sum())
    if wrong:
        raise UserError(
            f"after step {step} the network's answers to {wrong} of {len(logits)} clips are not "
            f"finite: training has diverged. {ADVICE}"
        )

"""What a line of the log says of the steps since the line before it."""

from collections.abc import Mapping
from typing import Any

MEASURED = ("/pull", "/cosine")  # of single batches, in a line of their own
_LATEST = ("learning_rate", "rejected", "/weight")  # as they stand at the line's step


class LogWindow:
    """The mean of every term over the steps since the last line.

    A step that was rejected counts in none of them: its terms need not be numbers. The sums belong
    into a checkpoint (`saved`), so that a run taken up again writes the lines of one that never
    stopped.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None):
        self._sums: dict[str, list[float]] = {k: list(v) for k, v in (saved or {}).items()}

    @property
    def saved(self) -> dict[str, list[float]]:
        """Sum and count of every term, for JSON."""
        return {name: list(pair) for name, pair in self._sums.items()}

    def line(self, terms: Mapping[str, float], due: bool) -> dict[str, float]:
        """What to log at the step of `terms`: the means where a line is `due`.

        In between what was rejected, or measured in this batch alone; mostly nothing.
        """
        self.add(terms)
        if due:
            return self.close(terms)
        return dict(terms) if terms.get("rejected") else measured(terms)

    def add(self, terms: Mapping[str, float]) -> None:
        """Count the terms of one more step."""
        if terms.get("rejected"):
            return
        for name, value in terms.items():
            if not name.endswith((*MEASURED, *_LATEST)):
                pair = self._sums.setdefault(name, [0.0, 0])
                pair[0], pair[1] = pair[0] + value, pair[1] + 1

    def close(self, terms: Mapping[str, float]) -> dict[str, float]:
        """The line of the step of `terms`, which was added; the next line begins empty."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return {k: means.get(k, v) for k, v in terms.items()} if means else dict(terms)


def measured(terms: Mapping[str, float]) -> dict[str, float]:
    """What was measured in the batch of this step alone, with the weights that follow from it."""
    if not any(name.endswith(MEASURED) for name in terms):
        return {}
    return {k: v for k, v in terms.items() if k.endswith((*MEASURED, "/weight"))}

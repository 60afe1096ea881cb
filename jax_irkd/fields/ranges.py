"""What a value may be: numbers with their ends, choices, and how a message calls them."""

import math
from typing import Any, NamedTuple


class Number(NamedTuple):
    """A number from `low` to `high`; whole if it must be, the ends excluded where `open` says."""

    low: float = 0
    high: float = math.inf
    whole: bool = False
    open: str = ""  # (: above low, ): below high, both: ()

    def holds(self, value: Any) -> bool:
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            return False
        above = value > self.low if "(" in self.open else value >= self.low
        return above and (value < self.high if ")" in self.open else value <= self.high)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"above {self.low:g}" if "(" in self.open else f"of {self.low:g} or more"
        if self.high == math.inf:
            return f"{kind} {low}"
        if not self.open:
            return f"{kind} from {self.low:.10g} to {self.high:.10g}"
        high = f"below {self.high:g}" if ")" in self.open else f"at most {self.high:g}"
        return f"{kind} {low} and {high}"


class Several(NamedTuple):
    """A tuple of at least one number, each as `item` says; of exactly `count` where that is set."""

    item: Number
    count: int = 0

    def holds(self, value: Any) -> bool:
        if (
            not isinstance(value, tuple | list)
            or not value
            or len(value) != (self.count or len(value))
        ):
            return False
        return all(self.item.holds(part) for part in value)

    def __str__(self) -> str:
        if self.count == 2:
            return f"(height, width), each {self.item}, as 256,308"
        return f"one or several, each {self.item}, as 1.0,0.5"


class Choice(NamedTuple):
    """One of some values."""

    values: tuple

    def holds(self, value: Any) -> bool:
        return value in self.values and not isinstance(value, bool)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


class Flag(NamedTuple):
    """True or False."""

    def holds(self, value: Any) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


class Words(NamedTuple):
    """A text, or a tuple of texts, which may be empty where `none` says so."""

    several: bool = False
    example: str = ""
    none: bool = False

    def holds(self, value: Any) -> bool:
        if not self.several:
            return isinstance(value, str)
        return (
            isinstance(value, tuple | list)
            and (bool(value) or self.none)
            and all(isinstance(w, str) for w in value)
        )

    def __str__(self) -> str:
        end = ", or ()" if self.none else ""
        return f"names, as {self.example}{end}" if self.several else "a text"


Rule = Number | Several | Choice | Flag | Words

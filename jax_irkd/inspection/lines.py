"""What the checks of a machine find."""

from typing import NamedTuple

GREEN, YELLOW, RED = "green", "yellow", "red"


class Line(NamedTuple):
    """One finding: how it is, of what, in words, and what to do about it."""

    colour: str
    topic: str
    text: str
    remedy: str = ""

"""What the docstrings of all losses say alike, written once and joined to each by `_inputs.takes`.

A loss writes its equation, the `Args` that are its own and an `Example`. `help(loss)` shows the
arguments that it shares with others too, every default (from the signature, so it is the true
one), what all return and raise, the range of the arrays and, from the first paragraph of the
loss's module, the source.
"""

import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

ARGUMENTS = {
    "labels": "integers of the leading shape, or one-hot rows `(..., k)`.",
    "axis": "where the classes (or channels) are.",
    "where": (
        "bool, broadcast against the examples: which of them count. The others, NaN included, "
        "reach neither the loss nor a gradient, and are left out of the mean. None: all count."
    ),
    "ignore_index": "a label that means padding: such examples do not count. None: there is none.",
    "weights": "a factor for each example; the mean's denominator stays their number. None: 1.",
    "reduction": 'over the examples: "mean", "sum", or "none" for one loss each.',
    "axis_name": (
        "the axis of pmap, shard_map or vmap whose devices hold the other clips of the batch; "
        "they are gathered first. None: all clips are here."
    ),
}
ONE, EACH = "A scalar", 'A scalar, or with `reduction="none"` one number per example'
RETURNS = "Returns:\n    {what}.\n    float32, or float64 where an input is.\n"
RAISES = """Raises:
    ValueError: for shapes that do not fit, unknown options, and numbers outside their range. The
        message begins with the name of the loss. Under jit and grad, where values are unknown,
        only shapes and options are checked.
"""


RELATIONS = "Features from 1e-30 to 1e38; value and gradients are finite there."


def complete(
    loss: Callable[..., Any], returns: bool, largest: Callable[..., float] | None
) -> str | None:
    """The docstring of a loss with every section; None where Python strips docstrings.

    `largest` is the bound of the arrays (`_inputs.takes`), whose docstring says it.
    """
    if loss.__doc__ is None:
        return None
    text = inspect.cleandoc(loss.__doc__)
    text, _, example = text.partition("\nExample:\n")
    about, _, written = text.partition("\nArgs:\n")
    parameters = inspect.signature(loss).parameters
    entries = ARGUMENTS | _entries(written)
    lines = [_entry(name, entries.get(name, ""), p.default) for name, p in parameters.items()]
    sections = [about.rstrip() + "\n", "Args:\n" + "".join(lines)]
    if returns:
        sections.append(RETURNS.format(what=EACH if "reduction" in parameters else ONE))
    if largest and largest.__doc__:
        limit = " ".join(largest.__doc__.split())
        sections.append(_section("Range", f"{limit} Beyond, calls outside jit and grad raise."))
    elif not next(iter(parameters)).endswith("logits"):
        sections.append(_section("Range", RELATIONS))
    sections.append(RAISES)
    if source := sys.modules[loss.__module__].__doc__:
        sections.append(_section("Source", source.strip().split("\n\n")[0]))
    if example:
        sections.append("Example:\n" + example)
    return "\n".join(sections)


def _section(title: str, words: str) -> str:
    lines = textwrap.fill(" ".join(words.split()), 92)
    return f"{title}:\n{textwrap.indent(lines, '    ')}\n"


def _entries(written: str) -> dict[str, str]:
    """The words about each argument, from lines `    name: words` and those further in."""
    found: dict[str, str] = {}
    name = ""
    for line in written.splitlines():
        if line.startswith("    ") and not line.startswith("     ") and ": " in line:
            name, words = line.strip().split(": ", 1)
            found[name] = words
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found


def _entry(name: str, words: str, default: object) -> str:
    if default is not inspect.Parameter.empty:
        words = f"{words} Default\0{default!r}.".strip()
    words = textwrap.fill(f"{name}: {words}", 92, subsequent_indent="    ")
    return textwrap.indent(words, "    ").replace("\0", " ") + "\n"

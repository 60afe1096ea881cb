"""What `help(loss)` shows: every argument, default and section; examples that are true."""

import doctest
import importlib
import inspect
import pydoc
import re

import pytest

import jax_irkd
from jax_irkd import distillers
from tests.helpers.quick_compile import quick_compile  # noqa: F401

PUBLIC = {name: getattr(jax_irkd, name) for name in jax_irkd.__all__}
MODULES = [importlib.import_module(f"jax_irkd.distillers.{name}") for name in distillers.names()]
LOSSES = PUBLIC | {
    name: value
    for module in MODULES
    for name, value in vars(module).items()
    if name.endswith("_loss") and value.__module__ == module.__name__
}


def section(doc: str, name: str) -> str:
    found = re.search(rf"^{name}:\n((?:    .*\n|\n)+)", doc + "\n", re.MULTILINE)
    assert found, f"no section {name}"
    return found[1]


def test_no_loss_is_left_out():
    assert PUBLIC.keys() <= LOSSES.keys() and len(LOSSES) == len(PUBLIC) + 2


@pytest.mark.parametrize("name", LOSSES)
def test_every_argument_is_explained_with_its_default(name):
    loss = LOSSES[name]
    doc = inspect.getdoc(loss)
    explained = dict(
        re.findall(r"^    (\w+): ((?:.+\n)(?: {8}.+\n)*)", section(doc, "Args"), re.MULTILINE)
    )
    parameters = inspect.signature(loss).parameters
    assert list(explained) == list(parameters)
    for key, words in explained.items():
        words, default = " ".join(words.split()), parameters[key].default
        assert len(words.split("Default")[0]) > 5, f"{key} is not explained"
        ends = "" if default is inspect.Parameter.empty else f" Default {default!r}."
        assert words.endswith(ends) and ("Default" in words) == bool(ends)
    assert "scalar" in section(doc, "Returns") and "ValueError: " in section(doc, "Raises")
    assert re.search("gradients? flow", doc, re.IGNORECASE) and "Under jit" in doc
    assert re.search(r"\d{4}|MGCAM|CCSKD", section(doc, "Source")), "whose method is it?"
    logits = next(iter(parameters)).endswith("logits")
    assert re.search(r"\de\d", section(doc, "Range") if not logits else doc), "no range"
    assert max(map(len, doc.splitlines())) <= 100


@pytest.mark.parametrize("name", LOSSES)
def test_help_shows_types(name):
    shown = pydoc.plain(pydoc.render_doc(LOSSES[name]))
    assert re.search(r"Float\[[\w.]*Array, '", shown) and "-> " in shown and "*args" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_examples(name):
    [example] = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={})
    assert re.search(rf"\b{name}\(", example.docstring.split("Example:")[1])
    report: list[str] = []
    results = doctest.DocTestRunner().run(example, out=report.append)
    assert results.attempted >= 3 and not results.failed, "".join(report)

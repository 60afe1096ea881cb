"""Every command that README and docs print is one: its own parser takes it, its configuration is
checked, the files it names that come with the project exist. Nothing is carried out here."""

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator

import pytest

from jax_irkd import __main__ as door
from jax_irkd import command_line
from jax_irkd.config import paper_setup
from jax_irkd.fields import leaves
from jax_irkd.host import parsing
from jax_irkd.studies import planning
from tests.helpers import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES += [ROOT / "docs" / "results" / "index.md"]
PAGES += [ROOT / "docker" / "README.md", *sorted(ROOT.glob("examples/*.py"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
OURS = re.compile(r"`((?:python -m (?:jax_irkd|benchmarks)|jax-irkd|make)\b[^`]*)`")
# What a block of commands may hold beside ours: other programs, and the words of a shell.
OTHERS = ["cd", "conda", "curl", "docker", "git", "jupyter", "ros2", "source", "ssh", "tensorboard"]
OTHERS += ["colcon", "dask", "unzip", "mkdir"]
SHELL = ["#!/bin/bash", "code=$?", "if", "run", "run()", "for", "done", "export"]


class Taken(BaseException):
    """A command's parser has taken its arguments."""


@pytest.fixture
def stopped(monkeypatch):
    """Every command ends as soon as its arguments are taken."""

    def after(function):
        def taken(*given, **named):
            function(*given, **named)
            raise Taken

        return taken

    make_parser = parsing.parser

    def parser(*given):
        made = make_parser(*given)
        made.parse_args = after(made.parse_args)
        return made

    monkeypatch.setattr(parsing, "parser", parser)
    parse = command_line.parse

    def parsed(argv, define, text="", words=0):
        found = parse(argv, define, text, words)
        if text and "--seeds" not in text:  # a command's own, and not a study's
            raise Taken
        return found

    monkeypatch.setattr(command_line, "parse", parsed)
    monkeypatch.setattr(planning, "make_tasks", after(planning.make_tasks))


def blocks(path) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block; of a module its docstring's indented lines."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        lines = (ast.get_docstring(ast.parse(text)) or "").splitlines()
        yield "", "\n".join(line.strip() for line in lines if line.startswith("    ")) + "\n"
        return
    yield from BLOCK.findall(text)


def printed(path) -> list[str]:
    """The lines of every block with commands, and the commands of ours within lines of text."""
    found = []
    for language, text in blocks(path):
        lines = re.sub(r"\\\n\s*", " ", text).splitlines()
        lines = [line.strip() for line in lines if line.strip() and not line.startswith("#SBATCH")]
        first = lines[0].split()[0] if lines else ""
        if language == "bash" or (not language and first in (*PROGRAMS, *OTHERS)):
            found += [line for line in lines if not line.startswith("# ")]
    if path.suffix == ".md":
        found += OURS.findall(BLOCK.sub("", path.read_text("utf-8")))
    return found


def words_of(line: str) -> list[str]:
    """A line's words, without variables in front, what is piped or redirected, and comments."""
    lexer = shlex.shlex(re.sub(r"(?<=\s)#.*", "", line), posix=True, punctuation_chars="|>&;<")
    lexer.whitespace_split = True
    words = list(lexer)
    while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] in ("srun", "nohup")):
        words.pop(0)
    ends = [place for place, word in enumerate(words) if set(word) <= set("|>&;<")]
    return words[: ends[0]] if ends else words


def _python(words: list[str]) -> None:
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file(), f"there is no file {words[0]}"
        source, flags = (ROOT / words[0]).read_text(), words[1:]
        return _flags_are_in(source, flags)
    name, argv = words[1], words[2:]
    if name.split(".")[0] == "benchmarks":
        file = ROOT / f"{name.replace('.', '/')}.py"
        file = file if file.is_file() else ROOT / "benchmarks" / "__main__.py"
        assert name == "benchmarks" or file.stem == name.split(".")[1], f"there is no {name}"
        return _flags_are_in(file.read_text(), argv)
    if name.startswith("jax_irkd"):
        return _door([name.removeprefix("jax_irkd."), *argv] if "." in name else argv)
    assert name in ("zipfile", "venv", "pip"), name
    return None


def _flags_are_in(source: str, argv: list[str]) -> None:
    for word in argv:
        name = word.partition("=")[0]
        known = name in ("--help", "--ros-args") or f'"{name}"' in source
        assert known or not name.startswith("--"), word


def _door(words: list[str]) -> None:
    if not words or words[0] in ("COMMAND", "NAME", "--version", "--help"):
        return
    assert words[0] in door.NAMES, f"unknown command {words[0]}"
    if len(words) == 1 or "--help" in words or any("…" in word for word in words):
        return
    # One seed is as good as three, and a placeholder stands for a value.
    filled = {"METHOD": "at", "FILE_NAME": "at", "seed=N": "seed=1"}
    filled |= {"--seeds=3": "--seeds=1", "--seeds=5": "--seeds=1"}
    argv = words[1:]
    for placeholder, value in filled.items():
        argv = [word.replace(placeholder, value) for word in argv]
    # Files of weights are not here, and a study looks for them before it begins.
    argv = [re.sub(r"^(--config\.weights\.\w+=)\S+\.safetensors$", r"\1", word) for word in argv]
    with pytest.raises(Taken):
        assert not door.module(words[0]).main(argv), "refused"


def _make(words: list[str]) -> None:
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
    for word in words:
        assert word in (*targets, "…") or re.match(r"[A-Z_]+=", word), word


def _pip(words: list[str]) -> None:
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"])
    assert words[0] in ("install", "uninstall")
    for word in words[1:]:
        named = re.fullmatch(r"(?:\.|jax-irkd|.*\.whl)\[(.+)\]", word)
        assert not named or set(named[1].split(",")) <= extras, word
        if word.startswith("requirements/"):
            assert list(ROOT.glob(word.replace("$", "*"))), word


def _tfds(words: list[str]) -> None:
    assert words[0] == "build" and (words[1] == "…" or (ROOT / words[1]).is_dir())


PROGRAMS = {"python": _python, "jax-irkd": _door, "make": _make, "pip": _pip, "tfds": _tfds}


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_printed_command_is_one(path, stopped, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for line in printed(path):
        words = words_of(line)
        if not words or words[0] in OTHERS or words[0] in SHELL:
            continue
        assert words[0] in PROGRAMS, f"{path.name} prints {line!r}, and nothing here knows it"
        try:
            PROGRAMS[words[0]](words[1:])
        except (AssertionError, pytest.fail.Exception, SystemExit, ValueError) as error:
            said = capsys.readouterr().err
            raise AssertionError(f"{path.name} prints {line!r}: {error} {said}") from error


def test_commands_are_found_and_mistakes_in_them_too(stopped, monkeypatch):
    """What is above can fail: of every kind one wrong line."""
    monkeypatch.chdir(ROOT)
    assert sum(len(printed(path)) for path in PAGES) > 60
    for line in (
        "python -m jax_irkd.main --config=configs/ntu.py:method=att",
        "python -m jax_irkd.main --config=configs/ntu.py --config.student_training.lr=3",
        "python -m jax_irkd.predict --run=x --strem=0",
        "python -m jax_irkd.study --config=configs/demo.py --methods=baseline,nothing",
        "jax-irkd mian",
        "make dmeo",
        "pip install '.[cuda99]'",
        "tfds build tfds_builders/kinetics",
        "python examples/nothing.py",
        "python -m benchmarks.student --framse=3",
        "python -m benchmarks.nothing",
    ):
        words = words_of(line)
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            PROGRAMS[words[0]](words[1:])


def test_python_in_the_docs_uses_what_there_is():
    """Every block compiles, and what it imports of ours exists; the README's run elsewhere."""
    seen = 0
    for path in PAGES:
        for language, text in blocks(path):
            if language != "python":
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith("jax_irkd"):
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, name.name) for name in node.names), path
                    seen += 1
    assert seen > 3


def _texts() -> str:
    """Every text of ours in the sources, with … for what is filled in."""

    def text(node) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(text(part) for part in node.values)
        if isinstance(node, ast.BinOp):
            return text(node.left) + text(node.right)
        return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"

    found = []
    for folder in ("jax_irkd", "tfds_builders"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            nodes = ast.walk(ast.parse(path.read_text("utf-8")))
            found += [
                text(n) for n in nodes if isinstance(n, ast.JoinedStr | ast.BinOp | ast.Constant)
            ]
    return "\n".join(found)


@pytest.mark.slow
def test_troubleshooting_names_messages_that_there_are():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    said = _texts()
    assert len(messages) > 30
    assert not [message for message in messages if message not in said]


TEXTS = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "docs" / "results" / "index.md"]
SECTIONS = "input|eval|checkpoints|dataset|tstdd|(?:teacher|student)_(?:model|training)"


def test_names_in_the_docs_are_there():
    """`jax_irkd.room.module.name` and `input.validation` of the pages: modules, names, fields."""
    fields = {path for path, _ in leaves(paper_setup("ours", "cross_subject", 0))}
    unknown = []
    for page in TEXTS:
        text = page.read_text("utf-8")
        named = set(re.findall(r"\bjax_irkd(?:\.\w+)+", text)) - {"jax_irkd.COMMAND"}
        asked = set(re.findall(rf"(?:`|config\.)((?:{SECTIONS})\.[a-z_]+)\b", text))
        unknown += [(page.name, name) for name in named if not _is_there(name)]
        unknown += [(page.name, name) for name in asked if name not in fields]
    assert not unknown
    assert not _is_there("jax_irkd.detection.segments")


def _is_there(name: str) -> bool:
    """Whether a dotted name is a module, or something that its module defines at its top."""
    words = name.split(".")[1:]
    place = ROOT if words[0] in ("configs", "tfds_builders") else ROOT / "jax_irkd"
    while words and ((place / words[0]).is_dir() or (place / f"{words[0]}.py").is_file()):
        place /= words.pop(0)
    source = (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text()
    return not words or bool(re.search(rf"^(def |class |    \")?{words[0]}\b", source, re.M))

"""What a type checker sees of the package."""

import ast
import re
import tomllib
from pathlib import Path

import jax_irkd

ROOT = Path(jax_irkd.__file__).parent.parent


def test_checkers_see_the_names_that_python_imports():
    tree = ast.parse(Path(jax_irkd.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    [block] = [node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {name.asname: node.module for node in block.body for name in node.names}
    assert seen == {name: f"jax_irkd.{module}" for name, module in jax_irkd._DOORS.items()}
    assert (ROOT / "jax_irkd/py.typed").is_file()


def test_lint_asks_for_mistakes_that_must_be_seen():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert "tests/helpers/typed.py" in asked["files"] and asked["warn_unused_ignores"]


def test_every_ignore_names_its_error_and_its_reason():
    ignores = [
        f"{path.name}: {line.strip()}"
        for folder in ("jax_irkd", "configs", "tfds_builders", "benchmarks", "docs")
        for path in ROOT.joinpath(folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if "type: ignore" in line or "pyright: ignore" in line
    ]
    assert not [line for line in ignores if not re.search(r": ignore\[[\w-]+\]  # \w+", line)]

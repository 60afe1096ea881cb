"""What a type checker sees of the package."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jax_irkd

ROOT = Path(jax_irkd.__file__).parent.parent
GOOD = """
import jax
from jax_irkd import Recognizer, dkd_loss

def taught(z: jax.Array, labels: jax.Array) -> jax.Array:
    return dkd_loss(z, z, labels, temperature=4.0)

def read(path: str) -> Recognizer:
    return Recognizer(path)
"""
WRONG = [
    ("temperature=4.0", "temprature=4.0", 'Unexpected keyword argument "temprature"'),
    ("z, z, labels, ", "z, ", "Missing positional argument"),
    ("temperature=4.0", 'temperature="4"', 'incompatible type "str"'),
    ("import Recognizer", "import dkd_los, Recognizer", 'no attribute "dkd_los"'),
]


def test_checkers_see_the_names_that_python_imports():
    tree = ast.parse(Path(jax_irkd.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    [block] = [node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {name.asname: node.module for node in block.body for name in node.names}
    assert seen == {name: f"jax_irkd.{module}" for name, module in jax_irkd._DOORS.items()}
    assert (ROOT / "jax_irkd/py.typed").is_file()


@pytest.mark.slow
def test_a_misspelt_option_of_a_loss_is_an_error(tmp_path):
    (tmp_path / "good.py").write_text(GOOD)
    for number, (right, wrong, _) in enumerate(WRONG):
        assert right in GOOD
        (tmp_path / f"wrong{number}.py").write_text(GOOD.replace(right, wrong))
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml"]
    run = subprocess.run(
        [*command, *sorted(tmp_path.glob("*.py"))], capture_output=True, text=True, cwd=ROOT
    )
    errors = [line for line in run.stdout.splitlines() if "error:" in line]
    assert run.returncode == 1 and len(errors) == len(WRONG), run.stdout + run.stderr
    for (*_, words), line in zip(WRONG, sorted(errors, key=lambda line: line.split("wrong")[1])):
        assert words in line


def test_every_ignore_names_its_error_and_its_reason():
    ignores = [
        f"{path.name}: {line.strip()}"
        for folder in ("jax_irkd", "configs", "tfds_builders", "benchmarks", "docs")
        for path in ROOT.joinpath(folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if "type: ignore" in line or "pyright: ignore" in line
    ]
    assert not [line for line in ignores if not re.search(r": ignore\[[\w-]+\]  # \w+", line)]

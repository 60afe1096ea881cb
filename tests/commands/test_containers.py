"""The Dockerfiles and the conda environment name what there is: they cannot be built in a test."""

import re
import tomllib

import pytest

from tests.helpers import ROOT

FILES = [*sorted(ROOT.glob("docker/*.Dockerfile")), ROOT / "environment.yml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_an_image_is_made_of(path):
    """Files that exist, a lock for its Python, extras of this package, one wheel's sources."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text("utf-8"), flags=re.M)
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    python = re.search(r"python[:=](3\.\d+)", text)[1]
    locks = re.findall(r"--constraint (\S+)", text)
    assert (
        locks == [f"requirements/py{python.replace('.', '')}.txt"] and (ROOT / locks[0]).is_file()
    )
    assert f"Programming Language :: Python :: {python}" in project["project"]["classifiers"]
    (extras,) = re.findall(r"\.\[([\w,-]+)\]", text)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    lines = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY")]
    copied = {name for names in lines for name in names}
    assert all((ROOT / name).exists() for name in copied)
    if copied:  # what the wheel is built from, and what pyproject names
        built = {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]}
        assert copied >= built | {"pyproject.toml", "README.md", "LICENSE"}
        user, home = re.search(r"^USER (\d+):", text, re.M)[1], re.search(r"HOME=(\S+)", text)[1]
        assert user != "0" and f"chmod 1777 {home}" in text and f"WORKDIR {home}\n" in text


def test_the_lock_holds_what_the_extras_ask_for():
    """Every direct requirement but JAX's CUDA wheels and PyTorch is pinned for every Python, and
    the pins agree with the ranges: all extras can be installed together."""
    from packaging.requirements import Requirement

    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    pinned = [needs for name, needs in extras.items() if name not in ("cuda12", "cuda13", "torch")]
    asked = [*project["dependencies"], *(need for needs in pinned for need in needs)]
    for lock in sorted(ROOT.glob("requirements/py*.txt")):
        lines = [line.partition("==")[::2] for line in lock.read_text().split()]
        pins = {re.sub("[-_.]+", "-", name).lower(): version for name, version in lines}
        version = f"3.{lock.stem.removeprefix('py3')}"
        for text in asked:
            need = Requirement(text)
            if need.marker and not need.marker.evaluate({"python_version": version}):
                continue
            name = re.sub("[-_.]+", "-", need.name).lower()
            assert name in pins, f"{lock.name} does not pin {need.name}"
            assert need.specifier.contains(pins[name], prereleases=True), f"{lock.name}: {text}"

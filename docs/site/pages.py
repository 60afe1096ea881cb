"""Pages of the site that have their text elsewhere: the README, and the docstrings."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
TEXTS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
# Rooms of the package in the reference, and what they are for.
ROOMS = {
    "distillers": "Methods",
    "models": "Networks",
    "metrics": "Metrics",
    "training": "Training",
    "data": "Data",
    "video": "Video",
    "weights": "Weights",
    "runs": "Runs",
    "deployment": "Deployment",
    "detection": "Detection",
    "tstdd": "TSTDDs",
    "studies": "Studies",
    "host": "Host",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    reference: list = ["reference/index.md", {"Configuration": "reference/config.md"}]
    for room, title in ROOMS.items():
        pages = [{module: f"reference/{room}/{module}.md"} for module in _modules(room)]
        reference.append({title: pages})
    config.nav.append({"Reference": reference})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    def add(path: str, text: str) -> None:
        files.append(File.generated(config, path, content=text))

    for name, page in TEXTS.items():
        add(page, _moved((ROOT / name).read_text()))
    add("reference/index.md", _index())
    add("reference/config.md", "# jax_irkd.config\n\n::: jax_irkd.config\n")
    for room in ROOMS:
        for module in _modules(room):
            name = f"jax_irkd.{room}.{module}"
            add(f"reference/{room}/{module}.md", f"# {name}\n\n::: {name}\n")
    return files


def _modules(room: str) -> list[str]:
    found = sorted(path.stem for path in (ROOT / "jax_irkd" / room).glob("[!_]*.py"))
    assert found, f"no modules in jax_irkd/{room}"
    return found


def _moved(text: str) -> str:
    """Links of a file at the top of the repository, as seen from the folder of the docs."""
    text = text.replace("](docs/", "](")
    for name, page in TEXTS.items():
        text = text.replace(f"]({name}", f"]({page}")
    # Files that are not on the site are named, not linked.
    elsewhere = r"(?:CITATION\.cff|LICENSE|(?:configs|docker|examples)/[^)]*)"
    return re.sub(rf"\[([^]]+)\]\({elsewhere}\)", r"\1", text)


def _index() -> str:
    losses = re.findall(
        r'"(\w+)": "distillers\.(\w+)"', (ROOT / "jax_irkd/__init__.py").read_text()
    )
    lines = [f"- [`{name}`](distillers/{module}.md)" for name, module in losses]
    lines += ["- [`Recognizer`](deployment/recognizer.md)"]
    return (
        "# Reference\n\nMade from the docstrings. A module's page has everything public in it.\n\n"
        "`from jax_irkd import …` has\n\n" + "\n".join(lines) + "\n"
    )

"""The plan of the house, held: which room may import which, and what stays inside a room.

docs/architecture.md draws it.
"""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import jax_irkd

ROOT = Path(jax_irkd.__file__).parent.parent
OURS = ("jax_irkd", "configs", "tfds_builders", "benchmarks", "tests")
COMMANDS = ["__main__", "bench_student", "build", "doctor", "export", "fuse", "inspect", "main"]
COMMANDS += ["predict", "report", "study"]
# From the top down. A room imports what stands below it, never beside or above it.
FLOORS = (
    COMMANDS,
    ["algorithm"],
    ["studies", "inspection", "tstdd"],
    ["deployment"],
    ["detection"],
    ["reporting"],
    ["weights"],
    ["runs", "command_line"],
    ["training"],
    ["fields"],
    ["config", "pku_mmd"],
    ["distillers", "video"],
    ["models", "metrics", "data"],
    ["host"],
    ["errors"],
)
FLOOR = {room: height for height, rooms in enumerate(reversed(FLOORS)) for room in rooms}
# Where an import can stand: no expression holds one.
STATEMENTS = ast.stmt | ast.ExceptHandler | ast.match_case
# What the pure rooms may import beside the standard library, at the top of a module.
PURE_MODULES = ("jax_irkd.training.steps", "jax_irkd.training.objective")
PURE = {"jax", "flax", "optax", "jaxtyping", "numpy"}


class Import(NamedTuple):
    """One import: who, in which line, what, and whether it happens as soon as `who` is imported."""

    module: str
    line: int
    target: str
    early: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Every module of ours by its name, parsed."""
    paths = (path for folder in OURS for path in ROOT.joinpath(folder).rglob("*.py"))
    return {_name(path): ast.parse(path.read_text(), str(path)) for path in sorted(paths)}


@functools.cache
def imports(module: str) -> tuple[Import, ...]:
    """What the module imports, but for what only a type checker reads."""
    return tuple(_imports(module, sources()[module].body, early=True))


def _imports(module: str, body: list[ast.stmt], early: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (Import(module, node.lineno, name.name, early) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno} imports relatively"
            for name in node.names:
                yield Import(module, node.lineno, _target(f"{node.module}.{name.name}"), early)
        else:
            inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, STATEMENTS)]
            yield from _imports(module, parts, early and not inner)


def _target(name: str) -> str:
    """The name with the folders that a wheel has inside the package where a checkout has them."""
    inside = name.removeprefix("jax_irkd.")
    return inside if inside.split(".")[0] in ("configs", "tfds_builders") else name


def room(name: str) -> str:
    """`training` of jax_irkd.training.loop; other top-level folders are a room each."""
    first, *others = name.split(".")
    if first == "jax_irkd":
        return others[0] if others else "jax_irkd"
    return first


def _ours(*rooms: str) -> list[str]:
    return [name for name in sources() if name.startswith("jax_irkd.") and room(name) in rooms]


@pytest.mark.slow
def test_every_room_has_a_floor():
    assert {room(name) for name in sources() if name.startswith("jax_irkd.")} <= set(FLOOR)


def test_imports_point_down():
    rising = [
        str(found)
        for name in _ours(*FLOOR)
        for found in imports(name)
        if found.target.startswith("jax_irkd.") and room(found.target) != room(name)
        if FLOOR[room(found.target)] >= FLOOR[room(name)]
    ]
    assert not rising


def test_no_circle_among_modules():
    """Not even by way of an import inside a function, which would hide it."""
    graph = {
        name: {
            found.target if found.target in sources() else found.target.rpartition(".")[0]
            for found in imports(name)
        }
        for name in _ours(*FLOOR)
    }
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in done:
            for below in sorted(graph.get(name, set()) - {name}):
                walk(below, (*path, name))
            done.add(name)

    for name in graph:
        walk(name, ())


def test_the_pure_rooms_need_only_jax():
    foreign = [
        str(found)
        for name in [*_ours("models", "distillers", "metrics"), *PURE_MODULES]
        for found in imports(name)
        if found.early and found.target.split(".")[0] not in PURE | sys.stdlib_module_names
        if not found.target.startswith("jax_irkd.")
    ]
    assert not foreign


def test_the_pure_rooms_know_each_other_only_by_what_a_model_returns():
    known = {
        found.target.rpartition(".")[0] if found.target not in sources() else found.target
        for name in [*_ours("models", "distillers", "metrics"), *PURE_MODULES]
        for found in imports(name)
        if found.target.startswith("jax_irkd.") and room(found.target) != room(name)
    }
    assert known == {"jax_irkd.models.outputs"}


def test_a_configuration_needs_only_its_library():
    for name in ("jax_irkd.config", *(name for name in sources() if room(name) == "configs")):
        for found in imports(name):
            library = found.target.split(".")[0] in {"ml_collections"} | sys.stdlib_module_names
            own = found.target.startswith(("jax_irkd.config.", "jax_irkd.errors.", "configs"))
            names = found.target == "jax_irkd.distillers"  # of its files; it imports nothing
            assert own or library or names or not found.early, str(found)


def test_nothing_of_ours_imports_tensorflow():
    # The `tfds` command, which needs it, imports our builders; they do not import it.
    named = [
        str(found)
        for name in sources()
        for found in imports(name)
        if found.target.split(".")[0] in ("tensorflow", "apache_beam") and room(name) != "tests"
    ]
    assert not named


def test_builders_use_rooms_that_know_no_builder():
    """So no circle goes through them, though they lie beside the package."""
    used = {
        room(found.target)
        for name in sources()
        if room(name) == "tfds_builders" and not name.endswith("_test")
        for found in imports(name)
        if found.target.startswith("jax_irkd.")
    }
    assert used <= {"pku_mmd", "video", "data", "host", "errors"}


def test_only_the_build_command_names_a_builder():
    named = {
        room(name)
        for name in sources()
        if name.startswith("jax_irkd")
        for found in imports(name)
        if room(found.target) == "tfds_builders"
    }
    assert named == {"build"}


def test_the_package_knows_neither_its_tests_nor_its_benchmarks():
    for name in sources():
        if room(name) not in ("tests", "benchmarks"):
            assert not [str(f) for f in imports(name) if room(f.target) in ("tests", "benchmarks")]


# Private names


def _is_private(name: str) -> bool:
    # `_shared` keeps the folder out of the list of data sets; what it holds is for all who build.
    return name.startswith("_") and not name.startswith("__") and name != "_shared"


def _at_home(name: str, target: str) -> bool:
    """Whether the module may use what `target` keeps to itself: its room, or the room's tests."""
    if room(name) != "tests":
        return room(name) == room(target)
    mirrored = {"commands": COMMANDS, "builders": ["tfds_builders"]}
    folder = name.split(".")[1]
    return room(target) in mirrored.get(folder, [folder, folder.removeprefix("test_")])


def _names_used(name: str) -> Iterator[tuple[int, str]]:
    """Every name of another module of ours that this one imports, reads or patches."""
    tree, bound = sources()[name], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for imported in node.names:
                full = _target(f"{node.module}.{imported.name}")
                yield node.lineno, full
                if full in sources():
                    bound[imported.asname or imported.name] = full
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, imported.name) for imported in node.names)
            bound |= {n.asname: n.name for n in node.names if n.asname and n.name in sources()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in bound:
                yield node.lineno, f"{bound[node.value.id]}.{node.attr}"
        elif isinstance(node, ast.Call) and "setattr" in ast.unparse(node.func):
            owner, attribute = [*map(ast.unparse, node.args), "", ""][:2]
            if owner.split(".")[0] in bound:
                owner = bound[owner.split(".")[0]] + owner[len(owner.split(".")[0]) :]
                yield node.lineno, f"{owner}.{attribute.strip(chr(34) + chr(39))}"
            yield node.lineno, _target(owner.strip("'\""))


@pytest.mark.parametrize("folder", OURS)
def test_private_names_stay_in_their_room(folder):
    reached = [
        f"{name}:{line} uses {used}"
        for name in sources()
        if name.split(".")[0] == folder
        for line, used in _names_used(name)
        if used.split(".")[0] in OURS and any(map(_is_private, used.split(".")))
        if not _at_home(name, used)
    ]
    assert not reached, "\n".join(reached)


def test_modules_are_few_at_the_top_and_none_is_long():
    assert len([*ROOT.glob("jax_irkd/*.py")]) <= 16
    files = [
        path
        for name in ("jax_irkd", "configs", "tfds_builders")
        for path in ROOT.glob(f"{name}/**/*.py")
    ]
    assert len(files) > 100
    assert not {path.name for path in files if path.read_text().count("\n") > 350}


# One owner for each fact

LAYOUT = {"results.json", "scores.npz", "report.html", "config.json", "metrics.jsonl"}
LAYOUT |= {"checkpoints", "tensorboard"}


def test_the_layout_of_a_runs_folder_has_one_owner():
    """`runs.results` and what it imports name its files; elsewhere no path is put together."""
    typed = [
        f"{name}:{node.lineno} {part.value!r}"
        for name in _ours(*FLOOR)
        for node in ast.walk(sources()[name])
        if (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div))
        or (isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Path", "glob")))
        for part in ast.iter_child_nodes(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
        if LAYOUT & set(part.value.split("/"))
    ]
    assert not typed


def test_a_class_has_a_name_of_its_own():
    found: dict[str, list[str]] = {}
    for module in sources():
        if room(module) in ("jax_irkd", "tfds_builders", "configs", *FLOOR):
            for node in sources()[module].body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found.setdefault(node.name, []).append(module)
    by_file = ("Builder", "Distiller")  # found by the names of their files
    assert not {name: at for name, at in found.items() if len(at) > 1 and name not in by_file}


def test_who_sees_what_has_one_owner():
    """`data.spec`: no module says once more which network sees infrared."""
    again = re.compile(r'"rgb" if .*"infrared"|"teacher" if .*"rgb" else "student"')
    told = [
        name
        for name in _ours(*FLOOR)
        if again.search(ast.unparse(sources()[name]).replace("'", '"'))
    ]
    assert not told


# What is written down about the house


def test_the_picture_shows_the_floors_in_order():
    drawn = ROOT.joinpath("docs/architecture.svg").read_text()
    shown = [text for text in re.findall(r">([a-z_]+)</text>", drawn) if text in FLOOR]
    assert set(shown) >= {name for name in FLOOR if ROOT.joinpath("jax_irkd", name).is_dir()}
    heights = [FLOOR[name] for name in shown]
    assert heights == sorted(heights, reverse=True)


def test_every_room_is_explained():
    text = ROOT.joinpath("docs/architecture.md").read_text()
    rooms = {name for name in FLOOR if ROOT.joinpath("jax_irkd", name).is_dir()}
    assert not {name for name in rooms if f"`{name}/`" not in text}


def test_paths_of_the_guide_exist():
    text = ROOT.joinpath("docs/architecture.md").read_text()
    paths = re.findall(r"`((?:\w+/)+\w+\.py)`", text)
    known = [ROOT, ROOT / "jax_irkd"]
    assert len(paths) > 10
    assert not [path for path in paths if not any((root / path).is_file() for root in known)]


def test_the_version_is_the_same_everywhere():
    version = jax_irkd.__version__
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "jax_irkd/__init__.py"
    assert f"\nversion: {version}\n" in ROOT.joinpath("CITATION.cff").read_text()
    assert re.search(r"^## (\S+)", ROOT.joinpath("CHANGELOG.md").read_text(), re.M)[1] == version

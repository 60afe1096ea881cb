"""The wheel: one top-level name, which works in any folder and, for its losses, with jax alone."""

import importlib.metadata
import os
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement

from tests.helpers import ROOT

pytest.importorskip("hatchling")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the wheel of this checkout is unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def python(site, folder, *argv):
    environment = {**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *argv], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_wheel_adds_one_name_and_no_tests(site):
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"jax_irkd"}
    files = {str(path.relative_to(site / "jax_irkd")) for path in (site / "jax_irkd").rglob("*")}
    assert not [name for name in files if name.endswith("_test.py")]
    tracked = subprocess.run(
        ["git", "ls-files", "jax_irkd", "configs", "tfds_builders"],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    for name in tracked:
        if not name.endswith("_test.py") and (ROOT / name).exists():
            assert name.removeprefix("jax_irkd/") in files
    entry = next(site.glob("*.dist-info")) / "entry_points.txt"
    assert "jax-irkd = jax_irkd.__main__:main" in entry.read_text()


EVERYWHERE = """
import sys
from jax_irkd import build, command_line, study
from jax_irkd.detection import untrimmed
from jax_irkd.studies import planning
for name in ("ntu", "configs/ntu.py", "pku", "configs/demo.py", "configs/mine.py"):
    asked = command_line.parse([f"--config={name}:method=at,seed=3"], lambda values: None)
    print(asked.config.dataset.name, asked.config.method, asked.config.seed)
for name in build.datasets():
    print(build.make_builder(name, "data").name)
print(planning.read_settings(["--config=ntu"]).file)
print(study.main(["--config=ntu", "--report_only"]))
assert not {"configs", "tfds_builders"} & set(sys.modules)
"""
HOSTILE = "raise SystemExit('a file of the user was taken for ours')"


@pytest.mark.slow
@pytest.mark.parametrize("package", [True, False])
def test_the_wheel_beside_folders_of_the_same_names(site, tmp_path, package):
    for folder in ("configs", "tfds_builders"):
        (tmp_path / folder).mkdir()
        for file in ["base.py", "ntu_rgbd_ir.py", *(["__init__.py"] if package else [])]:
            (tmp_path / folder / file).write_text(HOSTILE)
    (tmp_path / "configs" / "pku.py").write_text(HOSTILE)  # reached by this path only
    (tmp_path / "configs" / "mine.py").write_text(
        "from jax_irkd.config import paper_setup, parse\n"
        "def get_config(arg=''):\n"
        "    options = parse(arg, method='ours', protocol='cross_view', seed=0)\n"
        "    config = paper_setup(**options)\n"
        "    config.dataset.name = 'mine'\n"
        "    return config\n"
    )
    ended = python(site, tmp_path, "-c", EVERYWHERE)
    assert ended.stdout.splitlines() == [
        "ntu_rgbd_ir/ten at 3",
        "ntu_rgbd_ir/ten at 3",
        "pku_mmd_ir at 3",
        "ntu_rgbd_ir/ten at 3",
        "mine at 3",
        "folder_ir",
        "ntu_rgbd_ir",
        "pku_mmd_ir",
        "ntu",
        "2",
    ], ended.stderr
    assert ended.returncode == 0 and "holds no study" in ended.stderr


LOSSES = """
import sys

class Missing:  # as if what jax, flax and jaxtyping do not bring were not installed
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from jax_irkd import *
import jax_irkd
import jax.numpy as jnp
logits = jnp.array([[1.0, 2.0, 0.5]])
assert dkd_loss(logits, logits, jnp.array([1])) == 0
print(len([name for name in dir() if name.endswith("_loss")]), jax_irkd.__file__)
"""


def brought(*names):
    """The distributions that `pip install NAMES` brings."""
    found, todo = set(), list(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        try:
            needed = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:  # of another Python or system
            continue
        todo += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.slow
def test_losses_need_jax_flax_and_jaxtyping_alone(site, tmp_path):
    there = brought("jax", "flax", "jaxtyping")
    missing = {
        name
        for name, owners in importlib.metadata.packages_distributions().items()
        if not there & {owner.lower().replace("_", "-") for owner in owners}
    } - {"jax_irkd"}
    assert {"cv2", "av", "grain", "tensorflow_datasets", "ml_collections", "sklearn"} <= missing
    ended = python(site, tmp_path, "-c", LOSSES.format(missing=missing))
    assert ended.returncode == 0, ended.stderr
    count, file = ended.stdout.split()
    assert int(count) >= 10 and file.startswith(str(site))

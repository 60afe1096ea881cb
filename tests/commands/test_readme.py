"""The README's snippets run exactly as printed."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import command_line, distillers
from jax_irkd.config import fields_of
from jax_irkd.data.groups import performances_of
from jax_irkd.errors import UserError
from jax_irkd.fields import make_shares
from jax_irkd.metrics import significance
from jax_irkd.runs import answers
from jax_irkd.training import setup
from tests.helpers import ROOT


def snippets():
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)


def test_the_readme_is_short_and_its_pictures_small():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text("utf-8")):
        assert (ROOT / name).stat().st_size < 1_000_000


INDEX = "docs/results/index.md"


def test_the_figures_are_those_of_the_study():
    """What the README and the page of results say is in the study's file, to the last digit."""
    for page, study, figures in (
        ("README.md", "methods", ("64.4", "+8.6", "[+5.9, +11.4]", "33 %", "+7.0", "+5.8")),
        ("README.md", "methods", ("+0.6 [-2.9, +4.6]",)),
        ("README.md", "shift", ("76.6", "+4.1 [+1.6, +6.5]", "+3.4 [+0.8, +6.2]")),
        ("README.md", "gestures", ("81.3", "+6.7 [+3.5, +10.2]", "+1.8 [-0.7, +4.4]")),
        ("README.md", "view", ("65.8", "+6.9 [+2.5, +11.1]", "+1.1 [-2.3, +4.3]")),
        ("README.md", "shift_again", ("78.2", "+1.6 [-1.4, +4.3]", "+1.4 [-1.3, +4.1]")),
        ("README.md", "tstdd", ("88.7", "+25.0 [+21.5, +28.5]")),
        ("README.md", "shift_every", ("-0.4 [-3.2, +2.5]",)),
        ("docs/study.md", "shift_every", ("-0.4 [-3.2, +2.5]",)),
        ("docs/study.md", "shift_again", ("+1.6 [-1.4, +4.3]", "+3.0 [+0.5, +5.6]")),
        ("README.md", "published_paper", ("+3.2", "[+0.4, +5.8]")),
        ("README.md", "long", ("79.9", "+6.3 [+4.6, +8.0]", "[+0.2, +3.9]", "59 % [44, 78]")),
        (INDEX, "shift", ("76.6 ± 2.4 %", "80.7 ± 1.2 %", "80.0 ± 1.5 %")),
        (INDEX, "make_demo", ("90.4 ± 1.5 %", "58.3 ± 3.1 %", "67.5 ± 1.7 %", "[+3.6, +15.2]")),
        ("docs/mgcam.md", "mgcam/identity", ("71.6 ± 2.7 %", "+7.7 [+3.6, +12.0]", "0.44")),
        ("docs/mgcam.md", "mgcam/dkd_identity", ("72.1 ± 1.7 %", "+8.2 [+4.7, +12.0]")),
        ("docs/mgcam.md", "mgcam/uniform", ("62.1 ± 3.6 %", "-1.9 [-6.3, +2.4]", "0.04")),
        ("docs/mgcam.md", "mgcam/maps_identity", ("68.2 ± 1.3 %", "+3.6 [+0.5, +6.4]")),
        ("docs/mgcam.md", "mgcam/maps_default", ("65.1 ± 2.8 %", "+0.4 [-3.8, +5.2]")),
        ("docs/mgcam.md", "mgcam/maps_sharp", ("56.4 ± 3.9 %", "-8.3 [-13.8, -2.0]")),
        ("docs/mgcam.md", "mgcam/sharp", ("55.9 ± 1.7 %", "-8.1 [-13.1, -3.5]", "-0.03")),
        ("docs/custom.md", "custom", ("87.8", "79.5", "+8.3", "[+4.4, +12.5]")),
        (INDEX, "hint", ("71.0 ± 1.5 %", "[+4.0, +9.6]")),
    ):
        said = (ROOT / page).read_text("utf-8").replace("−", "-")
        file = f"{study}.md" if "/" in study else f"{study}/study.md"
        measured = (ROOT / "docs/results" / file).read_text("utf-8")
        assert all(figure in said and figure in measured for figure in figures), (page, study)


@pytest.mark.parametrize(
    "heading, study, count",
    [
        ("Every method", "methods", 26),
        ("The paper's other infrared-only method", "tstdd", 3),
        ("Clips of another kind", "gestures", 12),
        ("The recipe for your own films", "custom", 4),
        ("From another view", "view", 6),
        ("Temporal shift once more", "shift_again", 17),
        ("Temporal shift, every method", "shift_every", 20),
        ("Students trained three times as long", "long", 7),
        ("With the published weights", "published_paper", 20),
        ("FitNet, ReviewKD and OFD", "published_fresh", 8),
    ],
)
def test_the_tables_of_methods_are_those_of_the_studies(heading, study, count):
    """Every mean over seeds, and every difference of all but the teacher and infrared only."""
    said = (ROOT / INDEX).read_text("utf-8").split(f"# {heading}")[1].split("\n#")[0]
    measured = (ROOT / f"docs/results/{study}/study.md").read_text("utf-8")
    table = "\n".join(line for line in said.replace("−", "-").splitlines() if line[:1] == "|")
    figures = re.findall(r"\d+\.\d ± \d+\.\d %|[+-]\d+\.\d \[.*?\]", table)
    assert len(figures) == count and all(figure in measured for figure in figures)


def test_every_study_says_that_its_clips_are_generated():
    """None may be read as one of filmed people, whose figures by the paper stand beside it."""
    studies = sorted((ROOT / "docs/results").rglob("*.md"))
    assert len(studies) > 20
    for page in studies:
        assert "generated" in page.read_text("utf-8").split("\n")[0], page
    for file in (ROOT / "docs/results").glob("*/study.json"):
        assert json.loads(file.read_text("utf-8"))["generated"].startswith("generated"), file


def test_what_longer_training_brings_is_in_the_answers():
    """Infrared only on the same clips, seeds and films, three times the epochs against one."""
    long, short = (
        answers.read(ROOT / f"docs/results/{name}/answers.csv") for name in ("long", "tstdd")
    )
    assert long.clip_ids == short.clip_ids and np.array_equal(long.labels, short.labels)
    seeds = [(seed, "baseline") for seed in range(5)]
    gain = significance.paired_bootstrap(
        long.right(seeds), short.right(seeds), performances=performances_of(long.clip_ids)
    )
    brought, low, high = (100 * x for x in (gain.difference, gain.low, gain.high))
    said = (ROOT / INDEX).read_text("utf-8")
    assert f"{brought:+.1f} points [{low:+.1f}, {high:+.1f}]" in said
    assert "+16.3 points [+13.1, +19.7]" in said


@pytest.mark.parametrize(
    ("seeds", "index", "readme"),
    [
        (range(5), "| {} | +4.2 +1.1", "{} with seeds 0 to 4"),
        (range(5, 10), "for 80.7 %, {} (p = 0.6)", "{} with 5 to 9"),
        (range(10), "All ten seeds together say {} (p = 0.1,", "| {} |\n"),
    ],
)
def test_the_paper_s_method_trained_long_is_in_the_answers(seeds, index, readme):
    files = [ROOT / f"docs/results/long/{name}answers.csv" for name in ("", "fresh_")]
    all_of = answers.joined(files)
    pairs = [[(seed, method) for seed in seeds] for method in ("ours", "baseline")]
    gain = significance.paired_bootstrap(
        *map(all_of.right, pairs), performances=performances_of(all_of.clip_ids)
    )
    brought, low, high = (
        f"{100 * x:+.1f}".replace("-", "−") for x in (gain.difference, gain.low, gain.high)
    )
    for page, said in ((INDEX, index), ("README.md", readme)):
        text = (ROOT / page).read_text("utf-8").replace(" points [", " [")
        assert said.format(f"{brought} [{low}, {high}]") in text


@pytest.mark.slow
def test_the_loss_snippet():
    logits = jax.random.normal(jax.random.key(0), (2, 8, 10))
    given = {"student_logits": logits[0], "teacher_logits": logits[1], "labels": jnp.arange(8)}
    exec(snippets()[0], given)
    assert given["loss"].shape == () and float(given["loss"]) > 0


@pytest.fixture(params=["mine", "my_methods.mine"])
def method(request, tmp_path, monkeypatch):
    """The README's method as a file dropped into distillers/, and as a module elsewhere."""
    folder = tmp_path / "my_methods"
    folder.mkdir()
    (folder / "mine.py").write_text(snippets()[1])
    if "." in request.param:
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setattr(distillers, "__path__", [*distillers.__path__, str(folder)])
    yield request.param
    for name in ("jax_irkd.distillers.mine", "my_methods.mine", "my_methods"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_method_is_one_file(method):
    """It is named, its fields are flags, it fits both networks, and its gradient reaches them."""
    assert fields_of(method) == {"weight": 1.0}
    assert "." in method or method in distillers.names()
    argv = [f"--config=configs/ntu.py:method={method}", f"--config.distillers.{method}.weight=3"]
    config = command_line.parse(argv, lambda values: None).config
    assert config.distillers[method].weight == 3
    made = setup.make_distillers(config.distillers)
    assert made[method].weight == 3
    config.teacher_model.width = config.student_model.width = 8
    config.input.num_segments, config.input.resolution = 2, 64
    setup.check_fit(config, made, 10)


def test_its_shares_and_mistakes_are_those_of_every_method(method):

    def parse(*argv):
        return command_line.parse(argv, lambda values: None).config

    balanced = parse(f"--config=configs/ntu.py:method={method},weights=balanced")
    assert make_shares(balanced.distillers) == {method: 0.3}
    with pytest.raises(UserError, match=r"wieght.*weight"):
        parse(f"--config=configs/ntu.py:method={method}", f"--config.distillers.{method}.wieght=3")

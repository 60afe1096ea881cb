"""The table of pulls, from logs written by hand."""

import json
import re

import pytest

from jax_irkd.reporting import pulls, write
from jax_irkd.runs.results import read_run
from jax_irkd.studies import analysis, tables
from tests.helpers.generated_runs import generate_runs

PULLS, COSINES, WEIGHTS = [0.2, 0.4, 0.3, None], [0.1, -0.001, 0.1, None], [2.0, 8.0, 64.0, 64.0]


@pytest.fixture
def workdir(tmp_path):
    """Generated runs; DKD of `ours` was measured in three batches, and MGCAM never."""
    folder = generate_runs(tmp_path, clips=40, steps=60)
    results = folder / "ours" / "results.json"
    content = json.loads(results.read_text())
    content["config"]["distillers"]["dkd"]["share"] = 0.3
    results.write_text(json.dumps(content))
    with (folder / "ours" / "metrics.jsonl").open("a") as log:
        for index, (pull, cosine, weight) in enumerate(zip(PULLS, COSINES, WEIGHTS)):
            line = {"step": 60 + index, "kind": "train", "time": 0.0, "dkd/weight": weight}
            line |= {"dkd/pull": pull, "dkd/cosine": cosine, "mgcam/pull": None}
            log.write(json.dumps(line) + "\n")
    return folder


def test_quartiles_over_the_measured_batches_by_hand(workdir):
    [found] = pulls.pulls_of([read_run(workdir / "ours")])
    assert found["name"] == "dkd" and found["share"] == 0.3 and found["batches"] == 3
    assert found["pull"] == pytest.approx([0.25, 0.3, 0.35])
    assert found["cosine"] == pytest.approx([0.0495, 0.1, 0.1])
    assert found["weight"] == [2.0, 64.0]
    row = ["dkd", "0.3", "0.30 [0.25, 0.35]", "0.10 [0.05, 0.10]", "2 to 64", "3"]
    assert pulls.rows([found]) == [row]
    fixed = found | {"share": None, "weight": None}
    assert [row[1] for row in pulls.rows([fixed])] == ["–"]
    assert [row[4] for row in pulls.rows([fixed])] == ["fixed"]
    assert pulls.pulls_of([read_run(workdir / "baseline")]) == []


def test_pulls_are_on_the_page_of_a_run_that_has_them(workdir):
    write.write_report(workdir)
    pages = {name: (workdir / name / "report.html").read_text() for name in ("ours", "baseline")}
    text = re.sub(r"<[^>]+>", " ", pages["ours"])
    assert pulls.TITLE in text and "0.30 [0.25, 0.35]" in text
    assert pulls.TITLE not in pages["baseline"]


def test_a_study_pools_the_batches_of_all_seeds(workdir):
    run = read_run(workdir / "ours")
    summary = analysis.summarise({(0, "ours"): run, (1, "ours"): run}, ["ours"], {}, replicates=10)
    summary |= {"command": "x", "seeds": [0, 1], "left_out": [], "unfinished": []}
    headers, [row] = tables.pull_rows(summary)
    assert headers[:3] == ["method", "term", "share"]
    assert row[1:] == ["dkd", "0.3", "0.30 [0.23, 0.38]", "0.10 [0.02, 0.10]", "2 to 64", "6"]
    assert f"## {pulls.TITLE}" in tables.markdown(json.loads(json.dumps(summary)))
    titles = [section.title for section in tables.sections(summary)]
    assert "Study: pull of each term" in titles
    summary["methods"]["ours"].pop("pulls")  # of a study from before
    assert tables.pull_rows(summary) is None

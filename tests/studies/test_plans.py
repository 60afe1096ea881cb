"""plan.json: what is at work in a workdir, and what `--report_only` goes by."""

import json

import pytest

from jax_irkd import study
from jax_irkd.errors import UserError
from jax_irkd.host import commands, locks
from jax_irkd.studies import clusters, processes

FIRST = {"command": "python -m jax_irkd.study --first", "methods": ["st"], "seeds": [0]}
ASKED = ["--config=configs/demo.py", "--methods=baseline", "--seeds=1"]


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps(FIRST | {"runs": [[0, "st"]]}))
    return tmp_path


def held(workdir):
    return json.loads((workdir / "plan.json").read_text())["command"]


def test_a_study_that_is_refused_leaves_the_plan_of_the_one_at_work(workdir, capsys):
    with locks.held(workdir, name="study.lock"):
        assert study.main([*ASKED, f"--workdir={workdir}"]) == 2
    assert "another study" in capsys.readouterr().err and held(workdir) == FIRST["command"]


def test_so_does_one_that_cannot_begin(workdir, monkeypatch):
    class Away(processes.Local):
        def begin(self, *_):
            raise UserError("no scheduler answers")

    monkeypatch.setattr(clusters, "make_launcher", lambda *_: Away())
    assert study.main([*ASKED, f"--workdir={workdir}"]) == 2
    assert held(workdir) == FIRST["command"]


def test_the_plan_is_there_before_the_first_run(workdir, monkeypatch):
    seen = []

    class Looks(processes.Local):
        def start(self, ready, running):
            seen.append(held(workdir))
            return {}

    monkeypatch.setattr(clusters, "make_launcher", lambda *_: Looks())
    assert study.main([*ASKED, f"--workdir={workdir}"]) == 75
    assert ["--methods=baseline" in command for command in seen] == [True]


def test_what_continues_is_the_command_of_the_plan(workdir, capsys):
    """The same command again, with `--report_only`, continues nothing."""
    assert study.main(["--report_only", f"--workdir={workdir}"]) == 75
    said = capsys.readouterr().out
    assert f"to continue: {FIRST['command']}\n" in said and commands.AGAIN not in said

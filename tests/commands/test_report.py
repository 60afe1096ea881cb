"""python -m jax_irkd.report: pages anew, of a workdir and of a study's folders."""

import pytest

from jax_irkd import report
from tests.helpers.generated_runs import generate_runs


@pytest.mark.slow
def test_pages_of_a_workdir_and_of_a_study(tmp_path, capsys):
    generate_runs(tmp_path / "one", clips=40)
    generate_runs(tmp_path / "study/seed0", clips=40)
    generate_runs(tmp_path / "study/seed1", ("teacher", "baseline"), clips=40)
    assert report.main([str(tmp_path / "one")]) == 0
    assert (tmp_path / "one/report.html").exists() and (tmp_path / "one/ours/report.html").exists()
    assert "Ours (DKD + MGCAM)" in capsys.readouterr().out
    assert report.main([str(tmp_path / "study")]) == 0
    for seed in ("seed0", "seed1"):
        assert (tmp_path / "study" / seed / "baseline/report.html").exists()
    assert not (tmp_path / "study/report.html").exists()


def test_what_is_no_workdir_is_one_line(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "no finished run in" in capsys.readouterr().err
    assert report.main([str(tmp_path / "none")]) == 2
    assert "is no folder; give the --workdir of a run" in capsys.readouterr().err

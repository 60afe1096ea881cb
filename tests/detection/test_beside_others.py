"""Detection in a folder where other commands are at work, too."""

import json

import pytest
from ml_collections import ConfigDict

from jax_irkd.config import get_evaluation
from jax_irkd.detection import untrimmed
from jax_irkd.errors import UserError
from jax_irkd.host import locks
from jax_irkd.runs.results import save_results

RUN = {"class_names": ["a"], "identity": "first"}
CONFIG = ConfigDict({"eval": get_evaluation(), "protocol": "cross_subject"})


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """What of the lock is seen while detection is at work, in place of detection."""
    found = []

    def detect(*_):
        with pytest.raises(UserError, match="works in"), locks.held(tmp_path, busy="{by} works in"):
            pass
        found.append(json.loads((tmp_path / "results.json").read_text()))
        return dict.fromkeys(untrimmed.FIGURES, 0.5) | {"videos": 1}

    monkeypatch.setattr(untrimmed, "detect", detect)
    monkeypatch.setattr(untrimmed, "load_network", lambda _: (None, {"step": 3}))
    monkeypatch.setattr(untrimmed.write, "add_section", lambda *_: None)
    monkeypatch.setattr(untrimmed, "section", lambda _: None)
    return found


def test_the_folder_is_held_and_what_others_added_is_kept(tmp_path, seen):
    save_results(tmp_path, RUN | {"added": "meanwhile"})
    held = untrimmed.add_detection(CONFIG, tmp_path, RUN)
    assert seen == [RUN | {"added": "meanwhile"}]
    assert held["added"] == "meanwhile" and held["detection"]["step"] == 3
    assert json.loads((tmp_path / "results.json").read_text())["detection"]["F1"] == 0.5
    with locks.held(tmp_path):  # it is free again
        pass


@pytest.mark.parametrize("others", [None, RUN | {"identity": "second"}])
def test_results_of_before_are_not_written_over_another_run(tmp_path, seen, others):
    """Begun anew meanwhile by another command, and stopped or finished."""
    if others:
        save_results(tmp_path, others)
    with pytest.raises(UserError, match=r"was begun anew by another command.*another --workdir"):
        untrimmed.add_detection(CONFIG, tmp_path, RUN)
    kept = tmp_path / "results.json"
    assert not seen and (json.loads(kept.read_text()) if kept.exists() else None) == others


def test_another_command_at_work_is_named(tmp_path, seen):
    save_results(tmp_path, RUN)
    with locks.held(tmp_path), pytest.raises(UserError, match=r"works in .*--busy=wait"):
        untrimmed.add_detection(CONFIG, tmp_path, RUN)
    assert not seen

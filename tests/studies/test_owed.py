"""What a run still owes beside results.json: an end without a failure, and detection."""

import json
import sys

import pytest

from jax_irkd.config import get_evaluation
from jax_irkd.studies import attempts, outputs, planning, processes
from jax_irkd.studies.attempts import DONE, FAILED, STOPPED, WAITING, Status
from jax_irkd.studies.planning import PlannedRun

WANTED = {"window": 64, "stride": 16}


def task_of(tmp_path, results, code=0, detection=None):
    """A run that writes `results` and ends with `code`."""
    folder = tmp_path / "seed0" / "ours"
    folder.mkdir(parents=True)
    path, kept = str(folder / "results.json"), json.dumps(results)
    text = (
        f"import pathlib, sys; pathlib.Path({path!r}).write_text({kept!r}); "
        f"print('error: 3 videos are absent'); sys.exit({code})"
    )
    return PlannedRun(0, "ours", folder, (sys.executable, "-S", "-c", text), None, detection)


def carry_out(task, workdir):
    return processes.run_tasks([task], workdir, processes.Local(1), lambda now: None, poll=0.01)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, Status(DONE)),
        (1, Status(FAILED, "exit code 1: error: 3 videos are absent")),
        (2, Status(FAILED, "exit code 2: 3 videos are absent")),
        (75, Status(STOPPED)),
    ],
)
def test_a_run_whose_command_failed_is_not_done(tmp_path, code, expected):
    task = task_of(tmp_path, {"metrics": {}}, code)
    status = carry_out(task, tmp_path)[0, "ours"]
    assert status.state == expected.state
    [attempt] = attempts.read_attempts(tmp_path)["seed0/ours"]
    assert (attempt["exit_code"], attempt["state"]) == (code, expected.state)
    if expected.state == FAILED:
        assert "3 videos are absent" in status.reason and f"exit code {code}" in status.reason


@pytest.mark.parametrize(
    ("detection", "done"),
    [(None, False), ({"settings": {"window": 9}}, False), ({"settings": WANTED}, True)],
)
def test_detection_that_is_asked_for_is_owed(tmp_path, detection, done):
    trained = {"metrics": {}} | ({"detection": detection} if detection else {})
    found = {"metrics": {}, "detection": {"settings": WANTED}}
    task = task_of(tmp_path, found, detection=WANTED)
    (task.folder / "results.json").write_text(json.dumps(trained))
    plan = {"runs": [[0, "ours"]], "detection": WANTED}
    expected = DONE if done else WAITING
    assert outputs.read_status(tmp_path, plan)[0, "ours"].state == expected
    assert outputs.read_status(tmp_path, {"runs": plan["runs"]})[0, "ours"].state == DONE
    assert attempts.is_done(task) == done and attempts.is_done(task._replace(detection=None))
    assert carry_out(task, tmp_path)[0, "ours"].state == DONE
    assert (tmp_path / "attempts.jsonl").exists() == (not done)


def test_the_plan_knows_what_is_owed(tmp_path):
    argv = ["--config=configs/pku.py", "--config.eval.stride=8"]
    [plain] = planning.make_tasks(planning.read_settings(argv), ["baseline"], [0], tmp_path)
    settings = planning.read_settings([*argv, "--config.eval.detection=True"])
    [asked] = planning.make_tasks(settings, ["baseline"], [0], tmp_path)
    assert plain.detection is None and asked.detection["stride"] == 8
    assert asked.detection == json.loads(json.dumps(asked.detection))  # as results.json has it
    assert set(get_evaluation()) - set(asked.detection) == {"detection", "raw_dir"}

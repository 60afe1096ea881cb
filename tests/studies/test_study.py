import io
import json
import os
import re
import signal
import sys
import threading

import numpy as np
import pytest
from rich.console import Console

from jax_irkd import study
from jax_irkd.errors import UserError
from jax_irkd.host import room
from jax_irkd.metrics import classification
from jax_irkd.reporting.wording import signed
from jax_irkd.runs.results import Run
from jax_irkd.studies import analysis, attempts, board, outputs, planning, processes, tables
from jax_irkd.studies.attempts import DONE, FAILED, STOPPED, WAITING, Status
from tests.helpers.generated_runs import write_run
from tests.helpers.short_runs import kill_when, tasks_in, touch

CLASSES = ("top", "bottom", "side")


def carry_out(tasks, workdir, jobs=1, watch=lambda status: None):
    return processes.run_tasks(tasks, workdir, processes.Local(jobs), watch, poll=0.01)


def logits_of(predicted, classes=3):
    return np.eye(classes)[np.asarray(predicted)] * 4


def generated(workdir, predictions, labels, dataset="generated/three"):
    """Runs from predictions: (seed, method) -> predicted classes."""
    ids = np.array([f"clip{i}" for i in range(len(labels))])
    for (seed, method), predicted in predictions.items():
        folder = workdir / f"seed{seed}" / method
        write_run(folder, method, dataset, CLASSES, ids, labels, logits_of(predicted), 60)
        results = json.loads((folder / "results.json").read_text()) | {"seed": seed}
        (folder / "results.json").write_text(json.dumps(results))


LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
PREDICTIONS = {
    (0, "teacher"): [0, 0, 0, 0, 1, 1, 1, 1, 2, 0],  # 9 right
    (0, "baseline"): [0, 0, 1, 1, 1, 0, 0, 0, 2, 2],  # 5 right
    (0, "ours"): [0, 0, 0, 0, 1, 1, 0, 0, 2, 0],  # 7 right
    (1, "teacher"): [0, 0, 0, 0, 1, 1, 1, 0, 2, 0],  # 8 right
    (1, "baseline"): [0, 0, 0, 1, 1, 0, 0, 0, 2, 0],  # 5 right
    (1, "ours"): [0, 0, 0, 1, 1, 1, 1, 0, 2, 0],  # 7 right
}


def plan(workdir, methods=("baseline", "ours"), seeds=(0, 1)):
    return {"command": "python -m jax_irkd.study x", "methods": list(methods), "seeds": list(seeds)}


def done(predictions):
    return dict.fromkeys(predictions, Status(DONE))


@pytest.mark.slow
def test_figures_by_hand(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS)
    found = outputs.write_outputs(tmp_path, plan(tmp_path), done(PREDICTIONS))
    ours = found["methods"]["ours"]
    assert ours["metrics"]["top1"]["mean"] == pytest.approx(0.7)
    assert found["methods"]["baseline"]["metrics"]["top1"]["std"] == 0
    # Teachers 0.9 and 0.8: sample standard deviation 0.1 / sqrt 2.
    assert found["methods"]["teacher"]["metrics"]["top1"]["std"] == pytest.approx(0.1 / 2**0.5)
    # (0.7 - 0.5) of (0.85 - 0.5).
    assert ours["gap_closed"] == pytest.approx(0.2 / 0.35)
    # Seed 0: clips 2, 3, 5 won, clip 9 lost; both sides of C(4, 1) + C(4, 0) out of 16, doubled.
    assert ours["mcnemar"]["0"] == {"won": 3, "lost": 1, "p_value": pytest.approx(10 / 16)}
    assert ours["mcnemar"]["1"] == {"won": 2, "lost": 0, "p_value": pytest.approx(2 / 4)}
    # Class by class over both seeds: top (4 + 3 - 2 - 3) / 8, bottom (2 + 3 - 1 - 1) / 8.
    np.testing.assert_allclose(ours["class_gains"], [2 / 8, 3 / 8, (1 + 1 - 2 - 1) / 4])
    # Agreement with the teacher: 8 of 10 clips, then 9 of 10.
    assert ours["agreement"]["values"] == {"0": 0.8, "1": 0.9}
    t = ours["difference_over_seeds"]
    assert t["mean"] == pytest.approx(0.2) and found["methods"]["baseline"].get("mcnemar") is None


def test_the_interval_against_a_plain_bootstrap(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS)
    found = outputs.write_outputs(tmp_path, plan(tmp_path), done(PREDICTIONS))
    interval = found["methods"]["ours"]["difference"]
    right = {key: np.array(p) == LABELS for key, p in PREDICTIONS.items()}
    gain = np.array([right[s, "ours"].astype(float) - right[s, "baseline"] for s in (0, 1)])
    rng = np.random.default_rng(7)
    means = [
        gain[np.ix_(rng.integers(0, 2, 2), rng.integers(0, 10, 10))].mean() for _ in range(10_000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    assert interval["difference"] == pytest.approx(0.2)
    np.testing.assert_allclose([interval["low"], interval["high"]], [low, high], atol=0.051)
    assert (interval["seeds"], interval["clips"]) == ([0, 1], 10)
    assert interval["standard_error"] == pytest.approx(np.std(means), rel=0.05)
    assert interval["detectable"] == pytest.approx(2.8016 * interval["standard_error"], rel=1e-3)


def test_p_values_are_corrected_for_the_number_of_methods(tmp_path):
    predictions = PREDICTIONS | {(s, "at"): PREDICTIONS[s, "teacher"] for s in (0, 1)}
    generated(tmp_path, predictions, LABELS)
    found = outputs.write_outputs(
        tmp_path, plan(tmp_path, ("baseline", "ours", "at")), done(predictions)
    )
    first, second = sorted(
        (found["methods"][name]["difference"] for name in ("ours", "at")),
        key=lambda d: d["p_value"],
    )
    assert first["p_holm"] == pytest.approx(2 * first["p_value"])
    assert second["p_holm"] == pytest.approx(max(second["p_value"], first["p_holm"]))
    assert first["compared"] == 2


def test_the_picture_shows_every_interval(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS)
    found = outputs.write_outputs(tmp_path, plan(tmp_path), done(PREDICTIONS))
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    assert "](study.png)" in (tmp_path / "study.md").read_text()
    difference = found["methods"]["ours"]["difference"]
    ends = ", ".join(f"{100 * difference[key]:+.1f}" for key in ("low", "high"))
    drawn = str(tables.chart(found))
    assert f"Ours (DKD + MGCAM): {100 * difference['difference']:+.1f} [{ends}]" in drawn
    assert int(re.search(r'<text x="(\d+)" [^>]*end">Ours \(DKD', drawn)[1]) >= 7 * len(
        "Ours (DKD + MGCAM)"
    )
    (x, width), (dot,) = (
        re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn)[0],
        re.findall(r'<circle cx="([\d.]+)"', drawn),
    )
    share = (difference["difference"] - difference["low"]) / (
        difference["high"] - difference["low"]
    )
    assert (float(dot) - float(x)) / float(width) == pytest.approx(share, abs=0.01)


def test_the_picture_has_room_for_the_names_of_joined_methods(tmp_path):
    """A name in capitals was cut at the edge of the picture."""
    joined = "fitnet+dkd+mgcam"
    predictions = PREDICTIONS | {(s, joined): PREDICTIONS[s, "teacher"] for s in (0, 1)}
    generated(tmp_path, predictions, LABELS)
    methods = ("baseline", "ours", joined)
    found = outputs.write_outputs(tmp_path, plan(tmp_path, methods), done(predictions))
    ends = re.findall(r'<text x="(\d+)" [^>]*end">([^<]*)<', str(tables.chart(found)))
    assert ("FitNet + DKD + MGCAM" in dict(map(reversed, ends))) and len(ends) == 2
    assert all(int(x) >= 7 * len(name) for x, name in ends)


def test_the_picture_says_how_many_seeds_its_methods_have(tmp_path):
    predictions = PREDICTIONS | {(0, "at"): PREDICTIONS[0, "teacher"]}
    generated(tmp_path, predictions, LABELS)
    methods = ("baseline", "ours", "at")
    found = outputs.write_outputs(tmp_path, plan(tmp_path, methods), done(predictions))
    drawn = str(tables.chart(found))
    assert "1 to 2 seeds, 10 clips" in drawn
    assert drawn.count(">1 seed<") == 1  # beside AT; the others have all
    only = found | {"methods": {k: v for k, v in found["methods"].items() if k != "at"}}
    assert "95 %, 2 seeds, 10 clips" in str(tables.chart(only))


def test_the_gap_has_an_interval_where_the_teacher_always_leads(tmp_path):
    never = [2, 2, 2, 2, 2, 2, 2, 2, 2, 0]  # one right
    predictions = PREDICTIONS | {(s, "baseline"): never for s in (0, 1)}
    generated(tmp_path, predictions, LABELS)
    found = outputs.write_outputs(tmp_path, plan(tmp_path), done(predictions))
    right = {key: np.array(p) == LABELS for key, p in predictions.items()}
    rng, shares = np.random.default_rng(7), []
    for _ in range(10_000):
        draw = np.ix_(rng.integers(0, 2, 2), rng.integers(0, 10, 10))
        teacher, before, after = (
            np.array([right[s, name] for s in (0, 1)])[draw].mean()
            for name in ("teacher", "baseline", "ours")
        )
        shares.append((after - before) / (teacher - before))
    low, high = np.quantile(shares, [0.025, 0.975])
    np.testing.assert_allclose(found["methods"]["ours"]["gap_interval"], [low, high], atol=0.03)
    ends = ", ".join(f"{100 * end:.0f}" for end in found["methods"]["ours"]["gap_interval"])
    assert f" % [{ends}]" in tables.markdown(found)

    generated(tmp_path / "short", PREDICTIONS, LABELS)  # the teacher does not lead in every draw
    found = outputs.write_outputs(tmp_path / "short", plan(tmp_path), done(PREDICTIONS))
    assert found["methods"]["ours"]["gap_interval"] is None


def test_what_is_written(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS)
    outputs.write_outputs(tmp_path, plan(tmp_path), done(PREDICTIONS))
    text = (tmp_path / "study.md").read_text()
    assert "| Ours (DKD + MGCAM) | 2 | 70.0 ± 0.0 % |" in text
    assert "p = 0.62 (3 won, 1 lost, seed 0)" in text
    assert "`python -m jax_irkd.study x`" in text and "0000generated" in text
    # Of 4 clips (1 + 2) / 2 won: (1.5 / 6) - 1.96 sqrt((2.5 / 6 - 0.25^2) / 6) is the lower end,
    # the upper that of a bootstrap: seven eighths in one of forty draws.
    assert "| bottom | 25.0 % | +37.5 [-22.6, +87.5] |" in text
    assert json.loads((tmp_path / "study.json").read_text())["methods"]["ours"]["seeds"] == [0, 1]
    for seed in (0, 1):
        page = (tmp_path / f"seed{seed}" / "report.html").read_text()
        assert "Study: methods and seeds" in page and "+20.0 [" in page
        assert "<code>python -m jax_irkd.study x</code></pre>" in page
        cells = re.findall(r'<td data-label="top-1">(70.0[^<]*)<', page)
        assert cells == ["70.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.0\N{NO-BREAK SPACE}%"]


def test_what_a_terminal_of_80_columns_is_told(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS, "pku_mmd_ir")
    found = outputs.write_outputs(tmp_path, plan(tmp_path), done(PREDICTIONS))
    console = Console(width=80, record=True, file=io.StringIO())
    found["methods"]["ours"] |= {"gap_closed": -0.59, "gap_interval": [-1.98, -0.32]}
    study.conclude(tmp_path, found, console)
    text = console.export_text()
    assert "…" not in text and "pku_mmd_ir, 10 test clips" in text and "mAP" in text
    words = text.replace("\N{NO-BREAK SPACE}", " ")
    assert "+20.0 [" in words and "[-198," in words and "(DKD + MGCAM)" in words
    assert str(tmp_path / "study.md") in text.replace("\n", "")


def test_a_partial_study_gives_partial_tables(tmp_path):
    some = {key: value for key, value in PREDICTIONS.items() if key != (1, "ours")}
    some = {key: value for key, value in some.items() if key != (0, "teacher")}
    generated(tmp_path, some, LABELS)
    status = done(some) | {(1, "ours"): Status(FAILED, "exit code 2: no disk")}
    found = outputs.write_outputs(tmp_path, plan(tmp_path), status)
    ours = found["methods"]["ours"]
    assert ours["seeds"] == [0] and ours["metrics"]["top1"]["std"] is None
    assert ours["gap_closed"] is None and ours["agreement"]["mean"] is None
    assert ours["difference"]["seeds"] == [0]
    assert found["unfinished"] == [
        {"run": "seed1/ours", "state": "failed", "reason": "exit code 2: no disk"}
    ]
    assert "| seed1/ours | failed | exit code 2: no disk |" in (tmp_path / "study.md").read_text()
    alone = {(0, "ours"): PREDICTIONS[0, "ours"]}
    generated(tmp_path / "alone", alone, LABELS)
    found = outputs.write_outputs(tmp_path / "alone", plan(tmp_path), done(alone))
    assert found["methods"]["ours"]["difference"] is None
    nothing = outputs.write_outputs(
        tmp_path, plan(tmp_path, seeds=()), {(7, "at"): Status(WAITING)}
    )
    assert nothing["methods"] == {} and len(nothing["unfinished"]) == 1


def test_results_that_cannot_be_read_are_named(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS)
    (tmp_path / "seed1" / "ours" / "scores.npz").write_bytes(b"PK\x03\x04 cut short")
    found = outputs.write_outputs(tmp_path, plan(tmp_path), done(PREDICTIONS))
    assert found["methods"]["ours"]["seeds"] == [0]
    assert found["unfinished"][0]["reason"].startswith("results cannot be read")


def test_clips_only_some_runs_could_read_are_left_out(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS)
    folder = tmp_path / "seed0" / "ours"
    ids = np.array([f"clip{i}" for i in range(9)][::-1])
    write_run(
        folder,
        "ours",
        "generated/three",
        CLASSES,
        ids,
        LABELS[:9][::-1],
        logits_of(PREDICTIONS[0, "ours"][:9][::-1]),
        60,
    )
    found = outputs.write_outputs(tmp_path, plan(tmp_path), done(PREDICTIONS))
    ours = found["methods"]["ours"]
    assert ours["difference"]["clips"] == 9
    assert ours["mcnemar"]["0"] == {"won": 3, "lost": 0, "p_value": pytest.approx(2 / 8)}


def test_runs_on_other_data_are_refused(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS)
    generated(tmp_path, {(1, "ours"): PREDICTIONS[1, "ours"]}, LABELS, "another/three")
    with pytest.raises(UserError, match=r"'another/three'.*a study compares runs on the same data"):
        outputs.write_outputs(tmp_path, plan(tmp_path), done(PREDICTIONS))


def test_the_papers_figure_is_labelled_another_dataset(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS, "ntu_rgbd_ir/ten")
    found = outputs.write_outputs(tmp_path, plan(tmp_path), done(PREDICTIONS))
    ours = {row["method"]: row for row in found["paper"]["rows"]}["ours"]
    assert (ours["paper"], ours["ours"]) == (0.8086, pytest.approx(0.7))
    text = (tmp_path / "study.md").read_text()
    assert "ours, another dataset" in text and "| 80.86 % | 70.0 ± 0.0 % |" in text


def test_mean_average_precision_leads_on_pku(tmp_path):
    generated(tmp_path, PREDICTIONS, LABELS, "pku_mmd_ir")
    found = outputs.write_outputs(tmp_path, plan(tmp_path), done(PREDICTIONS))
    means = {
        name: np.mean(
            [
                np.nanmean(
                    classification.average_precisions(logits_of(PREDICTIONS[s, name]), LABELS)
                )
                for s in (0, 1)
            ]
        )
        for name in ("teacher", "baseline", "ours")
    }
    expected = (means["ours"] - means["baseline"]) / (means["teacher"] - means["baseline"])
    assert found["methods"]["ours"]["gap_closed"] == pytest.approx(expected)


def test_runs_are_made_once_and_measured(tmp_path):
    tasks = tasks_in(tmp_path, seeds=(0, 1))
    seen = []
    status = carry_out(tasks, tmp_path, 2, lambda now: seen.append(dict(now)))
    assert all(value == Status(DONE) for value in status.values())
    for now in seen:  # two at most, and none before its teacher
        assert sum(value.state == "running" for value in now.values()) <= 2
        for seed in (0, 1):
            if now[seed, "ours"].state in ("running", DONE):
                assert now[seed, "teacher"].state == DONE
    tries = attempts.read_attempts(tmp_path)
    assert len(tries) == 6
    [attempt] = tries["seed0/ours"]
    assert attempt["wall_time_s"] > 0 and attempt["peak_memory_bytes"] > 2**20
    written = (tmp_path / "attempts.jsonl").read_text()
    carry_out(tasks, tmp_path)
    assert (tmp_path / "attempts.jsonl").read_text() == written


def test_a_failure_costs_only_what_needs_it(tmp_path):
    touch(tmp_path / "seed0" / "teacher" / "broken")
    touch(tmp_path / "seed1" / "ours" / "broken")
    tasks = tasks_in(tmp_path, seeds=(0, 1))
    status = carry_out(tasks, tmp_path)
    reason = "exit code 1: the disk is on fire"
    assert status[0, "teacher"] == Status(FAILED, reason)
    assert status[0, "ours"] == Status(FAILED, f"its teacher failed: {reason}")
    assert status[0, "baseline"].state == status[1, "baseline"].state == DONE
    assert status[1, "ours"].state == FAILED
    (tmp_path / "seed0" / "teacher" / "broken").unlink()
    again = carry_out(tasks, tmp_path)
    assert again[0, "ours"].state == DONE and again[1, "ours"].state == FAILED


def test_memory_allows_another_run_only_when_all_can_grow(tmp_path, monkeypatch):
    # Runs grow to 4: one that holds 1 will take 3 more, the new one takes 4.
    assert room.fits(7, 4, [1]) and not room.fits(6.9, 4, [1])
    assert room.fits(4, 4, [5])  # larger than any before: it is not expected to grow
    assert room.room(10**18, []) and not room.room(10**18, [os.getpid()])
    assert room.room(0, [os.getpid()]) and room.resident(os.getpid()) > 2**20
    monkeypatch.setattr(room, "available", lambda: 0.0)
    (tmp_path / "attempts.jsonl").write_text('{"run": "x", "peak_memory_bytes": 5}\n')
    seen = []
    status = carry_out(
        tasks_in(tmp_path, seeds=(0, 1)), tmp_path, 4, lambda s: seen.append(dict(s))
    )
    assert all(value.state == DONE for value in status.values())
    assert max(sum(v.state == "running" for v in now.values()) for now in seen) == 1


def test_a_killed_run_is_said_to_be(tmp_path):
    [task] = tasks_in(tmp_path, ("baseline",))
    touch(task.folder / "slow")
    log = task.folder / "metrics.jsonl"
    killer = threading.Thread(target=kill_when, args=(log,))
    killer.start()
    status = carry_out([task], tmp_path)
    killer.join()
    assert status[0, "baseline"].state == FAILED
    assert status[0, "baseline"].reason.startswith("killed by SIGKILL (out of memory?)")


def test_a_signal_is_passed_on_and_the_study_continues(tmp_path):
    tasks = tasks_in(tmp_path, ("teacher", "baseline", "ours"))
    touch(tmp_path / "seed0" / "baseline" / "slow")

    def interrupt(status):
        log = tmp_path / "seed0" / "baseline" / "metrics.jsonl"
        if status[0, "baseline"].state == "running" and log.exists():
            os.kill(os.getpid(), signal.SIGTERM)

    status = carry_out(tasks, tmp_path, 1, interrupt)
    assert status[0, "teacher"].state == DONE
    assert status[0, "baseline"].state == STOPPED and status[0, "ours"].state == WAITING
    assert (tmp_path / "seed0" / "baseline" / "saved").read_text() == "1"
    (tmp_path / "seed0" / "baseline" / "slow").unlink()
    status = carry_out(tasks, tmp_path)
    assert all(value.state == DONE for value in status.values())
    steps = (tmp_path / "seed0" / "baseline" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == [1, 2, 3]
    tries = attempts.read_attempts(tmp_path)["seed0/baseline"]
    assert [t["exit_code"] for t in tries] == [75, 0]
    cost = analysis._cost(
        {0: Run("baseline", tmp_path, {}, [], None, None, None)}, {"seed0/baseline": tries}
    )
    assert cost["wall_time_s"] == pytest.approx(sum(t["wall_time_s"] for t in tries))


def test_a_second_interrupt_leaves_nothing_running(tmp_path):
    [task] = tasks_in(tmp_path, ("baseline",))
    stubborn = task._replace(
        command=(sys.executable, "-S", "-c", "import signal, time; "
                 "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    )  # fmt: skip
    polls = []

    def interrupt(status):
        polls.append(1)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        carry_out([stubborn], tmp_path, 1, interrupt)
    assert len(polls) == 2
    with processes._locked(tmp_path):  # no child holds it
        pass


def test_two_studies_do_not_share_a_workdir(tmp_path):
    said = r"another study, or a run that one left behind, works in"
    with processes._locked(tmp_path), pytest.raises(UserError, match=said):
        carry_out(tasks_in(tmp_path), tmp_path)


def test_a_run_left_behind_keeps_others_out(tmp_path):
    """The study was killed, its run was not: the workdir is taken until that ends."""
    [task] = tasks_in(tmp_path, ("baseline",))
    touch(task.folder / "slow")
    with processes._locked(tmp_path) as lock:
        child = attempts.start(task, inherited=(lock,))
    with pytest.raises(UserError, match="left behind"):
        carry_out([task], tmp_path)
    (task.folder / "slow").unlink()
    child.process.wait()
    assert carry_out([task], tmp_path)[task.key].state == DONE


def test_the_board_says_what_changes(tmp_path):
    console = Console(width=120, record=True, file=io.StringIO())
    tasks = tasks_in(tmp_path, ("baseline",))
    study.run(tasks, tmp_path, processes.Local(), console)
    said = console.export_text()
    assert "seed0/baseline: running" in said and "seed0/baseline: done · step 3 · 50.0" in said
    console.print(board.table(tasks, {(0, "baseline"): Status(FAILED, "x")}))
    assert "failed · step 3" in console.export_text()


def test_the_configs_of_a_study(tmp_path):
    argv = [
        "--config=configs/demo.py:protocol=cross_view,weights=published",
        "--config.distillers.at.weight=5.0",
        "--config.input.threads=1",
        "--jobs=2",
    ]
    settings = planning.read_settings(argv)
    tasks = planning.make_tasks(settings, ["at", "baseline", "tstdd"], [4], tmp_path)
    assert [task.key for task in tasks] == [(4, m) for m in ("teacher", "at", "baseline", "tstdd")]
    assert [task.needs for task in tasks] == [None, (4, "teacher"), None, None]
    teacher, at, baseline, _ = (task.command for task in tasks)
    assert "--config=configs/demo.py:protocol=cross_view,weights=published,method=at,seed=4" in at
    assert "--config.distillers.at.weight=5.0" in at
    assert "--config.distillers.at.weight=5.0" not in baseline + teacher
    assert all("--config.input.threads=1" in command for command in (teacher, at, baseline))
    assert f"--workdir={tmp_path / 'seed4'}" in baseline
    alone = planning.make_tasks(settings._replace(overrides=()), ["baseline"], [0], tmp_path)
    assert [task.method for task in alone] == ["baseline"]  # needs no teacher


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config=configs/demo.py", "--methods=spp"], "unknown method 'spp'; did you mean 'sp'"),
        (["--config=configs/demo.py", "--methods="], "--methods is empty"),
        (["--config=configs/demo.py", "--seeds=0"], "--seeds='0' names no seeds; give a count"),
        (["--config=configs/demo.py", "--seeds=1,1"], "different seeds"),
        (["--config=configs/demo.py:seed=2"], "'seed=2' after the config is the study's"),
        (["--config=configs/demo.py", "--config.method=at"], "--config.method is the study's"),
        (["--config=configs/demo.py", "--config.distillers.at.wieght=1"], "wieght"),
        (["--config=configs/demo.py", "--methods=st", "--config.distillers.st.wieght=1"], "wieght"),
        (
            ["--config=configs/demo.py", "--methods=at", "--config.distillers.at.weight=5"],
            r"weight=5\.0 means nothing beside share=0\.3.*:weights=published",
        ),
        (
            ["--config=configs/demo.py:weights=all"],
            "weights='all'; choose from",
        ),
        (["--seeds=2"], "--config is missing"),
        (["--report_only"], "holds no study"),
    ],
)
def test_mistakes_are_named_before_anything_runs(tmp_path, capsys, argv, message):
    assert study.main([*argv, f"--workdir={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and re.search(message, said), said
    assert not list(tmp_path.iterdir())


def test_an_override_for_no_method_is_refused(tmp_path):
    settings = planning.read_settings(
        ["--config=configs/demo.py", "--config.distillers.dkd.weight=1.0"]
    )
    with pytest.raises(UserError, match=r"dkd.weight=1.0: none of the methods \['st'\] has this"):
        planning.make_tasks(settings, ["st"], [0], tmp_path)


def test_a_folder_with_another_configuration_is_refused(tmp_path):
    folder = tmp_path / "seed0" / "baseline"
    (folder / "checkpoints" / "3").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"seed": 1}))
    settings = planning.read_settings(["--config=configs/demo.py"])
    with pytest.raises(UserError, match="holds a run with another configuration"):
        planning.make_tasks(settings, ["baseline"], [0], tmp_path)


@pytest.mark.slow
def test_the_command_from_plan_to_tables(tmp_path, monkeypatch, capsys):
    def fake(tasks, workdir, launcher, console, begun):
        begun()
        generated(tmp_path, {k: v for k, v in PREDICTIONS.items() if k != (1, "ours")}, LABELS)
        return {task.key: Status(DONE) for task in tasks} | {(1, "ours"): Status(FAILED, "why")}

    monkeypatch.setattr(study, "run", fake)
    argv = ["--config=configs/demo.py", "--methods=baseline,ours", "--seeds=2"]
    assert study.main([*argv, f"--workdir={tmp_path}"]) == 1
    assert "seed1/ours failed: why" in capsys.readouterr().out
    first = json.loads((tmp_path / "study.json").read_text())
    assert first["command"].endswith(f"--seeds=2 --workdir={tmp_path}")
    generated(tmp_path, PREDICTIONS, LABELS)
    assert study.main(["--report_only", f"--workdir={tmp_path}"]) == 0
    second = json.loads((tmp_path / "study.json").read_text())
    assert second["command"] == first["command"] and second["unfinished"] == []
    assert second["methods"]["ours"]["seeds"] == [0, 1]


def test_tables_escape_what_would_break_them():
    assert tables._markdown_table(["a|b"], [["c\nd"]]) == "| a\\|b |\n| --- |\n| c d |"
    points = (-1e-9, -0.04, 0.06)
    assert [signed(value / 100) for value in points] == ["+0.0", "+0.0", "+0.1"]

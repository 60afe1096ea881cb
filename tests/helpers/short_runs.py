"""Runs of a study in miniature: a second of plain Python each."""

import os
import signal
import sys
import time

from jax_irkd.studies.planning import PlannedRun

# A run in miniature: three steps, told to stop it saves its step, `broken` in its folder ends it.
WORKER = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "pid").write_text(str(os.getpid()))
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
if (folder / "broken").exists():
    sys.exit("error: the disk is on fire")
saved = folder / "saved"
first = int(saved.read_text()) if saved.exists() else 0
for step in range(first + 1, 4):
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"step": step, "kind": "eval", "top1": step / 4}) + "\\n")
    while (folder / "slow").exists() and not stop:
        time.sleep(0.01)
    if stop:
        saved.write_text(str(step))
        sys.exit(75)
(folder / "results.json").write_text(json.dumps({"metrics": {"top1": 0.5}, "steps": 3}))
"""


def tasks_in(workdir, methods=("teacher", "baseline", "ours"), seeds=(0,)):
    return [
        PlannedRun(
            seed,
            method,
            workdir / f"seed{seed}" / method,
            (sys.executable, "-S", "-c", WORKER, str(workdir / f"seed{seed}" / method)),
            (seed, "teacher") if method not in ("teacher", "baseline") else None,
        )
        for seed in seeds
        for method in methods
    ]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def kill_when(log, number=signal.SIGKILL):
    while not log.exists():
        time.sleep(0.01)
    os.kill(int(log.with_name("pid").read_text()), number)

"""How well a trained network finds actions in PKU-MMD's untrimmed test videos.

A video is walked as overlapping windows, each classified like a test clip; `detection.segments`
turns the windows' probabilities into rows and `detection.evaluate` scores them by the official
protocol. Training sees trimmed instances, so no class stands for "nothing happens" unless the data
set was built with `--background`: a stretch is proposed where the largest probability reaches a
threshold (`config.eval.thresholds`; below 0.5 a second class can reach it too), and everything else
is background. How much is proposed where nothing happens stands beside the protocol's figures.
"""

import contextlib
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from orbax.checkpoint import multihost

from jax_irkd.data.spec import BACKGROUND
from jax_irkd.detection.proposals import segments
from jax_irkd.detection.protocol import evaluate
from jax_irkd.detection.quiet import Quiet, measure, together
from jax_irkd.detection.rows import Row, read_folder, write_folder
from jax_irkd.detection.watching import clock_of, watched
from jax_irkd.errors import UserError, plural
from jax_irkd.host import devices, locks
from jax_irkd.host.files import expanded
from jax_irkd.host.terminal import Progress, console
from jax_irkd.pku_mmd import untrimmed
from jax_irkd.reporting import sections, write
from jax_irkd.reporting.wording import percent
from jax_irkd.runs.lifecycle import BUSY, WAITING
from jax_irkd.runs.network import load_network
from jax_irkd.runs.results import finished, save_results
from jax_irkd.training.evaluation import Network
from jax_irkd.video import grid

TITLE = "Detection in untrimmed videos"
FIGURES = ("F1", "AP", "mAP_action", "mAP_video", "2D-AP")
_WAIT = 7 * 24 * 3600  # Seconds the other processes wait for process 0.
_meetings = itertools.count()


class TestVideos(NamedTuple):
    """The complete test videos, the annotation also of others, and the names of all there are."""

    videos: list[untrimmed.UntrimmedVideo]
    ground: dict[str, list[Row]]
    listed: list[str]

    @property
    def absent(self) -> list[str]:
        """Those of which a film or the annotation is missing."""
        return sorted({*self.listed} - {video.name for video in self.videos})


def check(config: ConfigDict) -> None:
    """Raises UserError, before anything is trained, for a detection that could not be done."""
    chosen = config.eval
    if config.dataset.name.partition("/")[0] != "pku_mmd_ir":
        raise UserError(
            f"detection is defined for pku_mmd_ir, not for {config.dataset.name!r}; use "
            "configs/pku.py or leave out --config.eval.detection"
        )
    if not chosen.raw_dir:
        raise UserError(
            "detection needs the untrimmed videos; set --config.eval.raw_dir to the folder that "
            "was --manual_dir when the data set was built"
        )
    try:
        grid.lay(chosen.window, chosen.stride, 1)
        _segments(np.zeros((0, 1)), np.zeros((0, 2), np.int64), chosen)
        _evaluate({"": []}, {"": []}, chosen, num_classes=1)
    except ValueError as error:
        raise UserError(f"config.eval: {error}") from error
    if jax.process_index() == 0:
        find_footage(config)


def find_footage(config: ConfigDict) -> TestVideos:
    """What `config` evaluates on. Raises UserError when videos are absent and may not be."""
    folder = expanded(config.eval.raw_dir)
    if not folder.is_dir():
        raise UserError(f"config.eval.raw_dir={config.eval.raw_dir} is no folder; check the path")
    part = untrimmed.pku_part(folder, config.protocol)
    ground = {name: [Row(*row) for row in rows] for name, rows in part.rows.items()}
    found = TestVideos(part.videos, ground, part.listed)
    if (found.absent and config.eval.missing == "error") or not found.videos:
        raise UserError(
            f"{len(found.absent)} of {len(found.listed)} test videos of {config.protocol} lack a "
            f"film or their annotation in {folder}, {found.absent[:3]} first; get them, "
            "or leave them out with --config.eval.missing=official (as the official script does), "
            "or count them as not found with --config.eval.missing=empty"
        )
    return found


def add_detection(
    config: ConfigDict, folder: Path, results: Mapping[str, Any], wait: bool = False
) -> dict:
    """The results of the finished run in `folder` with `detection`; nothing is trained.

    Rows go to `folder`/detection, figures to results.json and the report. What was found with
    the same settings is not sought again. Process 0 does the work and the others wait for it.
    Another command that works in the folder is waited for, with `wait`, or raises UserError; so
    does a folder that no longer holds the run of `results`.
    """
    with contextlib.ExitStack() as stack:
        lock = locks.held(folder, wait=wait, busy=BUSY, waiting=WAITING)
        devices.first_does(lambda: stack.enter_context(lock))
        held = finished(folder)  # since it was trained, others may have been at work here
        if held is None or held.get("identity") != results.get("identity"):
            raise UserError(
                f"{folder} was begun anew by another command before detection in what was trained "
                "there; run this command again with another --workdir"
            )
        return _with_detection(config, folder, held)


def _with_detection(config: ConfigDict, folder: Path, held: dict[str, Any]) -> dict[str, Any]:
    settings = settings_of(config)
    _meet()  # before results.json changes, so that all of them decide alike
    if held.get("detection", {}).get("settings") == settings:
        if jax.process_index() == 0 and not write.has_section(folder, TITLE):
            write.add_section(folder, section(held))  # It was killed between the two.
        return held
    network, meta = load_network(folder)  # by all processes: Orbax lets them meet
    try:
        if jax.process_index() == 0:
            found = detect(network, config, meta, folder / "detection")
            added = found | {"step": meta["step"], "settings": settings}
            held = save_results(folder, held | {"detection": added})
            write.add_section(folder, section(held))
            shown = "  ".join(f"{name} {percent(found[name])}" for name in FIGURES)
            console.print(
                f"detection, {plural(found['videos'], 'video')}: {shown}",
                highlight=False,
                soft_wrap=True,
            )
    finally:
        _meet()
    return held


def _meet() -> None:
    """Wait until all processes are here, for days if need be; unlike a collective's wait."""
    if jax.process_count() > 1:
        everybody = set(range(jax.process_count()))
        name = f"detection {next(_meetings)}"
        multihost.sync_global_processes(name, timeout=_WAIT, processes=everybody)


def detect(
    network: Network, config: ConfigDict, meta: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Rows of every test video, written to `folder`, and the official figures of what is written.

    Beside them stand false detections per minute of nothing and the AUROC of something (`quiet`).
    The class `background` is never proposed, and takes its share of the probability from the
    others; `without_background` then has the figures of the same network where it does not, the
    actions' probabilities summing to one. A damaged video counts with what could be read of it and
    is named in `damaged_videos`.
    """
    chosen, footage = config.eval, find_footage(config)
    faults: dict[str, str] = {}
    kinds = ["with", "without"] if BACKGROUND in meta["class_names"] else ["with"]
    ways: dict[str, dict[str, list[Row]]] = {way: {} for way in kinds}
    quiet: dict[str, list[Quiet]] = {way: [] for way in kinds}
    with Progress(f"detect {meta['modality']}", len(footage.videos), unit="videos") as progress:
        for seen in watched(network, config, meta, footage.videos, faults):
            name, clock = seen.video.name, clock_of(seen.video, meta["modality"], faults)
            spans = np.array(clock(seen.spans.tolist()), int).reshape(-1, 2)
            for way, rows in ways.items():
                scores = seen.actions if way == "with" else seen.renormalised
                found = _segments(scores, seen.spans, chosen)
                moved = clock([(round(row.start) - 1, round(row.end)) for row in found])
                rows[name] = [r._replace(start=a + 1, end=b) for r, (a, b) in zip(found, moved)]
                happening = seen.happening if way == "with" else scores.max(axis=1, initial=0.0)
                truth = footage.ground[name]
                quiet[way].append(measure(rows[name], truth, spans, happening, clock.rate))
            progress.update(len(ways["with"]), name)
    shutil.rmtree(folder, ignore_errors=True)  # an earlier search may have left other videos
    write_folder(folder, ways["with"])
    written = ways["with"] = read_folder(folder)
    figures = {
        way: _evaluate(rows, footage.ground, chosen) | _quietly(quiet[way])
        for way, rows in ways.items()
    }
    if "without" in figures:
        figures["with"]["without_background"] = figures["without"]
    return figures["with"] | {
        "overlap": chosen.overlap,
        "missing": chosen.missing,
        "calibrated": bool(meta.get("calibration")),
        "videos": len(written),
        "proposals": sum(map(len, written.values())),
        "absent_videos": footage.absent,
        "damaged_videos": faults,
    }


def section(results: Mapping[str, Any]) -> sections.Section:
    """The figures as a table of the report, the trimmed mAP above them."""
    found = results["detection"]
    settings = found["settings"]
    columns, headers = [found], ["figure", "value"]
    if without := found.get("without_background"):
        columns, headers = [found, without], ["figure", "with background", "without"]
    trimmed = ["mAP of trimmed clips (mean class AP)", percent(results["metrics"]["mAP"]), ""]
    rows = [trimmed[: len(headers)]]
    rows += [[_NAMES[name], *(percent(one[name]) for one in columns)] for name in FIGURES]
    for name, told in _QUIET.items():
        values = [one.get(name) for one in columns]  # runs of before have none
        if any(value is not None for value in values):
            rows.append([told, *("–" if value is None else f"{value:.2f}" for value in values)])
    lead = (
        f"{plural(found['proposals'], 'proposal')} in {plural(found['videos'], 'video')} "
        f"({results['protocol']}), from "
        f"windows of {settings['window']} frames every {settings['stride']}; the official protocol "
        f"with hits from an overlap of {found['overlap']} on."
    )
    if found.get("calibrated"):
        lead += " Thresholds are of calibrated probabilities."
    if found["absent_videos"]:
        treated = {"official": "left out", "empty": "counted as not found"}[found["missing"]]
        lead += f" {len(found['absent_videos'])} test videos are absent and {treated}."
    if found["damaged_videos"]:
        names = ", ".join(sorted(found["damaged_videos"])[:5])
        lead += f" {len(found['damaged_videos'])} damaged videos count as far as read: {names}."
    return sections.table_section(TITLE, headers, rows, lead)


_NAMES = {
    "F1": "F1",
    "AP": "AP, all videos and actions pooled",
    "mAP_action": "mAP_action, mean over actions",
    "mAP_video": "mAP_video, mean over videos",
    "2D-AP": "2D-AP, AP over overlaps 0.05 to 1",
}
_QUIET = {
    "false_per_minute": "false detections per minute in which nothing is annotated",
    "AUROC": "AUROC: windows of actions against windows of nothing",
}


def _quietly(parts: Sequence[Quiet]) -> dict[str, float | None]:
    """Figures of how quiet it is where nothing happens; None for what cannot be told."""
    whole = together(parts)
    told = len(whole.acting) and len(whole.nothing)
    return {
        "false_per_minute": whole.per_minute if whole.minutes else None,
        "quiet_minutes": whole.minutes,
        "AUROC": whole.auroc if told else None,
    }


def settings_of(config: ConfigDict) -> dict[str, Any]:
    """What decides the figures of a given network, as JSON gives it back."""
    everything = json.loads(config.eval.to_json_best_effort())
    return {k: v for k, v in everything.items() if k not in ("detection", "raw_dir")}


def _segments(scores: np.ndarray, spans: np.ndarray, chosen: ConfigDict) -> list[Row]:
    return segments(
        scores,
        spans,
        smoothing=chosen.smoothing,
        thresholds=tuple(chosen.thresholds),
        max_gap=chosen.max_gap,
        min_frames=chosen.min_frames,
        nms_overlap=chosen.nms_overlap,
    )


def _evaluate(proposals, ground, chosen: ConfigDict, num_classes: int = 51) -> dict[str, Any]:
    return evaluate(
        proposals,
        ground,
        missing=chosen.missing,
        threshold=chosen.overlap,
        num_classes=num_classes,
    )

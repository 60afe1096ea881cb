"""Answers as JSON, as text and as files."""

import collections
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_irkd.deployment.judgement import NOTHING, PICTURES, REASONS, Verdict
from jax_irkd.deployment.prediction import VideoResult
from jax_irkd.deployment.recognizer import Prediction
from jax_irkd.detection.rows import write_rows
from jax_irkd.errors import plural
from jax_irkd.host.files import write_whole


def as_json(result: VideoResult, names: Sequence[str], topk: int) -> dict[str, Any]:
    """One JSON object per video: `predictions` of a clip, `segments` of a timeline.

    Labels and frames count from 1, ends included, as in PKU-MMD; `labels_count_from` says so, as in
    a run's scores.npz, where they count from 0. `recognised` says whether a clip's
    answer counts, `reason` why not (a key of `judgement.REASONS`); of a timeline `unrecognised`
    counts the windows that do not, by reason.
    """
    times, ends = result.timing.times, result.timing.ends()
    common = {
        "video": str(result.path),
        "kind": "clip" if result.trimmed else "timeline",
        "frames": result.frames,
        "rate": round(result.rate, 3),
        "labels_count_from": 1,
        "warnings": result.warnings,
    }
    if result.trimmed:
        verdict = result.verdicts[0]
        return common | judged(verdict) | {
            "predictions": predictions(verdict.probabilities, names, topk)
        }  # fmt: skip
    reasons = collections.Counter(v.reason for v in result.verdicts if not v.recognised)
    return common | {
        "windows": len(result.verdicts),
        "unrecognised": dict(reasons),
        "segments": [
            {
                "label": row.label,
                "class": names[row.label - 1],
                "start_frame": int(row.start),
                "end_frame": int(row.end),
                "start_seconds": round(float(times[int(row.start) - 1]), 3),
                "end_seconds": round(float(ends[int(row.end) - 1]), 3),
                "confidence": round(row.confidence, 6),
            }
            for row in sorted(result.rows, key=lambda row: row.start)
        ],
    }


def judged(answer: Verdict | Prediction) -> dict[str, Any]:
    """Whether an answer counts, for JSON."""
    return {"recognised": answer.recognised} | ({"reason": answer.reason} if answer.reason else {})


def predictions(probabilities: np.ndarray, names: Sequence[str], topk: int) -> list[dict[str, Any]]:
    """The most probable classes, for JSON, which has no NaN; labels count from 1."""
    return [
        {
            "label": index + 1,
            "class": names[index],
            "probability": round(value, 6) if math.isfinite(value) else None,
        }
        for index, value in top(probabilities, topk)
    ]


def as_text(result: VideoResult, names: Sequence[str], topk: int) -> str:
    """A table for people."""
    found = as_json(result, names, topk)
    seconds = result.timing.end
    lines = [f"{result.path}  ({plural(result.frames, 'frame')}, {seconds:.1f} s)"]
    if result.trimmed:
        verdict = result.verdicts[0]
        lines += [] if verdict.recognised else [f"  {verdict.words}"]
        # What it would have said: in brackets, for it does not count.
        for row in found["predictions"] if verdict.reason not in PICTURES else ():
            share = row["probability"]
            line = f"{'–' if share is None else f'{share:.1%}':>6}  {row['class']}"
            lines.append(f"  {line}" if verdict.recognised else f"  ({line.strip()})")
    else:
        for row in found["segments"]:
            times = f"{clock_time(row['start_seconds'])} - {clock_time(row['end_seconds'])}"
            lines.append(f"  {times}  {row['confidence']:6.1%}  {row['class']}")
        if not found["segments"]:
            lines.append("  no action reaches the threshold; try a lower --threshold")
        for reason, count in found["unrecognised"].items():
            if reason != "unsure":
                share = f"{count} of {found['windows']} windows"
                lines.append(f"  {NOTHING} in {share}: {REASONS[reason]}")
    return "\n".join(lines)


def clock_time(seconds: float) -> str:
    return f"{int(seconds // 60):3d}:{seconds % 60:04.1f}"


def top(probabilities: np.ndarray, count: int) -> list[tuple[int, float]]:
    """The `count` most probable classes and their probabilities."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(int(index), float(probabilities[index])) for index in order]


def own_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each video's results: its own, with its folder's in front where two are alike."""
    stems = [path.stem for path in paths]
    names: dict[Path, str] = {}
    for path in paths:
        alike = stems.count(path.stem) > 1
        name = f"{path.absolute().parent.name}_{path.stem}" if alike else path.stem
        taken = list(names.values())
        names[path] = name if name not in taken else f"{name}_{len(taken)}"
    return names


def write_files(result: VideoResult, names: Sequence[str], topk: int, stem: Path) -> None:
    """STEM.json and, for a timeline, STEM.txt (rows in PKU-MMD's format) and STEM.png."""
    write_whole(
        stem.with_name(stem.name + ".json"), json.dumps(as_json(result, names, topk), indent=1)
    )
    if not result.trimmed:
        from jax_irkd.deployment.annotate import timeline_picture

        write_rows(stem.with_name(stem.name + ".txt"), result.rows)
        timeline_picture(result, names, stem.with_name(stem.name + ".png"))

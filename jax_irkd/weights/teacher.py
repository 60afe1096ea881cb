"""A teacher from elsewhere: does it fit, and how good is it.

It is known by the content of its checkpoint, so it may be moved, and a changed one is noticed.
"""

import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.errors import UserError, once
from jax_irkd.host.files import read_json, write_whole
from jax_irkd.metrics import classification
from jax_irkd.runs.identity import digest
from jax_irkd.runs.network import describe_network, load_network
from jax_irkd.runs.results import finished
from jax_irkd.training.evaluation import evaluate
from jax_irkd.training.programs import Views
from jax_irkd.training.setup import make_reader

JUDGED = "teacher.json"  # what it reached, for a student's run that goes on


def judge(
    folder: Path, config: ConfigDict, dataset: loading.Dataset, student: Path, fresh: bool
) -> dict[str, Any]:
    """The identity and the figures of the teacher in `folder`, measured once for a student's run.

    `student` is the folder of that run; with `fresh` nothing in it counts. Raises UserError for a
    teacher that does not fit.
    """
    meta, content = describe_network(folder)
    check_teacher(folder, meta, dataset)
    share, theirs = config.input.validation, meta["config"]["input"].get("validation", 0.0)
    if share and share != theirs:
        once(
            f"the teacher in {folder} kept other validation subjects aside (input.validation="
            f"{theirs:g}, here {share:g}): it may have learned from those of this run"
        )
    path = {"teacher": str(folder.absolute()), "step": meta["step"]}
    found = {"identity": content, "formerly": {"teacher": digest(path)}}
    measured = [content, dataset.fingerprint, config.protocol]
    measured.append(json.loads(config.to_json_best_effort())["input"])
    views = Views.of(config, "rgb")
    measured += [] if views[:2] == (1, 1) else [list(views)]
    found["measured"] = digest({"of": measured})
    results = None if fresh else finished(student)
    kept = {} if fresh else _kept(student)
    if results and results.get("teacher"):
        return found | {"metrics": results["teacher"]}
    if kept.get("measured") == found["measured"]:
        return found | {"metrics": kept["metrics"]}
    network, _ = load_network(folder)
    scores = evaluate(network, config, make_reader(config, dataset, "test", ("rgb",)))
    figures = classification.summarize(scores.logits, scores.labels, len(dataset.class_names))
    return found | {"metrics": figures}


def keep_figures(folder: Path, taught: dict) -> None:
    """Let the next start of the run in `folder` know what its teacher reached."""
    if jax.process_index() == 0:
        kept = {name: taught[name] for name in ("measured", "metrics")}
        write_whole(folder / JUDGED, json.dumps(kept))


def _kept(folder: Path) -> dict:
    """What `keep_figures` wrote, {} where there is nothing whole: it is measured anew."""
    try:
        kept = read_json(folder / JUDGED)
    except UserError:
        return {}
    return kept if isinstance(kept, dict) and isinstance(kept.get("metrics"), dict) else {}


def check_teacher(folder: Path, meta: dict, dataset: loading.Dataset) -> None:
    """Raises UserError when a teacher's modality or classes are not those of the dataset."""
    if meta["modality"] != "rgb":
        raise UserError(f"the run in {folder} reads {meta['modality']}, but a teacher reads rgb")
    theirs, ours = list(meta["class_names"]), list(dataset.class_names)
    other = next((i for i, pair in enumerate(zip(theirs, ours)) if pair[0] != pair[1]), None)
    if len(theirs) == len(ours) and other is not None:
        raise UserError(
            f"class {other} of the teacher in {folder} is {theirs[other]!r}, that of "
            f"{dataset.name} is {ours[other]!r}: names and order must agree; train one on it"
        )
    if theirs != ours:
        raise UserError(
            f"the teacher in {folder} knows {len(theirs)} classes ({', '.join(theirs[:3])}, …), "
            f"{dataset.name} has {len(ours)} ({', '.join(ours[:3])}, …); train one on it"
        )
    if meta.get("dataset") != dataset.fingerprint:
        once(f"the teacher in {folder} was trained on another build of the data, or on other data")

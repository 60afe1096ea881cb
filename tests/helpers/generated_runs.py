"""Run folders as training leaves them, from a seeded generator. No number here is a result."""

import json
from pathlib import Path

import numpy as np

NTU = (
    "drink water", "eat meal/snack", "brushing teeth", "brushing hair", "drop",
    "pickup", "throw", "sitting down", "standing up (from sitting position)", "clapping",
)  # fmt: skip


def generate_runs(
    workdir: Path,
    methods=("teacher", "baseline", "ours"),
    *,
    dataset="generated/ten",
    class_names=NTU,
    clips=600,
    steps=600,
    seed=0,
    labels=None,
) -> Path:
    """Write `workdir/<method>` for every method: results.json, scores.npz and metrics.jsonl."""
    rng = np.random.default_rng(seed)
    classes = len(class_names)
    labels = rng.integers(0, classes, clips) if labels is None else labels
    ids = np.array([f"generated-{index:05d}" for index in range(clips)])
    hardness = rng.normal(0, 1, (clips, classes))
    confusable = rng.normal(0, 1, (classes, classes)) * (rng.random((classes, classes)) < 0.25)
    for method in methods:
        skill = {"teacher": 3.3, "baseline": 1.7, "ours": 2.5}.get(method, 1.7 + 0.7 * rng.random())
        logits = hardness + 0.6 * rng.normal(0, 1, (clips, classes)) + 0.5 * confusable[labels]
        logits[np.arange(clips), labels] += skill * (0.7 + 0.6 * rng.random(classes))[labels]
        write_run(Path(workdir) / method, method, dataset, class_names, ids, labels, logits, steps)
    return Path(workdir)


def write_run(folder, method, dataset, class_names, ids, labels, logits, steps) -> None:
    """One run folder with figures that follow from its scores."""
    from jax_irkd.metrics import classification

    folder.mkdir(parents=True, exist_ok=True)
    figures = classification.summarize(logits, labels, len(class_names))
    np.savez_compressed(
        folder / "scores.npz", clip_id=ids, label=labels, logits=logits.astype(np.float32)
    )
    results = {
        "dataset": dataset,
        "fingerprint": f"{dataset}:1.0.0:train:1200,test:600",
        "protocol": "cross_subject",
        "method": method,
        "modality": "rgb" if method == "teacher" else "infrared",
        "seed": 0,
        "steps": steps,
        "batch": {"global": 16, "per_device": 16},
        "class_names": list(class_names),
        "metrics": figures,
        "num_clips": len(labels),
        "teacher": None,
        "config": {
            "method": method,
            "distillers": {"dkd": {"weight": 0.1}, "mgcam": {"weight": 1.0}},
            "input": {"num_segments": 8, "resolution": 224, "scales": [1.0, 0.875, 0.75, 0.66]},
            "student_training": {"learning_rate": 0.001, "optimizer": "sgd", "momentum": 0.9},
            "dataset": {"name": dataset, "data_dir": "~/a/rather/long/path/to/generated/tfds/data"},
        },
        "versions": {"jax": "0.0", "flax": "0.0", "numpy": "0.0", "python": "3.11.0"},
        "devices": {"platform": "cpu", "kind": "cpu", "processes": 1, "total": 1},
        "git_commit": "0000generated",
        "command": f"python -m jax_irkd.main --config=configs/demo.py:method={method} --workdir=w",
        "wall_time_s": 754.2,
        "seconds": {"data": 31.0, "evaluation": 12.5, "checkpoints": 3.25, "steps": 707.0},
        "broken_clips": {},
    }
    (folder / "results.json").write_text(json.dumps(results))
    lines = [json.dumps(line) for line in _log(method, steps, figures)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def _log(method, steps, figures):
    rng = np.random.default_rng(len(method))
    for step in range(10, steps + 1, 10):
        share = step / steps
        noise = rng.lognormal(0, 0.18)
        terms = {"ce": (0.5 + 1.8 * np.exp(-4 * share)) * noise}
        if method in ("ours", "dkd"):
            terms["dkd"] = (0.3 + 0.9 * np.exp(-3 * share)) * rng.lognormal(0, 0.15)
        if method in ("ours", "mgcam"):
            terms["mgcam"] = (0.1 + 0.5 * np.exp(-8 * share)) * rng.lognormal(0, 0.1)
            terms["mgcam/contrast"] = 1.08 + 0.02 * share
        terms["loss"] = sum(v for k, v in terms.items() if "/" not in k)
        terms["accuracy"] = float(np.clip(1 - terms["ce"] / 2.6, 0.1, 1))
        terms |= {"gradient_norm": 3 * noise, "rejected": 0.0}
        terms["learning_rate"] = 2e-3 * (1 + np.cos(np.pi * share)) / 2
        if step == 200:
            terms["gradient_norm"] = None  # infinite once
        yield {"step": step, "kind": "train", "time": 1e9 + step} | terms
        if step % (steps // 6) == 0:
            grown = {k: v * (0.55 + 0.45 * share) for k, v in figures.items()}
            yield {"step": step, "kind": "eval", "time": 1e9 + step} | grown

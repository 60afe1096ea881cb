"""The page that travels with an exported network."""

import json
from collections.abc import Mapping
from typing import Any

_CARD = """\
# {method} on {dataset}: {modality} action recognition

{classes} classes, {segments} {modality} frames of {height}x{width} pixels per clip, {precision},
{parameters:.2f} million parameters, {flops:.2f} billion operations per clip.

## Run it with jax alone

```python
import json, zipfile, jax, jax.export, numpy as np

with zipfile.ZipFile("student.irkd") as file:
    program = jax.export.deserialize(bytearray(file.read("program.stablehlo")))
    names = json.loads(file.read("manifest.json"))["class_names"]
clips = np.zeros((1, {segments}, {height}, {width}, {channels}), np.uint8)  # your frames here
probabilities = np.asarray(jax.jit(program.call)(clips))
print(names[probabilities[0].argmax()])
```

With jax_irkd: `python -m jax_irkd.predict --run=student.irkd video.avi`.

## What it expects

- Frames: {frames}.
- Size: {fit}.
- Values: {values}.
- Done inside: {inside}.

## How good it is

{metrics}

{accuracy}Measured with this protocol on this data set; other cameras, rooms and people will differ.
It always answers with one of its classes, also when nothing of the kind happens.

## Where it comes from

Dataset `{dataset}`, protocol `{protocol}`, method `{method}`, step {step}, commit {commit}.
Exported with {versions}; the largest difference of a probability from the Flax model is {distance}.

Classes: {names}

<details><summary>Training configuration</summary>

```json
{config}
```

</details>
"""


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown from a manifest."""
    metrics = manifest.get("metrics") or {}
    rows = [
        f"| {name} | {value:.4f} |" for name, value in metrics.items() if isinstance(value, float)
    ]
    table = "\n".join(["| on the test split | |", "| --- | --- |", *rows])
    accuracy = manifest.get("accuracy")
    distance = manifest.get("distance")
    config = manifest["config"]
    return _CARD.format(
        method=manifest.get("method") or "a network",
        dataset=config["dataset"]["name"],
        modality=manifest["modality"],
        classes=len(manifest["class_names"]),
        segments=manifest["num_segments"],
        height=manifest["height"],
        width=manifest["width"],
        channels=manifest["channels"],
        precision=manifest["precision"],
        parameters=manifest["parameters"] / 1e6,
        flops=manifest["flops"] / 1e9,
        metrics=table if rows else "The run has no results yet (no results.json beside it).",
        accuracy=f"Compared with float32: {accuracy['summary']}.\n\n" if accuracy else "",
        protocol=manifest.get("protocol"),
        step=manifest.get("step"),
        commit=manifest.get("git_commit") or "unknown",
        versions=", ".join(f"{k} {v}" for k, v in manifest["versions"].items()),
        distance="not measured" if distance is None else f"{distance:.1e}",
        names=", ".join(manifest["class_names"]),
        config=json.dumps(config, indent=1),
        **manifest["sampling"],
    )

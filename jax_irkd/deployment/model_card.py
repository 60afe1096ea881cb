"""The page that travels with an exported network."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jax_irkd.data.spec import BACKGROUND, background_of

_CARD = """\
# {method} on {dataset}: {modality} action recognition

{classes} classes, {segments} {modality} frames of {height}x{width} pixels per clip, {precision},
{parameters:.2f} million parameters, {flops:.2f} billion operations per clip.

{running}
With jax_irkd: `python -m jax_irkd.predict --run={file} video.avi`.

## What it expects

- Frames: {frames}.
- Size: {fit}.
- Values: {values}.
- Done inside: {inside}.

## How good it is

{metrics}

{accuracy}Measured with this protocol on this data set; other cameras, rooms and people will differ.
{judged}

## Where it comes from

Dataset `{dataset}`, protocol `{protocol}`, method `{method}`, step {step}, commit {commit}.
Exported with {versions}{distance}.

Classes: {names}

<details><summary>Training configuration</summary>

```json
{config}
```

</details>
"""

_WITH_JAX = """\
## Run it with jax alone

The file is a zip archive and holds its reader: `python -m zipfile -e student.irkd .`, then

```python
import numpy as np
from exported import Exported

network = Exported("student.irkd")
clips = np.zeros((1, {segments}, {height}, {width}, {channels}), np.uint8)  # your frames here
probabilities, counts = network.judge(network(clips))
print(network.class_names[probabilities[0].argmax()] if counts[0] else "nothing recognised")
```
"""
_WITH_ONNX = """\
## Run it with onnxruntime alone

```python
import json, numpy as np, onnxruntime

options = onnxruntime.SessionOptions()  # integers that do not saturate on older processors
options.add_session_config_entry("session.x64quantprecision", "1")
session = onnxruntime.InferenceSession("student.onnx", options)
manifest = json.loads(session.get_modelmeta().custom_metadata_map["jax_irkd"])
clips = np.zeros((1, {segments}, {height}, {width}, {channels}), np.uint8)  # your frames here
(probabilities,) = session.run(["probabilities"], {{"clips": clips}})
print(manifest["class_names"][probabilities[0].argmax()])
```
"""


def judged(calibration: Mapping[str, Any] | None, class_names: Sequence[str] = ()) -> str:
    """Whether somebody can tell when nothing happens."""
    nothing = background_of(class_names) is not None
    said = f"The class `{BACKGROUND}` means that nothing of the others happens. " * nothing
    if not calibration:
        return said + (
            "It always answers with one of its classes, also when nothing of the kind happens, and "
            "its probabilities are not calibrated."
        )
    return said + (
        "The program itself always answers with one of its classes. `calibration` in the manifest "
        f"tells when that counts: its temperature ({calibration['temperature']:.3g}) and "
        f"thresholds reject {calibration['rejected']:.0%} of the true actions among "
        f"{calibration['clips']} clips of validation subjects. jax_irkd applies it; so does "
        "`judge` of an .irkd file's reader."
    )


def _smaller(manifest: Mapping[str, Any]) -> str:
    """What fewer bits changed, and what they were chosen with."""
    said = []
    if accuracy := manifest.get("accuracy"):
        said.append(f"Compared with float32: {accuracy['summary']}.")
        if "validation" in accuracy:
            said.append(f"It was accepted by the {accuracy['validation']['summary']}.")
    if used := manifest.get("quantised_with"):
        said.append(f"Its integers were calibrated with {used}.")
    return "\n".join([*said, "", ""]) if said else ""


def model_card(manifest: Mapping[str, Any], kind: str = "irkd") -> str:
    """Markdown from a manifest; `kind` is irkd or onnx."""
    metrics = manifest.get("metrics") or {}
    rows = [
        f"| {name} | {value:.4f} |" for name, value in metrics.items() if isinstance(value, float)
    ]
    table = "\n".join(["| on the test split | |", "| --- | --- |", *rows])
    distance = manifest.get("distance")
    config = manifest["config"]
    clip = {name: manifest[name] for name in ("height", "width", "channels")}
    clip["segments"] = manifest["num_segments"]
    return _CARD.format(
        method=manifest.get("method") or "a network",
        dataset=" of ".join(filter(None, (config["dataset"]["name"], manifest.get("generated")))),
        modality=manifest["modality"],
        classes=len(manifest["class_names"]),
        running=(_WITH_ONNX if kind == "onnx" else _WITH_JAX).format(**clip),
        file=f"student.{kind}",
        **clip,
        precision=manifest["precision"],
        parameters=manifest["parameters"] / 1e6,
        flops=manifest["flops"] / 1e9,
        metrics=table if rows else "The run has no results yet (no results.json beside it).",
        accuracy=_smaller(manifest),
        judged=judged(manifest.get("calibration"), manifest["class_names"]),
        protocol=manifest.get("protocol"),
        step=manifest.get("step"),
        commit=manifest.get("git_commit") or "unknown",
        versions=", ".join(f"{k} {v}" for k, v in manifest["versions"].items()),
        distance=""
        if distance is None or manifest["precision"] != "float32"
        else f"; the largest difference of a probability from the Flax model is {distance:.1e}",
        names=", ".join(manifest["class_names"]),
        config=json.dumps(config, indent=1),
        **manifest["sampling"],
    )

"""How much accuracy a smaller network loses, on the run's test split or on rendered clips."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.data.frames import fit
from jax_irkd.data.sampling import frame_indices, segment_positions
from jax_irkd.data.spec import InputSpec
from jax_irkd.data.synthetic import staging
from jax_irkd.errors import UserError
from jax_irkd.training.setup import make_reader

SAMPLES = 10


def accuracy_change(
    changed: Callable, reference: Callable, meta: Mapping[str, Any], spec: InputSpec
) -> dict[str, Any]:
    """Top-1 of both programs and how often they agree.

    The clips are the run's test split where its data set is built; otherwise ten rendered ones,
    which tell about agreement only. `summary` is a line that says so.
    """
    try:
        dataset, batches = _test_split(meta)
        source = f"test split of {dataset} ({meta['config']['protocol']})"
    except UserError as error:
        print(f"no test split to measure on: {error}", file=sys.stderr)
        batches, source = _rendered(spec), f"{SAMPLES} rendered clips (agreement only)"
    first, second, labels = [], [], []
    for clips, truth in batches:
        first.append(np.asarray(changed(clips)))
        second.append(np.asarray(reference(clips)))
        labels.append(truth)
    return _compare(*map(np.concatenate, (first, second, labels)), source)


def _compare(changed, reference, labels, source: str) -> dict[str, Any]:
    known = labels >= 0
    kept = labels != -2  # padding of the last batch
    agreement = float(np.mean(changed[kept].argmax(1) == reference[kept].argmax(1)))
    shift = float(np.abs(changed[kept] - reference[kept]).max())
    figures = {
        "measured_on": source,
        "clips": int(kept.sum()),
        "agreement": agreement,
        "largest_change": shift,
    }
    summary = f"{source}, {kept.sum()} clips: {agreement:.1%} same answers, "
    if known.any():
        before, after = (
            float(np.mean(scores[known].argmax(1) == labels[known]))
            for scores in (reference, changed)
        )
        figures |= {"top1_float32": before, "top1": after, "top1_change": after - before}
        summary += f"top-1 {before:.1%} -> {after:.1%} ({100 * (after - before):+.1f} points), "
    return figures | {"summary": summary + f"probabilities change by at most {shift:.3f}"}


def _test_split(meta: Mapping[str, Any]) -> tuple[str, Iterator]:
    config, modality = ConfigDict(meta["config"]), meta["modality"]
    dataset = loading.open_dataset(config.dataset.name, config.dataset.data_dir)
    reader = make_reader(config, dataset, "test", (modality,))

    def batches():
        size = min(config.input.eval_batch_size, len(reader.records))
        for batch in loading.evaluation_batches(reader, batch_size=size, threads=2):
            yield batch["clips"][modality], np.where(batch["mask"] > 0, batch["label"], -2)

    return dataset.name, batches()


def _rendered(spec: InputSpec) -> Iterator:
    positions = segment_positions(spec.num_segments)
    for action in range(1, SAMPLES + 1):
        rgb, infrared = staging.film(staging.Clip(1, 2, action, 1, action), seed=0)
        film = rgb if spec.modality == "rgb" else infrared
        frames = [fit(film[i], spec.size) for i in frame_indices(positions, len(film))]
        yield np.stack(frames).reshape(1, *spec.shape), np.array([-1])

"""Looking closely at a trained student: its mistakes, where it looks, what MGCAM attended to.

Gathers from a run's folder and its siblings what `reporting.sections` draws.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_irkd.data import augment, loading
from jax_irkd.distillers import mgcam
from jax_irkd.errors import UserError, plural
from jax_irkd.reporting import sections
from jax_irkd.reporting.gradcam import grad_cam
from jax_irkd.runs import results
from jax_irkd.runs.network import load_network
from jax_irkd.runs.results import Run, finished, paired
from jax_irkd.training.evaluation import Network
from jax_irkd.training.selection import readable
from jax_irkd.training.setup import make_reader

COUNT = 4


def closeups(
    folder: Path, config: ConfigDict, dataset: loading.Dataset, *, teacher: Network | None = None
) -> list[sections.Section]:
    """Sections for the page of a finished run of an infrared student, for `report.write_report`.

    The most confident mistakes always; Grad-CAM of clips won and lost where a baseline lies beside
    the run; MGCAM's attention matrices where the run used it and a teacher is given.
    """
    run, names = results.read_run(folder), dataset.class_names
    reader = make_reader(config, dataset, "test", readable(config, dataset, "test"))
    wrong = surest_mistakes(run.logits, run.labels)
    mistakes = [_clip(run, i, reader, names, _repeated(run, i)) for i in wrong[:COUNT]]
    found = [sections.mistakes_section(mistakes, len(wrong))]
    student = load_network(folder)[0]
    sibling = folder.parent / "baseline"
    if run.method != "baseline" and finished(sibling):
        found += _before_and_after(run, student, sibling, reader, config, names)
    if teacher is not None and "mgcam" in config.distillers and "rgb" in reader.modalities:
        found.append(_attention(student, teacher, reader, config))
    return found


def surest_mistakes(logits: np.ndarray, labels: np.ndarray) -> list[int]:
    """All wrong clips, that of the largest top probability first."""
    wrong = np.flatnonzero(np.argmax(logits, axis=1) != labels)
    confidence = np.array([_confidence(logits[index]) for index in wrong])
    return wrong[np.argsort(-confidence, kind="stable")].tolist()


def _confidence(logits: np.ndarray) -> float:
    row = np.asarray(logits, np.float64)
    return float(1 / np.exp(row - row.max()).sum())


def _repeated(run: Run, index: int) -> str:
    """How many clips of this class are taken for the same other one."""
    own, taken = run.labels == run.labels[index], run.logits.argmax(1)
    same = int(np.sum(own & (taken == taken[index])))
    return f"{same} of {plural(int(own.sum()), 'clip')} of this class so"


def won_and_lost(kinds: Mapping[str, Sequence[int]], seed: int) -> list[tuple[str, int]]:
    """Clips of every kind in equal number, each as likely as any other of its kind.

    As many as there are of the rarer kind, and `COUNT` in all at most; where there are none of one
    kind, of the other alone.
    """
    share = min(COUNT // len(kinds), *(len(indices) or COUNT for indices in kinds.values()))
    found = []
    for kind, indices in kinds.items():
        places = np.random.default_rng(seed).permutation(len(indices))[:share]
        found += [(kind, int(indices[place])) for place in sorted(places)]
    return found


def _clip(
    run: Run, index: int, reader: loading.ClipReader, names: Sequence[str], note: str
) -> sections.ShownClip:
    """The clip at `index` of the run's scores, with its frames."""
    found = _find(reader, index, str(run.clip_ids[index]))
    frames = found["clips"] if found else {}
    return sections.ShownClip(
        str(run.clip_ids[index]),
        names[int(run.labels[index])],
        names[int(run.logits[index].argmax())],
        _confidence(run.logits[index]),
        frames.get("infrared"),
        frames.get("rgb"),
        note,
    )


def _find(reader: loading.ClipReader, index: int, clip_id: str) -> loading.Clip | None:
    # Scores leave out clips that could not be decoded, so a clip may lie further on.
    for place in range(index, len(reader.records)):
        clip = reader.centre(place)
        if str(clip["clip_id"]) == clip_id:
            return clip
    return None


def _before_and_after(
    run: Run,
    student: Network,
    sibling: Path,
    reader: loading.ClipReader,
    config: ConfigDict,
    names: Sequence[str],
) -> list[sections.Section]:
    """Grad-CAM on clips that one of the two gets right: won and lost in equal number, by lot."""
    pair = paired(run, results.read_run(sibling))
    try:
        baseline = load_network(sibling)[0]
    except UserError:
        return []  # results without their checkpoints: nothing to compare with
    if pair is None:
        return []
    (after, labels), (before, _) = pair
    order = np.argsort(run.clip_ids, kind="stable")
    right, was_right = (logits.argmax(1) == labels for logits in (after, before))
    kinds = {"won": order[right & ~was_right], "lost": order[was_right & ~right]}
    seed = int(run.results.get("seed") or 0)
    chosen = won_and_lost(kinds, seed)
    clips = [_clip(run, index, reader, names, kind) for kind, index in chosen]
    clips = [clip for clip in clips if clip.infrared is not None]
    if not clips:
        return [sections.nothing_won_or_lost()]
    layer = "stage4" if config.input.resolution >= 160 else "stage3"  # 5 x 5 places at least
    frames = np.stack([clip.infrared for clip in clips])
    classes = jnp.array([names.index(clip.label) for clip in clips], jnp.int32)
    ready = _prepare(config)({"infrared": frames})["infrared"]
    maps = [
        np.asarray(grad_cam(network.model, network.variables, ready, classes, layer=layer))
        for network in (baseline, student)
    ]
    crops = _crops(frames, config)
    clips = [clip._replace(infrared=crop) for clip, crop in zip(clips, crops)]
    counts = {kind: len(indices) for kind, indices in kinds.items()}
    return [sections.gradcam_section(clips, *maps, counts=counts, seed=seed)]


def _prepare(config: ConfigDict):
    return jax.jit(
        functools.partial(
            augment.prepare_evaluation,
            resolution=config.input.resolution,
            scale=config.input.eval_scale,
        )
    )


def _crops(frames: np.ndarray, config: ConfigDict) -> np.ndarray:
    """What the network sees of uint8 frames `b t h w c`, before normalisation, as uint8 again."""
    crop = augment.centre_crop(config.input.eval_scale)
    one = functools.partial(augment.crop_frames, crop=crop, resolution=config.input.resolution)
    seen = jax.jit(jax.vmap(one))(jnp.asarray(frames, jnp.float32))
    return np.asarray(jnp.clip(jnp.round(seen), 0, 255)).astype(np.uint8)


def _attention(
    student: Network, teacher: Network, reader: loading.ClipReader, config: ConfigDict
) -> sections.Section:
    """A_ij on one batch of test clips, spread over the test set, with the run's own options."""
    fields = {k: v for k, v in config.distillers["mgcam"].items() if k not in ("weight", "share")}
    method = mgcam.Distiller(**fields)
    size = min(config.student_training.batch_size, len(reader.records))
    places = np.linspace(0, len(reader.records) - 1, size).round().astype(int)
    batch = [reader.centre(int(place)) for place in places]
    batch = [clip["clips"] for clip in batch if clip["mask"] > 0]
    clips = _prepare(config)({k: np.stack([clip[k] for clip in batch]) for k in batch[0]})
    maps = []
    for network, modality in ((student, "infrared"), (teacher, "rgb")):
        forward = jax.jit(functools.partial(network.model.apply, train=False))
        maps.append(method.maps(forward(network.variables, clips[modality])))
    weights = mgcam.attention_matrices(
        *maps,
        sigma=method.sigma,
        temperature=method.temperature,
        attention=method.attention,
        distance=method.distance,
    )
    weights = np.asarray(weights)
    pairs = mgcam.stage_pairs(len(method.layers), method.pairs)
    names = [layer.replace("stage", "stage ") for layer in method.layers]
    return sections.attention_section({(names[i], names[j]): weights[i, j] for i, j in pairs})

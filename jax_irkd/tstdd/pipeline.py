"""TSTDDs, the infrared-only method of the paper's tables: three streams of optical flow and an SVM.

Three-stream trajectory-pooled deep-convolutional descriptors (Liu et al., arXiv:1909.08287). The
abstract, the layer table and figures are public, the code is not. What stands in its place:

- flow: DIS by default, TV-L1 (theirs) with opencv-contrib; of all stored infrared frames;
- OF-MHI: H_t = max(|flow_t|, decay H_{t-1}); OFSDI: mean over time of |flow_t - flow_{t-1}|, of
  its x, y and length, each scaled to [0, 1]. The formulas are not published;
- networks: their layers (TDD's CNN-M-2048) trained on the task from nothing, with batch norm, one
  for each stream; theirs start from TDD's networks, trained on UCF101;
- pooling: straight tubes of `tube` frames on every place of the map in place of improved dense
  trajectories, and means in place of sums (every tube is equally long);
- the two normalisations of TDD, side by side, for the layers of `layers`; one codebook for each
  stream and layer; LLC with 5 neighbours, max pooling, unit length; the six codes side by side;
- one-vs-rest linear SVM, squared hinge loss. Its decision values are saved as logits: they rank
  clips and classes, but nll and ece mean little.

Report what comes out as an approximation of TSTDDs; the paper's 72.36 % is quoted, not rerun.
"""

import functools
import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.data.records import UNREADABLE, text
from jax_irkd.errors import UserError, once
from jax_irkd.host import processor
from jax_irkd.host.interrupts import Interrupted, StopRequest
from jax_irkd.host.terminal import Progress, console
from jax_irkd.metrics import classification
from jax_irkd.reporting import sections, write
from jax_irkd.reporting.wording import percent
from jax_irkd.runs.identity import facts_of, identity_of
from jax_irkd.runs.lifecycle import carry_out
from jax_irkd.training.evaluation import Scores
from jax_irkd.training.setup import make_reader
from jax_irkd.tstdd import encoding, training
from jax_irkd.tstdd.flow import FlowCache
from jax_irkd.tstdd.pictures import STREAMS, LabelledClip, check


def run(
    config: ConfigDict,
    dataset: loading.Dataset,
    workdir: Path,
    *,
    wait: bool = False,
    restart: bool = False,
) -> dict:
    """Everything from frames to results in WORKDIR/tstdd; what is finished is not run again.

    `wait` and `restart` as in `runs.lifecycle.carry_out`. A signal saves the network in training
    and raises Interrupted; flow is kept clip by clip. What follows the networks is computed again
    by the next call.
    """
    if config.student_model.temporal != "none":
        once(
            f"method=tstdd has networks of its own, which see motion as optical flow; "
            f"temporal={config.student_model.temporal} changes nothing there"
        )
    if jax.process_count() > 1:
        raise UserError("method=tstdd runs in one process; start it with --distributed=off")
    if config.eval.detection:
        raise UserError("method=tstdd classifies clips only; leave out --config.eval.detection")
    check(config.tstdd)
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("method=tstdd needs scikit-learn: pip install 'jax-irkd[tstdd]'")
    folder = workdir / "tstdd"

    def trained():
        begun = time.monotonic()
        with StopRequest() as stop:
            scores, extra = _train_and_test(config, dataset, folder, stop)
        facts = facts_of(config, dataset, "tstdd", "infrared")
        return scores, facts | extra | {"wall_time_s": time.monotonic() - begun, "teacher": None}

    def page(results):
        write_page(folder, results)

    identity = identity_of(config, "tstdd", data=dataset.fingerprint)
    formerly = {"data": None}
    return carry_out(folder, identity, trained, page, formerly=formerly, wait=wait, restart=restart)


def write_page(folder: Path, results: Mapping[str, Any]) -> None:
    """The report of a finished run."""
    made = [_streams_section(results["streams"])]
    write.show_pictures(folder, made)
    write.write_report(folder.parent, [folder.name], sections={folder.name: made})


def _train_and_test(
    config: ConfigDict, dataset: loading.Dataset, folder: Path, stop: StopRequest
) -> tuple[Scores, dict[str, Any]]:
    seconds: dict[str, float] = {}
    clock = functools.partial(_Timer, seconds)
    classes, cache = len(dataset.class_names), _cache(config, dataset)
    readers = [make_reader(config, dataset, split, ("infrared",)) for split in ("train", "test")]
    with clock("flow"):
        train, test = (
            [*find_clips(reader, cache, processor.threads(config.input.threads), stop, split)]
            for reader, split in zip(readers, ("train", "test"))
        )
    if not train or not test:
        raise UserError(
            f"{dataset.name} has no readable clips to {'test' if train else 'train'} on"
        )
    console.print(
        f"[bold]tstdd[/bold] on infrared: {len(train)} clips, flow in {cache.folder}",
        highlight=False,
        soft_wrap=True,
    )
    codes: dict[str, list[np.ndarray]] = {}
    for name in STREAMS:
        with clock("steps"):
            stream = training.StreamTrainer(name, train, cache, config, classes, folder).run(stop)
        with clock("encoding"):
            codes[name] = _encode(stream, train, test, cache, config, stop)
    labels = [np.array([clip.label for clip in clips]) for clips in (train, test)]
    with clock("svm"):
        joined = [np.concatenate([codes[name][part] for name in STREAMS], 1) for part in (0, 1)]
        logits = _classify(joined, labels[0], classes, config)
        alone = {
            name: classification.summarize(
                _classify(codes[name], labels[0], classes, config), labels[1], classes
            )["top1"]
            for name in STREAMS
        }
    broken = {clip: n for reader in readers for clip, n in reader.faults.clips.items()}
    steps = len(STREAMS) * training.steps_of(config.tstdd.training, len(train))[1]
    scores = Scores(np.array([clip.clip_id for clip in test]), labels[1], logits)
    size = config.tstdd.training.batch_size
    return scores, {
        "steps": steps,
        "batch": {"global": size, "per_device": size},
        "seconds": seconds,
        "broken_clips": broken,
        "streams": alone,
    }


class _Timer:
    """Adds the seconds of a block to `seconds[name]`."""

    def __init__(self, seconds: dict[str, float], name: str):
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *error) -> None:
        spent = time.monotonic() - self.start
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + spent


def _cache(config: ConfigDict, dataset: loading.Dataset) -> FlowCache:
    section = config.tstdd
    folder = section.cache_dir or Path(config.dataset.data_dir) / "flow" / dataset.name
    return FlowCache(
        Path(folder),
        fingerprint=dataset.fingerprint,
        size=tuple(section.size),
        bound=section.bound,
        algorithm=section.flow,
    )


def find_clips(
    reader: loading.ClipReader, cache: FlowCache, threads: int, stop: StopRequest, split: str
) -> Iterator[LabelledClip]:
    """The readable clips of `reader` in order, their flow computed where it is not kept yet.

    A clip that cannot be decoded is counted as a fault and left out. Raises Interrupted.
    """

    def one(index: int) -> LabelledClip | None:
        if stop.requested:
            return None
        clip_id = f"record {index}"
        try:
            record = reader.records[index]
            clip_id = text(record["clip_id"])
            cache.fill(clip_id, record["infrared"])
        except UNREADABLE as error:
            reader.faults.count(clip_id, f"{type(error).__name__}: {error}")
            return None
        reader.faults.count()
        return LabelledClip(clip_id, int(record["label"]))

    total = len(reader.records)
    with (
        ThreadPoolExecutor(threads) as pool,
        Progress(f"flow ({split})", total, unit="clips") as progress,
    ):
        for done, clip in enumerate(pool.map(one, range(total)), 1):
            _stop_if_asked(stop)
            progress.update(done)
            if clip is not None:
                yield clip


def _encode(
    stream: training.TrainedStream,
    train: Sequence[LabelledClip],
    test: Sequence[LabelledClip],
    cache: FlowCache,
    config: ConfigDict,
    stop: StopRequest,
) -> list[np.ndarray]:
    """Codes of the training and the test clips by one stream, its layers side by side."""
    section, describe = config.tstdd, training.Describer(stream, cache, config)
    rng = np.random.default_rng([config.seed, STREAMS.index(stream.name), 1])
    share = -(-section.samples // len(train))
    drawn: dict[str, list[np.ndarray]] = {layer: [] for layer in section.layers}
    for _, found in _described(describe, train, f"sample {stream.name}", stop):
        for layer, descriptors in found.items():
            chosen = rng.permutation(len(descriptors))[:share]
            drawn[layer].append(descriptors[chosen])
    books = {
        layer: encoding.fit_codebook(
            np.concatenate(parts),
            components=section.components,
            words=section.words,
            seed=config.seed,
        )
        for layer, parts in drawn.items()
    }
    return [
        np.stack(
            [
                np.concatenate(
                    [
                        encoding.encode(found[layer], books[layer], section.neighbours)
                        for layer in books
                    ]
                )
                for _, found in _described(describe, clips, f"encode {stream.name}", stop)
            ]
        )
        for clips in (train, test)
    ]


def _described(
    describe: training.Describer, clips: Sequence[LabelledClip], title: str, stop: StopRequest
):
    with Progress(title, len(clips), unit="clips") as progress:
        for done, clip in enumerate(clips, 1):
            _stop_if_asked(stop)
            yield clip, describe(clip)
            progress.update(done)


def _stop_if_asked(stop: StopRequest) -> None:
    if stop.requested:
        raise Interrupted(
            f"{stop.requested}: flow and trained streams are kept; run the same command again to "
            "continue"
        )


def _classify(
    codes: Sequence[np.ndarray], labels: np.ndarray, classes: int, config: ConfigDict
) -> np.ndarray:
    """Decision values of the second part's codes by SVMs trained on the first part's."""
    svms = encoding.fit_svms(
        codes[0], labels, num_classes=classes, cost=config.tstdd.cost, seed=config.seed
    )
    return svms(codes[1])


def _streams_section(alone: dict[str, float]) -> sections.Section:
    rows = [[name, percent(value)] for name, value in alone.items()]
    lead = (
        "SVMs trained on the codes of one stream alone. An approximation of TSTDDs: the "
        "docstring of jax_irkd.tstdd names what stands in for what is not published. Decision "
        "values are no log probabilities: the calibration figures of this run mean little."
    )
    return sections.table_section("Streams", ["stream", "top-1"], rows, lead=lead)

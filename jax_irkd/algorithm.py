"""Algorithm 1 of the paper: train the teacher, distil the student, evaluate, report."""

import functools
import json
import time
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from jax_irkd import fields
from jax_irkd.config import trains_teacher
from jax_irkd.data import loading
from jax_irkd.data.spec import CHANNELS, SEES, background_of
from jax_irkd.detection import untrimmed
from jax_irkd.errors import UserError, plural
from jax_irkd.host import devices
from jax_irkd.host.files import expanded
from jax_irkd.host.terminal import console
from jax_irkd.inspection import strangers
from jax_irkd.reporting import examples, write
from jax_irkd.runs import calibrating
from jax_irkd.runs.identity import facts_of, identity_of
from jax_irkd.runs.lifecycle import carry_out, check_free
from jax_irkd.runs.network import NotKept, load_network
from jax_irkd.runs.results import PAGE, finished, has_begun, is_finished
from jax_irkd.training import loggers, setup
from jax_irkd.training.evaluation import Scores
from jax_irkd.training.loop import Trainer
from jax_irkd.training.phase import Network, Phase
from jax_irkd.tstdd import pipeline
from jax_irkd.weights import start
from jax_irkd.weights.teacher import judge, keep_figures


class Ways(NamedTuple):
    """How a run is carried out, beside what: none of it changes the outcome.

    `busy` says what to do where another command works in a folder: wait, refuse, or auto, which
    waits for the teacher that methods share and refuses otherwise.
    """

    restart: bool = False
    profile: bool = False
    busy: str = "auto"

    @property
    def of_teacher(self) -> "Ways":
        """Those of the shared teacher, which a student's --restart leaves alone."""
        return Ways(busy="wait" if self.busy == "auto" else self.busy)


USUAL = Ways()


def run(
    config: ConfigDict,
    workdir: Path,
    restart: bool = False,
    profile: bool = False,
    busy: str = "auto",
) -> dict:
    """Everything `config` asks for; the results of its method. Finished parts are not run again.

    `restart`, `profile` and `busy` are those of `Ways`.
    """
    fields.check(config)
    loggers.check(config.loggers)
    ways = Ways(restart, profile, busy)
    if not config.eval.detection:
        return run_method(config, workdir, ways)
    untrimmed.check(config)
    results = run_method(config, workdir, ways)
    folder = workdir / config.method
    return untrimmed.add_detection(config, folder, results, wait=ways.busy == "wait")


def run_method(config: ConfigDict, workdir: Path, ways: Ways = USUAL) -> dict:
    """Train and evaluate on clips what `config.method` needs; the results of the method."""
    folder = workdir / config.method
    if ways.profile:
        refuse_untraceable(config.method, folder, ways.restart)
    made = setup.make_distillers(config.distillers)
    dataset = setup.open_data(config)
    asked = [json.loads(config.to_json_best_effort()), dataset.fingerprint, ways.restart]
    devices.agree("configuration and data", asked)
    if config.method == "tstdd":
        return pipeline.run(config, dataset, workdir, **lifecycle_of(ways))
    if config.method == "teacher":
        check_ahead(config, dataset, folder, "teacher", ways)
        return train_teacher(config, dataset, workdir, ways)
    check_ahead(config, dataset, folder, "student", ways)
    teacher, taught = None, finished(workdir / "teacher") or {}
    if made:
        if not config.teacher and not has_begun(folder):
            setup.check_fit(config, made, len(dataset.class_names))
        teacher, taught = get_teacher(config, dataset, workdir, ways)
    shown = taught.get("metrics")

    def trained():
        if config.teacher and made:
            keep_figures(folder, taught)
        phase = Phase(
            name=config.method,
            modality=SEES["student"],
            model=make_model(config, dataset, "student"),
            training=config.student_training,
            distillers=made,
            shares=fields.make_shares(config.distillers),
            teacher=teacher() if made else None,
            pretrained=start.start_from(config.weights.student, dataset.class_names),
        )
        scores, results = train(phase, config, dataset, folder, ways.profile)
        return scores, results | {"teacher": shown}

    def page(results):
        alone = jax.process_count() == 1
        write_page(folder, config, dataset, teacher() if teacher and alone else None)

    identity = own_identity(config, dataset, config.method, taught["identity"] if made else "")
    formerly = formerly_of(config, "student") | taught.get("formerly", {})
    return carry_out(folder, identity, trained, page, formerly=formerly, **lifecycle_of(ways))


def train_teacher(
    config: ConfigDict, dataset: loading.Dataset, workdir: Path, ways: Ways = USUAL
) -> dict:
    """Train the RGB teacher in WORKDIR/teacher, unless that is done; its results."""
    folder = workdir / "teacher"

    def trained():
        phase = Phase(
            name="teacher",
            modality=SEES["teacher"],
            model=make_model(config, dataset, "teacher"),
            training=config.teacher_training,
            pretrained=start.start_from(config.weights.teacher, dataset.class_names),
        )
        return train(phase, config, dataset, folder, ways.profile)

    def page(results):
        write_page(folder, config, dataset, None)

    identity, formerly = own_identity(config, dataset, "teacher"), formerly_of(config, "teacher")
    return carry_out(folder, identity, trained, page, formerly=formerly, **lifecycle_of(ways))


def lifecycle_of(ways: Ways) -> dict[str, bool]:
    """What `carry_out` has to know."""
    return {"wait": ways.busy == "wait", "restart": ways.restart}


def own_identity(
    config: ConfigDict, dataset: loading.Dataset, phase: str, teacher: str = ""
) -> dict:
    """`identity_of` by the content of the data and of the weights that it starts from."""
    path = config.weights["teacher" if phase == "teacher" else "student"]
    weights = start.content_of(path)
    return identity_of(config, phase, teacher, data=dataset.fingerprint, weights=weights)


def formerly_of(config: ConfigDict, role: str) -> dict:
    """Fields of an identity as they were before they were digests of content."""
    return {"data": None, "weights": config.weights[role]}


def make_model(config: ConfigDict, dataset: loading.Dataset, role: str) -> nn.Module:
    """The network of `role`."""
    return setup.make_network(config, role, len(dataset.class_names))


def check_ahead(
    config: ConfigDict, dataset: loading.Dataset, folder: Path, role: str, ways: Ways
) -> None:
    """Raises UserError for what would stop this run, or the teacher it needs, later.

    Whatever can be found without training is found here, before anything is written.
    """
    if role == "student" and trains_teacher(config):
        teachers = folder.with_name("teacher")
        check_ahead(config, dataset, teachers, "teacher", ways.of_teacher)
    phase = "teacher" if role == "teacher" else config.method
    identity = own_identity(config, dataset, phase)
    if not ways.restart:
        unknown = ("teacher",) if role == "student" and config.distillers else ()
        check_free(folder, identity, formerly_of(config, role), unknown)
    if is_finished(folder) and not ways.restart:
        return
    setup.check_phase(config, dataset, role)
    inputs = config.input
    shape = (2, inputs.num_segments, inputs.resolution, inputs.resolution, CHANNELS[SEES[role]])
    model = make_model(config, dataset, role)
    start.check(config.weights[role], model, shape, dataset.class_names)


def refuse_untraceable(method: str, folder: Path, restart: bool) -> None:
    """Raises UserError when a run has no steps to trace: it ended in `folder`, or has none."""
    if method == "tstdd":
        raise UserError("--profile traces the loop of the other methods; tstdd has its own")
    if is_finished(folder) and not restart:
        raise UserError(
            f"the run in {folder} has ended, so --profile has nothing to trace; use another "
            "--workdir, or --restart to begin it anew"
        )


def get_teacher(config: ConfigDict, dataset: loading.Dataset, workdir: Path, ways: Ways = USUAL):
    """A function that loads the teacher, and its results; refuses one that cannot teach."""
    folder = expanded(config.teacher) if config.teacher else workdir / "teacher"
    if config.teacher:
        results = judge(folder, config, dataset, workdir / config.method, ways.restart)
    else:
        results = train_teacher(config, dataset, workdir, ways.of_teacher)
        jax.clear_caches()  # its programs hold memory, and the student has no use for them
    # Not of all clips: who always names the most frequent class knows nothing either.
    reached, chance = results["metrics"]["mean_class_accuracy"], 1 / len(dataset.class_names)
    if reached <= min(1.5 * chance, chance + (1 - chance) / 4) and not config.allow_weak_teacher:
        raise UserError(
            f"the teacher in {folder} reaches {reached:.1%} of a class on average, where chance is "
            f"{chance:.1%}; it has nothing to teach. Train it longer, or insist with "
            "--config.allow_weak_teacher=True"
        )
    return functools.cache(lambda: load_network(folder)[0]), results


def train(
    phase: Phase,
    config: ConfigDict,
    dataset: loading.Dataset,
    folder: Path,
    profile: bool = False,
) -> tuple[Scores, dict]:
    """Run one phase to its end: its scores on the test split, and what its results say of it."""
    begun = time.monotonic()
    trainer = Trainer(phase, config, dataset, folder, profile)
    total = len(trainer.devices) * jax.process_count()
    size = phase.training.batch_size
    if jax.process_index() == 0:
        console.print(
            f"[bold]{phase.name}[/bold] on {phase.modality}: "
            f"{plural(len(trainer.reader.records), 'clip')}, "
            f"{plural(trainer.num_steps, 'step')} of {plural(size, 'clip')} "
            f"({plural(total, 'device')} × {size // total})",
            highlight=False,
        )
        said = setup.cut_words(trainer.reader)
        if phase.distillers:
            said.append(setup.single_words(config, dataset, phase.training))
        for sentence in filter(None, said):
            console.print(sentence, highlight=False)
    network, scores = trainer.run()
    calibrated = {}
    if config.input.validation:
        calibrated["calibration"] = calibrate(network, scores, trainer, config, dataset)
    return scores, facts_of(config, dataset, phase.name, phase.modality) | calibrated | {
        "steps": trainer.last,
        "computed_in": setup.computed_in(config.dtype),
        **trainer.examiner.facts,
        "batch": {"global": size, "per_device": size // total},
        "wall_time_s": time.monotonic() - begun,
        "seconds": trainer.clock.seconds,
        "data_wait_share": trainer.clock.data_share(),
        "broken_clips": dict(trainer.reader.faults.clips | trainer.examiner.test.faults.clips),
    }


def calibrate(
    network: Network, scores: Scores, trainer: Trainer, config: ConfigDict, dataset: loading.Dataset
) -> dict:
    """Calibrate every network of a trained phase; what that changes for the last one."""
    folder, modality = trainer.folder, trainer.phase.modality
    last = calibrating.calibrate(network, config, dataset, modality)
    made = {calibrating.key_of(trainer.last, averaged=False): last}
    others = ["best", "ema"] if trainer.phase.training.ema_decay else ["best"]
    for which in others:
        try:
            other, meta = load_network(folder, which)
        except NotKept:  # then nobody can ask for it
            continue
        key = calibrating.key_of(meta["step"], averaged=which == "ema")
        if key not in made:
            made[key] = calibrating.calibrate(other, config, dataset, modality)
    calibrating.keep(folder, made)
    return calibrating.figures(last, scores, background_of(dataset.class_names))


def write_page(
    folder: Path, config: ConfigDict, dataset: loading.Dataset, teacher: Network | None
) -> None:
    """The report of a finished run; of a student with pictures of what it sees and gets wrong.

    The pictures need checkpoints, which several processes can only read together: one draws them.
    A teacher or a baseline is what other runs are compared with: pages they have are made anew.
    """
    student = folder.name != "teacher" and jax.process_count() == 1
    extra = examples.closeups(folder, config, dataset, teacher=teacher) if student else []
    if student and config.input.validation:
        extra.append(strangers.section(strangers.measure(folder)))
    write.show_pictures(folder, extra)
    named = {folder.name}
    if folder.name in ("teacher", "baseline"):
        named |= {path.parent.name for path in folder.parent.glob(f"*/{PAGE}")}
    write.write_report(folder.parent, sorted(named), sections={folder.name: extra})

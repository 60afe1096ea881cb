"""Algorithm 1 of the paper: train the teacher, distil the student, evaluate, report."""

import functools
import shutil
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jax_irkd import fields
from jax_irkd.data import loading
from jax_irkd.detection import untrimmed
from jax_irkd.errors import UserError
from jax_irkd.fields import make_shares
from jax_irkd.host import devices
from jax_irkd.host.terminal import console
from jax_irkd.metrics import classification
from jax_irkd.pretrained import start
from jax_irkd.reporting import examples, write
from jax_irkd.runs.identity import digest, facts_of, identity_of
from jax_irkd.runs.lifecycle import carry_out
from jax_irkd.runs.network import load_network
from jax_irkd.runs.results import PAGE, finished, is_finished
from jax_irkd.training import setup
from jax_irkd.training.evaluation import Network, Scores, evaluate
from jax_irkd.training.loop import Phase, Trainer
from jax_irkd.training.setup import make_reader
from jax_irkd.tstdd import pipeline


def run(config: ConfigDict, workdir: Path, restart: bool = False, profile: bool = False) -> dict:
    """Everything `config` asks for; the results of its method. Finished parts are not run again."""
    fields.check(config)
    if not config.eval.detection:
        return run_method(config, workdir, restart, profile)
    untrimmed.check(config)
    results = run_method(config, workdir, restart, profile)
    return untrimmed.add_detection(config, workdir / config.method, results)


def run_method(
    config: ConfigDict, workdir: Path, restart: bool = False, profile: bool = False
) -> dict:
    """Train and evaluate on clips what `config.method` needs; the results of the method."""
    if profile:
        refuse_untraceable(config.method, workdir / config.method, restart)
    made = setup.make_distillers(config.distillers)
    shares = make_shares(config.distillers)
    dataset = loading.open_dataset(config.dataset.name, config.dataset.data_dir)
    if restart:
        if jax.process_index() == 0:
            shutil.rmtree(workdir / config.method, ignore_errors=True)
        devices.barrier("restart")
    if config.method == "teacher":
        return train_teacher(config, dataset, workdir, profile)
    if config.method == "tstdd":
        return pipeline.run(config, dataset, workdir)
    taught_by = ""
    teacher, teacher_results = None, finished(workdir / "teacher")
    if made:
        if not config.teacher and not finished(workdir / "teacher"):
            setup.check_fit(config, made, len(dataset.class_names))
        teacher, teacher_results = get_teacher(config, dataset, workdir)
        taught_by = teacher_results["identity"]
    folder = workdir / config.method
    shown = teacher_results and teacher_results["metrics"]

    def trained():
        pretrained = config.weights.student
        phase = Phase(
            name=config.method,
            modality="infrared",
            model=setup.make_model(
                config.student_model,
                len(dataset.class_names),
                config.dtype,
                input_offset=bool(pretrained),
            ),
            training=config.student_training,
            distillers=made,
            shares=shares,
            teacher=teacher() if made else None,
            pretrained=start.start_from(pretrained, dataset.class_names),
        )
        scores, results = train(phase, config, dataset, folder, profile)
        return scores, results | {"teacher": shown}

    def page(results):
        alone = jax.process_count() == 1
        write_page(folder, config, dataset, teacher() if teacher and alone else None)

    return carry_out(folder, identity_of(config, config.method, taught_by), trained, page)


def train_teacher(
    config: ConfigDict, dataset: loading.Dataset, workdir: Path, profile: bool = False
) -> dict:
    """Train the RGB teacher in WORKDIR/teacher, unless that is done; its results."""
    folder = workdir / "teacher"

    def trained():
        phase = Phase(
            name="teacher",
            modality="rgb",
            model=setup.make_model(config.teacher_model, len(dataset.class_names), config.dtype),
            training=config.teacher_training,
            pretrained=start.start_from(config.weights.teacher, dataset.class_names),
        )
        return train(phase, config, dataset, folder, profile)

    def page(results):
        write_page(folder, config, dataset, None)

    return carry_out(folder, identity_of(config, "teacher"), trained, page)


def refuse_untraceable(method: str, folder: Path, restart: bool) -> None:
    """Raises UserError when a run has no steps to trace: it ended in `folder`, or has none."""
    if method == "tstdd":
        raise UserError("--profile traces the loop of the other methods; tstdd has its own")
    if is_finished(folder) and not restart:
        raise UserError(
            f"the run in {folder} has ended, so --profile has nothing to trace; use another "
            "--workdir, or --restart to begin it anew"
        )


def get_teacher(config: ConfigDict, dataset: loading.Dataset, workdir: Path):
    """A function that loads the teacher, and its results; refuses one that cannot teach."""
    folder = Path(config.teacher) if config.teacher else workdir / "teacher"
    if config.teacher:
        network, meta = load_network(folder)
        check_teacher(folder, meta, dataset)
        scores = evaluate(network, config, make_reader(config, dataset, "test", ("rgb",)))
        figures = classification.summarize(scores.logits, scores.labels, len(dataset.class_names))
        identity = digest({"teacher": str(folder.absolute()), "step": meta["step"]})
        results = {"metrics": figures, "identity": identity}
    else:
        results = train_teacher(config, dataset, workdir)
        jax.clear_caches()  # its programs hold memory, and the student has no use for them
    top1, chance = results["metrics"]["top1"], 1 / len(dataset.class_names)
    if top1 <= 1.5 * chance and not config.allow_weak_teacher:
        raise UserError(
            f"the teacher in {folder} reaches {top1:.1%} where chance is {chance:.1%}; it has "
            "nothing to teach. Train it longer, or insist with --config.allow_weak_teacher"
        )
    return functools.cache(lambda: load_network(folder)[0]), results


def check_teacher(folder: Path, meta: dict, dataset: loading.Dataset) -> None:
    """Raises UserError when a teacher's modality or classes are not those of the dataset."""
    if meta["modality"] != "rgb":
        raise UserError(f"the run in {folder} reads {meta['modality']}, but a teacher reads rgb")
    theirs, ours = meta["class_names"], list(dataset.class_names)
    if theirs != ours:
        raise UserError(
            f"the teacher in {folder} knows {len(theirs)} classes ({', '.join(theirs[:3])}, …), "
            f"{dataset.name} has {len(ours)} ({', '.join(ours[:3])}, …); train one on it"
        )


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
            f"[bold]{phase.name}[/bold] on {phase.modality}: {len(trainer.reader.records)} clips, "
            f"{trainer.num_steps} steps of {size} clips ({total} devices × {size // total})",
            highlight=False,
        )
    _, scores = trainer.run()
    return scores, facts_of(config, dataset, phase.name, phase.modality) | {
        "steps": trainer.num_steps,
        "batch": {"global": size, "per_device": size // total},
        "wall_time_s": time.monotonic() - begun,
        "seconds": trainer.clock.seconds,
        "data_wait_share": trainer.clock.data_share(),
        "broken_clips": dict(trainer.reader.faults.clips | trainer.test.faults.clips),
    }


def write_page(
    folder: Path, config: ConfigDict, dataset: loading.Dataset, teacher: Network | None
) -> None:
    """The report of a finished run; of a student with pictures of what it sees and gets wrong.

    The pictures need checkpoints, which several processes can only read together: one draws them.
    A teacher or a baseline is what other runs are compared with: pages they have are made anew.
    """
    student = folder.name != "teacher" and jax.process_count() == 1
    extra = examples.closeups(folder, config, dataset, teacher=teacher) if student else []
    write.show_pictures(folder, extra)
    named = {folder.name}
    if folder.name in ("teacher", "baseline"):
        named |= {path.parent.name for path in folder.parent.glob(f"*/{PAGE}")}
    write.write_report(folder.parent, sorted(named), sections={folder.name: extra})

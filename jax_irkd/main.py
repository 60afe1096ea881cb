"""Algorithm 1 of the paper: train the RGB teacher, distil the infrared student, evaluate, report.

python -m jax_irkd.main --config=configs/ntu.py:method=ours --workdir=runs/ntu
"""

import functools
import logging
import shutil
import sys
import time
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from jax_irkd import closeups, devices, metrics, report, runs, transfer
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.interrupts import INTERRUPTED, Interrupted
from jax_irkd.logs import console
from jax_irkd.train import Network, Phase, Trainer, evaluate, make_reader

CONFIG = config_flags.DEFINE_config_file("config", help_string="a file in configs/")
WORKDIR = flags.DEFINE_string("workdir", "", "where runs lie; default runs/CONFIG_NAME")
RESTART = flags.DEFINE_bool(
    "restart", False, "delete what the method's folder holds and begin anew"
)
DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", ["auto", "on", "off"], "several processes by jax.distributed"
)
DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "bit-equal reruns on GPUs, slower")


def run(config: ConfigDict, workdir: Path, restart: bool = False) -> dict:
    """Everything `config` asks for; the results of its method. Finished parts are not run again."""
    made = runs.make_distillers(config.distillers)
    dataset = loading.open_dataset(config.dataset.name, config.dataset.data_dir)
    if restart:
        if jax.process_index() == 0:
            shutil.rmtree(workdir / config.method, ignore_errors=True)
        devices.barrier("restart")
    if config.method == "teacher":
        return train_teacher(config, dataset, workdir)
    taught_by = ""
    teacher, teacher_results = None, runs.finished(workdir / "teacher")
    if made:
        teacher, teacher_results = get_teacher(config, dataset, workdir)
        taught_by = teacher_results["identity"]
    folder = workdir / config.method
    wanted = runs.identity(config, config.method, taught_by)
    runs.claim(folder, wanted)
    done = runs.finished(folder)
    if done:
        return done
    pretrained = config.weights.student
    phase = Phase(
        name=config.method,
        modality="infrared",
        model=runs.make_model(
            config.student_model,
            len(dataset.class_names),
            config.dtype,
            input_offset=bool(pretrained),
        ),
        training=config.student_training,
        distillers=made,
        teacher=teacher() if made else None,
        pretrained=transfer.start_from(pretrained, dataset.class_names),
    )
    shown = teacher_results and teacher_results["metrics"]
    return train(phase, config, dataset, folder, wanted, {"teacher": shown})


def train_teacher(config: ConfigDict, dataset: loading.Dataset, workdir: Path) -> dict:
    """Train the RGB teacher in WORKDIR/teacher, unless that is done; its results."""
    folder = workdir / "teacher"
    wanted = runs.identity(config, "teacher")
    runs.claim(folder, wanted)
    done = runs.finished(folder)
    if done:
        return done
    pretrained = config.weights.teacher
    phase = Phase(
        name="teacher",
        modality="rgb",
        model=runs.make_model(config.teacher_model, len(dataset.class_names), config.dtype),
        training=config.teacher_training,
        pretrained=transfer.start_from(pretrained, dataset.class_names),
    )
    return train(phase, config, dataset, folder, wanted, {})


def get_teacher(config: ConfigDict, dataset: loading.Dataset, workdir: Path):
    """A function that loads the teacher, and its results; refuses one that cannot teach."""
    folder = Path(config.teacher) if config.teacher else workdir / "teacher"
    if config.teacher:
        network, meta = runs.load(folder)
        check_teacher(folder, meta, dataset)
        scores = evaluate(network, config, make_reader(config, dataset, "test", ("rgb",)))
        figures = metrics.summarize(scores.logits, scores.labels, len(dataset.class_names))
        identity = runs.digest({"teacher": str(folder.absolute()), "step": meta["step"]})
        results = {"metrics": figures, "identity": identity}
    else:
        results = train_teacher(config, dataset, workdir)
    top1, chance = results["metrics"]["top1"], 1 / len(dataset.class_names)
    if top1 <= 1.5 * chance and not config.allow_weak_teacher:
        raise UserError(
            f"the teacher in {folder} reaches {top1:.1%} where chance is {chance:.1%}; it has "
            "nothing to teach. Train it longer, or insist with --config.allow_weak_teacher"
        )
    return functools.cache(lambda: runs.load(folder)[0]), results


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
    phase: Phase, config: ConfigDict, dataset: loading.Dataset, folder: Path, wanted, extra: dict
) -> dict:
    """Run one phase to its end and write its results."""
    start = time.monotonic()
    trainer = Trainer(phase, config, dataset, folder)
    total = len(trainer.devices) * jax.process_count()
    size = phase.training.batch_size
    console.print(
        f"[bold]{phase.name}[/bold] on {phase.modality}: {len(trainer.reader.records)} clips, "
        f"{trainer.num_steps} steps of {size} clips ({total} devices × {size // total})",
        highlight=False,
    )
    _, scores = trainer.run()
    results = {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "protocol": config.protocol,
        "method": phase.name,
        "modality": phase.modality,
        "seed": config.seed,
        "steps": trainer.num_steps,
        "batch": {"global": size, "per_device": size // total},
        "class_names": list(dataset.class_names),
        "identity": runs.digest(wanted),
        "config": trainer.meta["config"],
        "wall_time_s": time.monotonic() - start,
        "seconds": trainer.seconds,
        "broken_clips": dict(trainer.reader.faults.clips | trainer.test.faults.clips),
    }
    if jax.process_index() == 0:
        runs.write_results(folder, scores, results | extra)
        write_page(folder, config, dataset, phase.teacher)
    devices.barrier("results")
    return runs.finished(folder)


def write_page(
    folder: Path, config: ConfigDict, dataset: loading.Dataset, teacher: Network | None
) -> None:
    """The report of a finished run; of a student with pictures of what it sees and gets wrong.

    The pictures need checkpoints, which several processes can only read together: one draws them.
    """
    student = folder.name != "teacher" and jax.process_count() == 1
    extra = closeups.closeups(folder, config, dataset, teacher=teacher) if student else []
    report.write_report(folder.parent, [folder.name], sections={folder.name: extra})


def workdir_of(name: str) -> Path:
    """--workdir, or runs/ and the name of the config file."""
    return Path(WORKDIR.value or f"runs/{Path(name).stem}")


def main(argv: list[str]) -> int:
    """Parse, run, print; the exit code: 0 done, 1 or 2 the user's mistake, 75 interrupted."""
    try:
        flags.FLAGS(argv)
        if CONFIG.value is None:
            raise UserError("--config is missing; try --config=configs/demo.py")
    except (
        UserError,
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        return fail(error)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        devices.start(DISTRIBUTED.value, DETERMINISTIC.value)
        config = CONFIG.value
        workdir = workdir_of(config_flags.get_config_filename(flags.FLAGS["config"]))
        run(config, workdir, RESTART.value)
        if jax.process_index() == 0:
            report.print_table(workdir)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    except UserError as error:
        return fail(error)
    except KeyboardInterrupt:
        return fail("interrupted at once; the last checkpoint is what remains")
    return 0


def fail(error: object) -> int:
    """Say what is wrong; exit code 2. A config file's error arrives with its traceback: drop it."""
    text = str(error).strip()
    text = text.splitlines()[-1] if "Traceback" in text else text
    print(f"error: {text}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))

"""Every value of a configuration is checked in its own words, before anything is written."""

import re

import pytest

from jax_irkd import command_line, doctor, fields, inspect, study
from jax_irkd import main as train
from jax_irkd.config import paper_setup
from jax_irkd.configs import custom, demo, ntu, pku
from jax_irkd.errors import UserError
from tests.helpers import fakes

# What a user wrote, and how the message begins. Those of `student_training` hold for all trainings.
REFUSED = {
    "seed=-1": "seed is -1; it must be a whole number",
    "seed=4294967296": "seed is 4294967296; it must be a whole number from 0 to 4294967295",
    "seed=abc": "seed is 'abc'; it must be a whole number",
    "seed=1.5": "seed is '1.5'; it must be a whole number",
    "seed=None": "seed is 'None'; it must be a whole number",
    "seed=": "seed is ''; it must be a whole number",
    "dtype=float8": "dtype is 'float8'; it must be one of auto, float32",
    "log_every=0": "log_every is 0; it must be a whole number of 1 or more",
    "log_every=-5": "log_every is -5",
    "num_devices=-1": "num_devices is -1",
    "max_rejected=0": "max_rejected is 0",
    "protocol=cross_subjct": "unknown protocol 'cross_subjct'; did you mean 'cross_subject'",
    "allow_weak_teacher=perhaps": "allow_weak_teacher is 'perhaps'; it must be True or False",
    "method=baseline": "method is 'baseline', which has no distiller, but the configuration holds",
    "method=st": "method is 'st', which has the distillers st, but the configuration holds",
    "method=../x": "method is '../x'; it names a folder",
    "checkpoints.every=0": "checkpoints.every is 0",
    "checkpoints.latest=0": "checkpoints.latest is 0",
    "checkpoints.best=-1": "checkpoints.best is -1",
    "dataset.infrared_size=48x64": "dataset.infrared_size is '48x64'; it must be (height, width)",
    "dataset.infrared_size=(48,)": "dataset.infrared_size is (48,); it must be (height, width)",
    "dataset.rgb_size=0,340": "dataset.rgb_size is (0, 340)",
    "dataset.rgb_size=256,-340": "dataset.rgb_size is (256, -340)",
    "dataset.rgb_size=256.5,340": "dataset.rgb_size is (256.5, 340)",
    "dataset.rgb_size=256": "dataset.rgb_size is '256'",
    "input.scales=()": "input.scales is (); it must be one or several",
    "input.scales=(1,0)": "input.scales is (1, 0)",
    "input.scales=1.5": "input.scales is (1.5,)",
    "input.scales=1,a": "input.scales is '1,a'",
    "input.num_segments=0": "input.num_segments is 0",
    "input.num_segments=-1": "input.num_segments is -1",
    "input.resolution=7": "input.resolution is 7; it must be a whole number from 32",
    "input.eval_batch_size=0": "input.eval_batch_size is 0",
    "input.eval_scale=0": "input.eval_scale is 0.0; it must be a number above 0 and at most 1",
    "input.threads=-1": "input.threads is -1",
    "input.max_broken=2": "input.max_broken is 2.0",
    "input.hue_jitter=0.6": "input.hue_jitter is 0.6; it must be a number from 0 to 0.5",
    "input.colour_jitter=-0.1": "input.colour_jitter is -0.1",
    "input.grey_share=nan": "input.grey_share is nan",
    "input.validation=0.6": "input.validation is 0.6; it must be a number from 0 to 0.5",
    "student_training.patience=3": "student_training.patience is 3, which needs validation subje",
    "input.flip=2": "input.flip is '2'; it must be True or False",
    "student_model.depth=20": "student_model.depth is 20; it must be one of 18, 34",
    "student_model.frozen=stage5": "student_model.frozen is 'stage5'; it must be one of none, stem",
    "student_model.frozen=stage1": "student_model.frozen is 'stage1', but this network starts from",
    "student_model.width=0": "student_model.width is 0",
    "student_model.dropout=1": "student_model.dropout is 1.0",
    "teacher_model.temporal=sideways": "teacher_model.temporal is 'sideways'",
    "teacher_model.temporal_share=0": "teacher_model.temporal_share is 0.0",
    "teacher_model.head_std=-1": "teacher_model.head_std is -1.0",
    "student_training.batch_size=0": "student_training.batch_size is 0",
    "student_training.accumulation=3": "student_training.accumulation is 3, which does not divide",
    "student_training.accumulation=0": "student_training.accumulation is 0",
    "student_training.learning_rate=-1": "student_training.learning_rate is -1.0",
    "student_training.learning_rate=abc": "student_training.learning_rate is 'abc'; it must be a n",
    "student_training.learning_rate=inf": "student_training.learning_rate is inf",
    "student_training.label_smoothing=1.5": "student_training.label_smoothing is 1.5",
    "student_training.num_epochs=0": "student_training.num_epochs is 0.0; it must be",
    "student_training.eval_every=0": "student_training.eval_every is 0.0",
    "student_training.ema_decay=1": "student_training.ema_decay is 1.0",
    "student_training.momentum=1": "student_training.momentum is 1.0",
    "student_training.weight_decay=-1": "student_training.weight_decay is -1.0",
    "student_training.warmup_epochs=-1": "student_training.warmup_epochs is -1.0",
    "student_training.clip_norm=-1": "student_training.clip_norm is -1.0",
    "student_training.optimizer=adam": "student_training.optimizer is 'adam'; it must be",
    "student_training.schedule=linear": "student_training.schedule is 'linear'",
    "student_training.lr=1": "--config.student_training has no field 'lr'",
    'student_training["lr"]=1': "--config.student_training has no field 'lr'",
    "student_training.class_weights=3": "student_training.class_weights is '3'; it must be one of",
    "student_training.extra_clips=-1": "student_training.extra_clips is -1; it must be a whole",
    "input.unpaired=some": "input.unpaired is 'some'; it must be True or False",
    "student_training.sampling=none": "student_training.sampling is 'none'; it must be one of",
    "student_training=1": "--config.student_training is a section",
    "seed.x=1": "--config.seed is a value and has no field 'x'",
    "input.erasing=1.5": "input.erasing is 1.5; it must be a number from 0 to 1",
    "input.mixup=-1": "input.mixup is -1.0; it must be a number from 0 to 100",
    "input.cutmix=inf": "input.cutmix is inf; it must be a number from 0 to 100",
    "eval.clips=0": "eval.clips is 0; it must be a whole number from 1 to 64",
    "eval.crops=2": "eval.crops is 2; it must be one of 1, 3, 5, 10",
    "eval.smoothing=2": "eval.smoothing is 2; it must be an odd number",
    "eval.thresholds=0": "eval.thresholds is (0,)",
    "eval.missing=ignore": "eval.missing is 'ignore'",
    "tstdd.resolution=8": "tstdd.resolution is 8",
    "tstdd.bound=0": "tstdd.bound is 0.0",
    "tstdd.training.batch_size=0": "tstdd.training.batch_size is 0",
    "distillers.dkd.weight=abc": "distillers.dkd.weight is 'abc'; it must be a number",
    "distillers.dkd.temperature=0": "distillers.dkd.temperature is 0.0; it must be",
    "distillers.dkd.weight=-1": "distillers.dkd.weight is -1.0; it must be",
    "distillers.mgcam.sigma=0": "distillers.mgcam.sigma is 0; it must be",
    "distillers.mgcam.pairs=some": "distiller mgcam: ",
    "distillers.dkd.share=-1": "distillers.dkd.share is -1.0; it must be",
}


@pytest.mark.parametrize("written", REFUSED)
def test_a_value_that_cannot_be_is_refused_in_its_own_words(written):
    with pytest.raises(UserError) as error:
        _parse(f"--config.{written}")
    assert str(error.value).startswith(REFUSED[written])
    assert "\n" not in str(error.value)
    example = re.search(r", (--config\.\S+) for example", str(error.value))
    if example:
        _parse(example.group(1))


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("seed=3", 3),
        ("input.scales=1", (1,)),
        ("input.scales=1.0,0.5", (1.0, 0.5)),
        ("dataset.rgb_size=64,80", (64, 80)),
        ("student_training.learning_rate=1e-3", 1e-3),
        ("distillers.dkd.share=None", None),
        ("distillers.mgcam.temperature=None", None),
        ("distillers.mgcam.temperature=2", 2.0),
        ("input.flip=false", False),
    ],
)
def test_a_value_that_can_be_is_taken(written, value):
    config = _parse(f"--config.{written}")
    for name in written.partition("=")[0].split("."):
        config = config[name]
    assert config == value


def test_rare_classes_are_not_made_up_for_twice():
    both = [f"--config.student_training.{name}=balanced" for name in ("class_weights", "sampling")]
    with pytest.raises(UserError, match="which would make up for rare classes twice"):
        _parse(*both)


@pytest.mark.parametrize(
    ("method", "taken"),
    [("st", "st.cross_entropy_weight=0.1"), ("ccskd", "ccskd.schedule=cifar")],
)
@pytest.mark.parametrize("beside", ["class_weights=balanced", "extra_clips=8"])
def test_no_other_cross_entropy_is_taken_away_than_the_one_added(method, taken, beside):
    given = f"--config.distillers.{taken}"
    with pytest.raises(UserError, match=rf"{beside.partition('=')[0]} is .*learnt wrongly; give"):
        _plain(method, given, f"--config.student_training.{beside}")
    assert _plain(method, given) and _plain(method, f"--config.student_training.{beside}")


def _plain(method, *flags):
    file = f"configs/demo.py:weights=published,method={method}"
    argv = [f"--config={file}", "--config.student_training.label_smoothing=0.0", *flags]
    return command_line.parse(argv, lambda values: None).config


@pytest.mark.parametrize(
    ("method", "flags", "refused"),
    [
        ("st", ["st.cross_entropy_weight=0.1"], 0.2),
        ("st", ["st.cross_entropy_weight=0.5"], None),
        ("ccskd", ["ccskd.schedule=cifar"], 0.05),
        ("st+ccskd", ["st.cross_entropy_weight=0.5", "ccskd.schedule=cifar"], 0.0),
    ],
)
def test_as_much_of_the_labels_is_left_as_is_taken_away(method, flags, refused):
    given = [f"--config.distillers.{flag}" for flag in flags]
    fine = 0.2 if refused is None else 0.0
    if refused != 0.0:
        assert _plain(method, *given, f"--config.student_training.label_smoothing={fine}")
    if refused is not None:
        with pytest.raises(UserError, match="takes away more of the cross-entropy than there is"):
            _plain(method, *given, f"--config.student_training.label_smoothing={refused}")


def test_a_value_may_follow_as_a_word_of_its_own():
    assert _parse("--config.seed", "3").seed == 3


@pytest.mark.parametrize("command", [train, inspect, doctor, study])
def test_every_command_refuses_before_it_writes(command, tmp_path, capsys):
    words = ["config"] if command is inspect else []
    place = [f"--workdir={tmp_path / 'run'}"] if command is not inspect else []
    asked = [*words, "--config=configs/demo.py", "--config.student_training.batch_size=0", *place]
    assert command.main(asked) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: student_training.batch_size is 0; it must be a whole number")
    assert not (tmp_path / "run").exists()


def test_what_was_made_in_python_is_checked_too(tmp_path):
    from jax_irkd import algorithm

    config = fakes.config("ours")
    config.log_every = 0
    with pytest.raises(UserError, match="log_every is 0"):
        algorithm.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("made", [demo, ntu, pku, custom])
def test_every_number_of_ours_has_a_range(made):
    config = made.get_config("method=baseline")
    fields.check(config)
    without = [path for path, _ in fields.leaves(config) if fields.rule_of(path) is None]
    assert [path for path in without if not path.startswith("dataset.protocols.")] == []


def test_no_rule_is_idle():
    paths = [path for path, _ in fields.leaves(paper_setup("baseline", "cross_subject", 0))]
    used = {fields.RULES[p] if p in fields.RULES else fields.rule_of(p) for p in paths}
    ours = (name for name in fields.RULES if not name.startswith("distillers."))
    idle = [name for name in ours if fields.RULES[name] not in used]
    assert idle == []


def _parse(*arguments):
    return command_line.parse(["--config=configs/demo.py", *arguments], lambda values: None).config


def test_a_study_finds_missing_weights_before_its_first_run(tmp_path, capsys):
    missing = f"--config.weights.student={tmp_path / 'nothing.safetensors'}"
    asked = ["--config=configs/demo.py", "--methods=baseline", missing]
    assert study.main([*asked, f"--workdir={tmp_path / 'study'}"]) == 2
    assert "nothing.safetensors does not exist" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()

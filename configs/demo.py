"""Generated people acting the ten NTU classes: the whole method on two CPU cores in minutes.

make demo, or: python -m jax_irkd.main --config=configs/demo.py:method=ours --workdir=runs/demo

`data=demo` has 600 training and 210 test clips; `data=large` (make large-data) as many training
clips and 1,200 test clips of other people, for comparing methods; `data=gestures` (make
gesture-data) is of another kind, 480 and 480 clips of eight generated hand gestures;
`data=untrimmed` (make untrimmed-data) are long films in PKU-MMD's layout for detection, 600 and
600 instances of the ten actions and nothing of the kind between them. The films were tuned on the
demo's people, the teacher's epochs also with one seed of `large`.
The teacher starts from a small file that comes with the package, as RGB films are plentiful and
infrared ones are not: a ResNet-18 that `data=start` (make start-weights) trains from nothing on
other generated people. The students start from nothing.
"""

from ml_collections import ConfigDict

from jax_irkd.config import PKU_PROTOCOLS, paper_setup, parse
from jax_irkd.errors import nearest

PROTOCOLS = {
    "demo": "cross_subject",
    "large": "cross_subject",
    "gestures": "split",
    "untrimmed": "cross_subject",
    "start": "cross_view",
}


def small(config: ConfigDict) -> None:
    """Networks, input and training for two CPU cores: those of every study in docs/results."""
    config.dataset.rgb_size = (112, 150)
    config.dataset.infrared_size = (112, 135)

    config.input.num_segments = 4
    config.input.resolution = 96
    config.input.scales = (1.0, 0.875)
    config.input.hue_jitter = 0.05
    config.input.grey_share = 0.3  # infrared has no colour: a teacher of colours could not teach
    config.input.eval_batch_size = 32

    for model in (config.teacher_model, config.student_model):
        model.depth = 18
        model.width = 16
        model.dropout = 0.2
        model.head_std = 0.01
        model.zero_init_residual = True

    for training in (config.teacher_training, config.student_training):
        training.batch_size = 16
        training.num_epochs = 18.0
        training.optimizer = "adamw"
        training.learning_rate = 3e-3
        training.weight_decay = 1e-2
        training.schedule = "cosine"
        training.warmup_epochs = 0.5
        training.eval_every = 6.0


def get_config(arg: str = ""):
    options = parse(arg, protocol="", weights="balanced", data="demo")
    data = options.pop("data")
    if data not in PROTOCOLS:
        raise ValueError(f"unknown option {data=}{nearest(data, PROTOCOLS)}")
    options["protocol"] = options["protocol"] or PROTOCOLS[data]
    config = paper_setup(**options)
    config.dataset.name = "ntu_rgbd_ir/ten"
    if data == "gestures":
        config.dataset.name = "folder_ir"
        config.dataset.protocols = {"split": {"train": ("train",), "test": ("test",)}}
    if data == "untrimmed":
        config.dataset.name, config.dataset.protocols = "pku_mmd_ir", PKU_PROTOCOLS
        config.eval.raw_dir = "runs/untrimmed_data/raw"
    config.dataset.data_dir = f"runs/{data}_data/tfds"
    small(config)
    if data == "start":
        config.teacher_training.num_epochs = 40.0
        config.teacher_training.eval_every = 20.0
    else:
        config.weights.teacher = "shipped:demo_resnet18"
        config.teacher_training.num_epochs = 8.0
        config.teacher_training.learning_rate = 2e-3
        config.teacher_training.eval_every = 4.0
    config.checkpoints.every = 100

    config.tstdd.size = (112, 135)
    config.tstdd.resolution = 96
    config.tstdd.width = 24
    config.tstdd.words = 256
    config.tstdd.samples = 20_000
    config.tstdd.training.num_epochs = 15.0
    return config

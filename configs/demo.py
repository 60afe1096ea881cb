"""Generated people acting the ten NTU classes: the whole method on two CPU cores in minutes.

make demo, or: python -m jax_irkd.main --config=configs/demo.py:method=ours --workdir=runs/demo
"""

from jax_irkd.config import paper_setup, parse


def get_config(arg: str = ""):
    options = parse(arg, method="ours", protocol="cross_subject", seed=0, temporal="none")
    config = paper_setup(**options)
    config.dataset.name = "ntu_rgbd_ir/ten"
    config.dataset.data_dir = "runs/demo_data/tfds"
    config.dataset.rgb_size = (112, 150)
    config.dataset.infrared_size = (112, 135)

    config.input.num_segments = 4
    config.input.resolution = 96
    config.input.scales = (1.0, 0.875)
    config.input.hue_jitter = 0.05
    config.input.grey_share = 0.3  # infrared has no colour: a teacher of colours could not teach
    config.input.eval_batch_size = 32
    config.input.threads = 2

    for model in (config.teacher_model, config.student_model):
        model.width = 16
        model.dropout = 0.2
        model.head_std = 0.01
        model.zero_init_residual = True

    for training in (config.teacher_training, config.student_training):
        training.batch_size = 8
        training.num_epochs = 8.0
        training.optimizer = "adamw"
        training.learning_rate = 3e-3
        training.weight_decay = 1e-2
        training.schedule = "cosine"
        training.warmup_epochs = 0.5
        training.eval_every = 4.0
    config.student_training.num_epochs = 12.0  # it learns more slowly from infrared
    config.checkpoints.every = 100

    config.tstdd.size = (112, 135)
    config.tstdd.resolution = 96
    config.tstdd.width = 24
    config.tstdd.words = 256
    config.tstdd.samples = 20_000
    config.tstdd.training.num_epochs = 15.0
    return config

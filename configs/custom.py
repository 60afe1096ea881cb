"""Your own classes, built from a folder per class; docs/custom.md tells the way from start to end.

python -m jax_irkd.build folder_ir --manual_dir=RAW --data_dir=data
python -m jax_irkd.main --config=configs/custom.py --workdir=runs/custom \\
    --config.weights.teacher=runs/ntu/teacher --config.weights.student=runs/ntu/ours

Both networks start from finished runs (or torchvision files) and are tuned with the small steps
that keep what these have learnt; without weights, raise learning_rate and num_epochs.
"""

from jax_irkd.config import paper_setup, parse


def get_config(arg: str = ""):
    options = parse(arg, protocol="split", weights="balanced")
    config = paper_setup(**options)
    config.dataset.name = "folder_ir"
    config.dataset.data_dir = "data"
    config.dataset.protocols = {"split": {"train": ("train",), "test": ("test",)}}
    config.dataset.rgb_size = (256, 340)
    config.dataset.infrared_size = (256, 340)

    # Small sets: broken clips weigh more, and clips of a class come rarely.
    config.input.max_broken = 0.05
    for model in (config.teacher_model, config.student_model):
        model.dropout = 0.5
    for training in (config.teacher_training, config.student_training):
        training.batch_size = 8
        training.num_epochs = 30.0
        training.optimizer = "adamw"
        training.learning_rate = 3e-4
        training.weight_decay = 1e-2
        training.schedule = "cosine"
        training.warmup_epochs = 1.0
        training.clip_norm = 5.0
        training.eval_every = 5.0
    config.checkpoints.every = 200
    return config

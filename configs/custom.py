"""Your own classes, built from a folder per class; docs/custom.md tells the way from start to end.

python -m jax_irkd.build folder_ir --manual_dir=RAW --data_dir=data
python -m jax_irkd.weights fetch resnet50 resnet18
python -m jax_irkd.main --config=configs/custom.py --workdir=runs/custom \\
    --config.weights.teacher=weights/resnet50-0676ba61.safetensors \\
    --config.weights.student=weights/resnet18-f37072fd.safetensors

The method is `best` unless another is named. Both networks start from torchvision files, or from
finished runs, and are tuned with the small steps that keep what these have learnt; without weights,
raise learning_rate and num_epochs.
`networks=small`, for two CPU cores: networks, input and training of configs/demo.py, with which
docs/results was measured. The teacher starts from the weights that come with the package.
"""

from jax_irkd.config import paper_setup, parse
from jax_irkd.configs.demo import small
from jax_irkd.errors import nearest

NETWORKS = ("paper", "small")


def get_config(arg: str = ""):
    options = parse(arg, method="best", protocol="split", weights="balanced", networks="paper")
    networks = options.pop("networks")
    if networks not in NETWORKS:
        raise ValueError(f"unknown option {networks=}{nearest(networks, NETWORKS)}")
    config = paper_setup(**options)
    config.dataset.name = "folder_ir"
    config.dataset.data_dir = "data"
    config.dataset.protocols = {"split": {"train": ("train",), "test": ("test",)}}
    config.input.max_broken = 0.05  # small sets: a broken clip weighs more
    if networks == "small":
        small(config)
        config.weights.teacher = "shipped:demo_resnet18"
        config.dataset.infrared_size = config.dataset.rgb_size
        # The teacher learns as long as the student: its weights know other actions than yours.
        for training in (config.teacher_training, config.student_training):
            training.min_steps = 600  # as the studies' students had, of 600 clips
        config.checkpoints.every = 100
        return config

    config.dataset.rgb_size = (256, 340)
    config.dataset.infrared_size = (256, 340)
    # As in the demo: what only colour tells cannot be learnt from infrared.
    config.input.hue_jitter = 0.05
    config.input.grey_share = 0.3
    for model in (config.teacher_model, config.student_model):
        model.dropout = 0.5
    for training in (config.teacher_training, config.student_training):
        training.batch_size = 8
        training.num_epochs = 30.0
        training.min_steps = 1000  # 40 clips would have 150
        training.optimizer = "adamw"
        training.learning_rate = 3e-4  # a tenth of the demo's, whose students start from nothing
        training.weight_decay = 1e-2
        training.schedule = "cosine"
        training.warmup_epochs = 1.0
        training.clip_norm = 5.0
        training.eval_every = 5.0
    config.checkpoints.every = 200
    return config

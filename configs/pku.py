"""PKU-MMD, phase 1: 51 classes, one clip an action instance, the paper's set-up.

python -m jax_irkd.main --config=configs/pku.py:protocol=cross_view \\
    --config.dataset.data_dir=DATA \\
    --config.weights.teacher=weights/resnet50-0676ba61.safetensors \\
    --config.weights.student=weights/resnet18-f37072fd.safetensors
(python -m jax_irkd.weights fetch resnet50 resnet18 brings them)

The paper reports a mAP of 0.588 and 0.586 for `ours`; we report the mean class average precision of
trimmed clips, and with --config.eval.detection=True the official detection figures beside it.
"""

from jax_irkd.config import PKU_PROTOCOLS, paper_setup, parse


def get_config(arg: str = ""):
    options = parse(arg)
    config = paper_setup(**options)
    config.dataset.name = "pku_mmd_ir"
    config.dataset.protocols = PKU_PROTOCOLS
    for training in (config.teacher_training, config.student_training):
        training.num_epochs = 120.0
    if "dkd" in config.distillers and options["weights"] == "published":
        config.distillers.dkd.weight = 0.01
    return config

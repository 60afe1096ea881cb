"""NTU RGB+D, ten classes (A001-A010), the paper's set-up.

python -m jax_irkd.main --config=configs/ntu.py --config.dataset.data_dir=DATA \\
    --config.weights.teacher=weights/resnet50-0676ba61.safetensors \\
    --config.weights.student=weights/resnet18-f37072fd.safetensors
(python -m jax_irkd.weights fetch resnet50 resnet18 brings them)

The paper reports 80.86 % for `ours` and 71.20 % for `baseline`; it does not name the protocol.
"""

from jax_irkd.config import paper_setup, parse


def get_config(arg: str = ""):
    options = parse(arg, classes="ten")
    classes = options.pop("classes")
    config = paper_setup(**options)
    config.dataset.name = f"ntu_rgbd_ir/{classes}"
    return config

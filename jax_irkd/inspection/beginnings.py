"""What the networks of a configuration start from, and whether that fits them."""

from ml_collections import ConfigDict

from jax_irkd.config import trains_teacher
from jax_irkd.data.spec import CHANNELS, SEES
from jax_irkd.errors import UserError
from jax_irkd.inspection.lines import GREEN, RED, YELLOW, Line
from jax_irkd.training import setup
from jax_irkd.weights import published, start

CLASSES = 60  # a head is there or not


def check(config: ConfigDict) -> list[Line]:
    """A line for each network that is trained: its weights fit, or do not, or there are none."""
    lines = []
    for role, modality in SEES.items():
        if not _is_trained(config, role):
            continue
        topic, path = f"{role} weights", config.weights[role]
        if not path:
            lines.append(_from_scratch(config, role))
            continue
        side = config.input.resolution
        offset = {"input_offset": True} if role == "student" else {}
        try:
            model = setup.make_model(config[f"{role}_model"], CLASSES, "float32", **offset)
            shape = (2, config.input.num_segments, side, side, CHANNELS[modality])
            start.check(path, model, shape, ())
        except UserError as error:
            remedy = f"python -m jax_irkd.weights check {path} says what it holds"
            lines.append(Line(RED, topic, str(error), remedy))
        else:
            lines.append(Line(GREEN, topic, f"{path} fits"))
    return lines


def _is_trained(config: ConfigDict, role: str) -> bool:
    if role == "teacher":
        return config.method == "teacher" or trains_teacher(config)
    return config.method not in ("teacher", "tstdd")


def _from_scratch(config: ConfigDict, role: str) -> Line:
    model, topic = config[f"{role}_model"], f"{role} weights"
    name = f"resnet{model.depth}"
    text = f"none are named: the {role} starts from scratch"
    if name not in published.FILES or model.width != 64:
        return Line(YELLOW, topic, text, f"--config.weights.{role}=FILE_OR_RUN")
    file = published.FILES[name].replace(".pth", ".safetensors")
    remedy = f"python -m jax_irkd.weights fetch {name}, then --config.weights.{role}=weights/{file}"
    return Line(YELLOW, topic, f"{text}; the paper starts from ImageNet", remedy)

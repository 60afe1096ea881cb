"""What every field of a configuration may hold: the one table of ranges, and the check of all.

Every command that reads a configuration calls `check` before it does anything (`command_line`), and
so does `algorithm.run` for a configuration made in Python. A field without a row is a user's own
and is not looked at; `tests/surprises/test_config_ranges.py` finds a number of ours without one.
"""

import dataclasses
import fnmatch
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jax_irkd import config as experiment
from jax_irkd import distillers
from jax_irkd.errors import UserError, nearest, one_line
from jax_irkd.fields import taken_away
from jax_irkd.fields.ranges import Choice, Flag, Number, Rule, Several, Words


def _whole(low: float, high: float = math.inf) -> Number:
    return Number(low, high, whole=True)


POSITIVE, NOT_NEGATIVE = Number(0, open="("), Number(0)
SHARE, RATE = Number(0, 1), Number(0, 1, open=")")  # a rate of 1 would leave nothing
PART = Number(0, 1, open="(")
SIDE = _whole(32, 8192)  # pixels: five halvings of the network leave one
_SEEDS = _whole(0, 2**32 - 1)

# By path, where a * stands for any name between dots.
RULES = {
    "method": Words(),
    "protocol": Words(),
    "seed": _SEEDS,
    "teacher": Words(),
    "allow_weak_teacher": Flag(),
    "dtype": Choice(("auto", "float32", "bfloat16")),  # float16 would need its loss scaled
    "log_every": _whole(1),
    "loggers": Words(several=True, example="('tensorboard','wandb')"),
    "num_devices": _whole(0, 65536),
    "max_rejected": _whole(1),
    "dataset.name": Words(),
    "dataset.data_dir": Words(),
    "dataset.leave_out": Words(True, "('drop','throw')", none=True),
    "dataset.*_size": Several(SIDE, 2),
    "input.num_segments": _whole(1, 1024),
    "input.resolution": SIDE,
    "input.scales": Several(PART),
    "input.flip": Flag(),
    "input.colour_jitter": SHARE,
    "input.hue_jitter": Number(0, 0.5),
    "input.grey_share": SHARE,
    "input.erasing": SHARE,
    "input.mixup": Number(0, 100),
    "input.cutmix": Number(0, 100),
    "input.eval_scale": PART,
    "input.eval_batch_size": _whole(1, 65536),
    "input.threads": _whole(0, 1024),
    "input.readers": Choice(("auto", "threads", "processes")),
    "input.max_broken": SHARE,
    "input.validation": Number(0, 0.5),
    "input.unpaired": Flag(),
    "weights.*": Words(),
    "*_model.depth": Choice((18, 34, 50, 101, 152)),
    "*_model.width": _whole(1, 4096),
    "*_model.dropout": RATE,
    "*_model.head_std": NOT_NEGATIVE,
    "*_model.temporal": Choice(experiment.TEMPORAL),
    "*_model.temporal_share": PART,
    "*_model.frozen": Choice(experiment.FROZEN),
    "*_model.*": Flag(),  # partial_bn, sync_bn, zero_init_residual, remat
    "*training.batch_size": _whole(1, 1 << 20),
    "*training.num_epochs": Number(0, 1e6, open="("),
    "*training.min_steps": _whole(0),
    "*training.optimizer": Choice(("sgd", "adamw")),
    "*training.learning_rate": Number(0, 1e6),
    "*training.momentum": RATE,
    "*training.weight_decay": NOT_NEGATIVE,
    "*training.schedule": Choice(("step", "cosine", "constant")),
    "*training.warmup_epochs": NOT_NEGATIVE,
    "*training.clip_norm": NOT_NEGATIVE,
    "*training.accumulation": _whole(1, 1 << 20),
    "*training.ema_decay": RATE,
    "*training.label_smoothing": RATE,
    "*training.extra_clips": _whole(0, 1 << 20),
    "*training.class_weights": Choice(("none", "balanced")),
    "*training.sampling": Choice(("uniform", "balanced")),
    "*training.eval_every": POSITIVE,
    "*training.patience": _whole(0),
    "checkpoints.every": _whole(1),
    "checkpoints.latest": _whole(1, 10_000),
    "checkpoints.best": _whole(0, 10_000),
    "eval.clips": _whole(1, 64),
    "eval.crops": Choice((1, 3, 5, 10)),
    "eval.detection": Flag(),
    "eval.raw_dir": Words(),
    "eval.window": _whole(1),
    "eval.stride": _whole(1),
    "eval.smoothing": _whole(1),
    "eval.thresholds": Several(PART),
    "eval.max_gap": _whole(0),
    "eval.min_frames": _whole(0),
    "eval.nms_overlap": SHARE,
    "eval.overlap": PART,
    "eval.missing": Choice(("error", "official", "empty")),
    "tstdd.flow": Choice(("dis", "tvl1")),
    "tstdd.cache_dir": Words(),
    "tstdd.size": Several(SIDE, 2),
    "tstdd.bound": POSITIVE,
    "tstdd.resolution": SIDE,
    "tstdd.stack": _whole(1, 1024),
    "tstdd.stride": _whole(1),
    "tstdd.decay": RATE,
    "tstdd.width": _whole(1, 4096),
    "tstdd.dropout": RATE,
    "tstdd.layers": Words(several=True, example="('conv4','conv5')"),
    "tstdd.tube": _whole(1),
    "tstdd.components": _whole(1),
    "tstdd.words": _whole(1),
    "tstdd.neighbours": _whole(1),
    "tstdd.samples": _whole(1),
    "tstdd.cost": POSITIVE,
    # Of the distillers that come with the package, whose other fields their modules check.
    "distillers.*.share": POSITIVE,
    "distillers.*weight": NOT_NEGATIVE,
    "distillers.*.temperature": POSITIVE,
    "distillers.*.sigma": POSITIVE,
    "distillers.*.variance": POSITIVE,
    "distillers.*.factor": POSITIVE,
    "distillers.*.rate": POSITIVE,
    "distillers.*.gamma": NOT_NEGATIVE,
    "distillers.*.warmup_epochs": NOT_NEGATIVE,
    "distillers.*.num_epochs": POSITIVE,
    "distillers.*.power": _whole(1),
    "distillers.*.order": _whole(0),
    "distillers.*.size": _whole(1, 1 << 20),
    "distillers.*.inner": _whole(1, 1 << 20),
}


def rule_of(path: str) -> Rule | None:
    """What the field `path` (as student_training.batch_size) may hold; None: not in the table."""
    if path in RULES:
        return RULES[path]
    if path.startswith("distillers.") and path.split(".")[1] not in distillers.names():
        return None
    depth = path.count(".")
    rows = (pattern for pattern in RULES if "*" in pattern and pattern.count(".") <= depth)
    return next((RULES[row] for row in rows if fnmatch.fnmatchcase(path, row)), None)


def leaves(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with its path."""
    for name, value in section.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def optional(path: str) -> bool:
    """Whether the field may be None: only numbers of a distiller may."""
    if not path.startswith("distillers."):
        return False
    name, _, field = path.removeprefix("distillers.").rpartition(".")
    if field == "share":
        return True
    kinds = {f.name: (f.default, f.type) for f in dataclasses.fields(distillers.get(name))}
    default, kind = kinds.get(field, (0, int))
    return default is None or type(None) in typing.get_args(kind)


def check(config: ConfigDict, usual: ConfigDict | None = None) -> None:
    """Raises UserError, in the field's words, for the first value that cannot be.

    `usual` is the configuration before the command line changed it: its values are the examples.
    """
    before = dict(leaves(usual)) if usual is not None else {}
    for path, value in leaves(config):
        rule = rule_of(path)
        if rule is None or rule.holds(value) or (value is None and optional(path)):
            continue
        if isinstance(value, str) and path.startswith("distillers."):
            continue  # some numbers may be a word too: the module knows which
        raise UserError(refusal(path, value, rule, before.get(path)))
    make_distillers(config.get("distillers", {}))
    make_shares(config.get("distillers", {}))
    _check_together(config)
    if "method" in config:
        _check_method(config, usual)


def refusal(path: str, value: Any, rule: object, usual: Any = None) -> str:
    """What is wrong with a value, and `usual` as an example where that is a good one."""
    text, shown = repr(value), ""
    if usual is not None and (not isinstance(rule, Rule) or rule.holds(usual)):
        plain = isinstance(usual, tuple) and not any(isinstance(part, str) for part in usual)
        example = ",".join(map(str, usual)) if plain else str(usual).replace(" ", "")
        shown = f", --config.{path}={example} for example"
    text = text if len(text) < 100 else f"{text[:99]}…"
    return f"{path} is {text}; it must be {rule}{shown}"


def _check_together(config: ConfigDict) -> None:
    """Raises UserError for fields that do not fit each other."""
    for name, section in config.items():
        if not name.endswith("_training") or "accumulation" not in section:
            continue
        for field in ("batch_size", "extra_clips"):
            if section.get(field, 0) % section.accumulation:
                raise UserError(
                    f"{name}.accumulation is {section.accumulation}, which does not divide the "
                    f"batch of {section[field]} clips ({name}.{field})"
                )
        if section.get("class_weights") == section.get("sampling") == "balanced":
            raise UserError(
                f"{name} has class_weights=balanced and sampling=balanced, which would make up for "
                "rare classes twice; choose one of the two"
            )
    _check_patience(config)
    taken_away.check(config)
    for name in ("teacher_model", "student_model"):
        model, role = config.get(name, {}), name.partition("_")[0]
        if model.get("frozen", "none") != "none" and not config.weights[role]:
            raise UserError(
                f"{name}.frozen is {model.frozen!r}, but this network starts from scratch: what is "
                f"frozen would stay random; name what it starts from by --config.weights.{role}"
            )
        if model.get("temporal") == "shift" and model.temporal_share > 0.5:
            raise UserError(
                f"{name}.temporal_share is {model.temporal_share}; with temporal='shift' it must "
                "be a number above 0 and at most 0.5"
            )
    if "eval" in config and not config.eval.smoothing % 2:
        raise UserError(f"eval.smoothing is {config.eval.smoothing}; it must be an odd number")
    protocols = config.dataset.get("protocols", {}) if "dataset" in config else {}
    if protocols and config.protocol not in protocols:
        raise UserError(
            f"unknown protocol {config.protocol!r}{nearest(config.protocol, protocols)}"
        )


def _check_patience(config: ConfigDict) -> None:
    """Raises UserError where training should end early, with nothing to tell when."""
    for name in ("teacher_training", "student_training"):
        patience = config.get(name, {}).get("patience", 0)
        if patience and not config.input.validation:
            raise UserError(
                f"{name}.patience is {patience}, which needs validation subjects: the test split "
                "must not decide when training ends; add --config.input.validation=0.1"
            )


def _check_method(config: ConfigDict, usual: ConfigDict | None) -> None:
    """Raises UserError where the method's name promises other distillers than there are.

    A name that only the command line brings is no name of the user's own but a mistake.
    """
    method, have = config.method, sorted(config.get("distillers", {}))
    if not method or "/" in method or method.startswith("."):
        raise UserError(
            f"method is {method!r}; it names a folder of the workdir: give a plain name"
        )
    if usual is not None and method != usual.get("method"):
        try:
            experiment.check_method(method)
        except ValueError as error:
            raise UserError(one_line(error)) from error
    known = {*experiment.METHODS, *distillers.names()}
    if not set(method.split("+")) <= known:
        return  # a name of your own, or the path of a module
    promised = sorted(experiment.names_of(method))
    if promised != have:
        raise UserError(
            f"method is {method!r}, which has {_list(promised)}, but the configuration holds "
            f"{_list(have)}; choose the method behind the file, --config=FILE:method={method}"
        )


def _list(names: Sequence[str]) -> str:
    return "the distillers " + " and ".join(names) if names else "no distiller"


def make_distillers(section: Mapping[str, Mapping[str, Any]], axis_name: str | None = None) -> dict:
    """The distillers of a config. Raises UserError for an unknown one, field or value."""
    made = {}
    for name, fields in section.items():
        fields = {key: value for key, value in fields.items() if key != "share"}
        try:
            kind = distillers.get(name)
            known = [f.name for f in dataclasses.fields(kind) if f.name not in ("parent", "name")]
            unknown = sorted(set(fields) - set(known))
            if unknown:
                raise ValueError(f"no field {unknown[0]!r}; it has {known}")
            axis = {"axis_name": axis_name} if "axis_name" in known else {}
            made[name] = kind(**fields | axis)
        except (TypeError, ValueError) as error:
            raise UserError(f"distiller {name}: {one_line(error)}") from error
    return made


def make_shares(section: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The shares of the distillers of a config that have one (see `jax_irkd.training.balance`).

    Raises UserError for one that is no positive number, and beside a field that it would make
    meaningless: a weight that was chosen, or one that changes with time.
    """
    shares = {}
    for name, fields in section.items():
        share = fields.get("share")
        if share is None:
            continue
        if not POSITIVE.holds(share):
            raise UserError(f"distiller {name}: share must be a positive number, got {share!r}")
        kind = distillers.get(name)
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        for field in ("weight", *getattr(kind, "without_share", ())):
            if fields.get(field, defaults.get(field)) != defaults.get(field):
                raise UserError(
                    f"distiller {name}: {field}={fields[field]!r} means nothing beside "
                    f"share={share:g}, which decides how hard it pulls; give one of the two (after "
                    "the config, :weights=published brings weights and :weights=balanced shares)"
                )
        shares[name] = float(share)
    return shares

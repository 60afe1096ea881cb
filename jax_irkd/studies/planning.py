"""What a study has to run: a task for every method and seed, and the teacher they share."""

import contextlib
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_irkd import command_line
from jax_irkd.config import METHODS, check_method, trains_teacher
from jax_irkd.errors import UserError


class PlannedRun(NamedTuple):
    """One run: where it lies, the command that makes it, and the task it has to wait for.

    `detection` holds the settings of what is to be found in untrimmed videos, None for nothing.
    """

    seed: int
    method: str
    folder: Path
    command: tuple[str, ...]
    needs: "tuple[int, str] | None" = None
    detection: Mapping[str, Any] | None = None

    @property
    def key(self) -> tuple[int, str]:
        return self.seed, self.method

    @property
    def name(self) -> str:
        return f"seed{self.seed}/{self.method}"


class StudySettings(NamedTuple):
    """The config of a study as it was given: file, options after the colon, overrides."""

    file: str
    options: tuple[str, ...]
    overrides: tuple[str, ...]


def read_methods(text: str) -> list[str]:
    """Comma-separated methods, each once. Raises UserError, listing them, for an unknown one."""
    methods = list(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))
    if not methods:
        raise UserError(f"--methods is empty; choose from {', '.join(sorted(METHODS))}")
    for method in methods:
        try:
            check_method(method)
        except ValueError as error:
            raise UserError(str(error)) from error
    return methods


def read_seeds(text: str) -> list[int]:
    """A count (3: the seeds 0, 1, 2) or a list (`0,5`; `4,` is the seed 4 alone)."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    seeds = numbers if "," in text else list(range(numbers[0] if numbers else 0))
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(
            f"--seeds={text!r} names no seeds; give a count from 1 on (3 for the seeds 0, 1, 2) "
            "or a list of different seeds (0,5,7)"
        )
    return seeds


def read_needs(text: str) -> dict[str, int | float | str]:
    """`partition=gpu,mem_gb=64`: what a run asks of a cluster. Raises UserError for other text."""
    found: dict[str, int | float | str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not name or not value:
            raise UserError(f"--needs has {part!r}; write NAME=VALUE, as gpus_per_node=1")
        found[name] = value
        for kind in (float, int):
            with contextlib.suppress(ValueError):
                found[name] = kind(value)
    return found


def read_settings(argv: Sequence[str]) -> StudySettings:
    """The arguments that name the config, for handing on. Raises UserError for what cannot be."""
    given, rest = command_line.take_config(argv)
    if not given:
        raise UserError("--config is missing; try --config=configs/demo.py")
    flags = [arg.lstrip("-") for arg in rest if arg.startswith("-")]
    overrides = [flag for flag in flags if flag.removeprefix("no").startswith("config.")]
    for override in overrides:
        name = override.partition("=")[0]
        if "=" not in override:
            raise UserError(f"write --{name}=VALUE, with an equals sign")
        if name in ("config.method", "config.seed"):
            raise UserError(f"--{name} is the study's to choose; use --methods and --seeds")
    file, _, options = given.partition(":")
    parts = tuple(filter(None, options.split(",")))
    chosen = [part for part in parts if part.partition("=")[0] in ("method", "seed")]
    if chosen:
        raise UserError(f"{chosen[0]!r} after the config is the study's to choose; use --methods")
    return StudySettings(file, parts, tuple(f"--{override}" for override in overrides))


def config_arguments(settings: StudySettings, method: str, seed: int) -> list[str]:
    """The arguments that make the config of one run.

    An override of a distiller goes to the methods that have this distiller.
    """
    options = ",".join([*settings.options, f"method={method}", f"seed={seed}"])
    file = f"--config={settings.file}:{options}"
    general = [o for o in settings.overrides if not _distiller_of(o)]
    if len(general) == len(settings.overrides):
        return [file, *general]
    has = set(_parse([file, *general]).distillers)
    return [
        file,
        *(o for o in settings.overrides if not _distiller_of(o) or _distiller_of(o) in has),
    ]


def _distiller_of(override: str) -> str:
    parts = override.removeprefix("--config.").split("=")[0].split(".")
    return parts[1] if parts[0] == "distillers" and len(parts) > 2 else ""


def _parse(arguments: Sequence[str]) -> ConfigDict:
    return command_line.need_config(command_line.parse(arguments, lambda values: None))


def make_tasks(
    settings: StudySettings,
    methods: Sequence[str],
    seeds: Sequence[int],
    workdir: Path,
    elsewhere: bool = False,
) -> list[PlannedRun]:
    """All tasks, the teacher of each seed before those that learn from it.

    `elsewhere`: on other machines, where a run that lost its machine may still be at work when it
    is started again; the new start waits for it.

    Every config is built, so that a mistake in one ends the study before its first step. Raises
    UserError for that, and for an override no method has a use for.
    """
    tasks, used = [], set()
    for seed in seeds:
        below = workdir / f"seed{seed}"
        configs = {}
        for method in methods:
            arguments = config_arguments(settings, method, seed)
            used |= set(arguments)
            configs[method] = _parse(arguments), arguments
        shared = any(trains_teacher(config) for config, _ in configs.values())
        if shared and "teacher" not in methods:
            arguments = config_arguments(settings, "teacher", seed)
            configs = {"teacher": (_parse(arguments), arguments), **configs}
        for method in sorted(configs, key=lambda name: name != "teacher"):
            config, arguments = configs[method]
            folder = below / method
            _check(config, folder, below)
            needs = (seed, "teacher") if trains_teacher(config) else None
            command = _command(arguments, below, ("--busy=wait",) if elsewhere else ())
            tasks.append(PlannedRun(seed, method, folder, command, needs, _detection(config)))
    unused = [o for o in settings.overrides if o not in used]
    if unused:
        raise UserError(f"{unused[0]}: none of the methods {list(methods)} has this distiller")
    return tasks


def _detection(config: ConfigDict) -> Mapping[str, Any] | None:
    if not config.eval.detection:
        return None
    from jax_irkd.detection.untrimmed import settings_of

    return settings_of(config)


def _command(
    arguments: Sequence[str], workdir: Path, more: tuple[str, ...] = ()
) -> tuple[str, ...]:
    run = (sys.executable, "-m", "jax_irkd.main", *arguments)
    return (*run, f"--workdir={workdir}", "--distributed=off", *more)


@functools.cache
def _content(path: str) -> str:
    from jax_irkd.weights import start

    return start.content_of(path)


def _check(config: ConfigDict, folder: Path, workdir: Path) -> None:
    """Raises UserError when `folder` holds another run."""
    from jax_irkd.runs.identity import identity_of
    from jax_irkd.runs.lifecycle import check_free
    from jax_irkd.runs.results import IDENTITY, finished
    from jax_irkd.training.setup import open_data

    role = "teacher" if config.method == "teacher" else "student"
    content = {"weights": _content(config.weights[role])}  # a missing file ends it here
    if not (folder / IDENTITY).exists():
        return
    teacher = finished(workdir / "teacher") if config.distillers else None
    # Only the run itself can tell which teacher it will have.
    unknown = ["teacher"] if config.distillers and (config.teacher or not teacher) else []
    try:
        dataset = open_data(config)
        content["data"] = dataset.fingerprint
    except UserError:
        unknown.append("data")  # and that the run will say
    wanted = identity_of(config, config.method, (teacher or {}).get("identity", ""), **content)
    formerly = {"data": None, "weights": config.weights[role]}
    check_free(folder, wanted, formerly, unknown)

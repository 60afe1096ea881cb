"""Command lines that take a config file as training does, for commands that do not train.

A command has flags of its own: those of `jax_irkd.main` stay where they are.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from jax_irkd.errors import UserError

_FAULTS = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)


class Arguments(NamedTuple):
    """What was asked for: words without dashes, flags, and the config, if there is one."""

    words: list[str]
    flags: flags.FlagValues
    config: ConfigDict | None
    config_file: str


def parse(argv: Sequence[str], define: Callable[[flags.FlagValues], None]) -> Arguments:
    """Reads `--config=FILE:options`, `--config.x.y=value` and the flags that `define` adds.

    `argv` begins with the program's name. Raises UserError in one line for whatever is wrong.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", help_string="a file in configs/", flag_values=values, sys_argv=list(argv)
    )
    define(values)
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{sys.modules['__main__'].__doc__}\nflags:\n{values.get_help()}")
        raise SystemExit(0)
    try:
        words = values(list(argv))[1:]
        config = values.config
        name = config_flags.get_config_filename(values["config"]) if config is not None else ""
        name = name.partition(":")[0]
        if name and not Path(name).is_file():
            raise UserError(f"config file {name} does not exist; try --config=configs/demo.py")
        if config is not None:
            config.keys()  # A config that could not be loaded says so when it is first used.
    except _FAULTS as error:
        raise UserError(_last_line(error)) from error
    return Arguments(words, values, config, name)


def need_config(arguments: Arguments) -> ConfigDict:
    """The config. Raises UserError when none was given."""
    if arguments.config is None:
        raise UserError("--config is missing; try --config=configs/demo.py")
    return arguments.config


def _last_line(error: Exception) -> str:
    # A config file's error arrives with its whole traceback.
    text = str(error.args[0] if error.args else "").strip() or type(error).__name__
    return text.splitlines()[-1] if "Traceback" in text else " ".join(text.split())

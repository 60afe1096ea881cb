"""Command lines that take a configuration: `--config=FILE:options`, `--config.x.y=value`, flags.

A command has flags of its own beside these. Every mistake is a UserError in one line.
"""

import ast
import importlib.util
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from jax_irkd.errors import UserError, nearest, one_line
from jax_irkd.host import parsing
from jax_irkd.host.files import expanded

_FAULTS = (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)


class Arguments(NamedTuple):
    """What was asked for: words without dashes, flags, and the config, if there is one."""

    words: list[str]
    flags: flags.FlagValues
    config: ConfigDict | None
    config_file: str


def parse(
    argv: Sequence[str],
    define: Callable[[flags.FlagValues], None],
    text: str = "",
    words: int | None = 0,
) -> Arguments:
    """Reads the configuration and the flags that `define` adds.

    `argv` is without the program's name, `text` what --help says above the flags, `words` how many
    words without dashes may be there, None for any number. Raises UserError for whatever is wrong.
    """
    values = flags.FlagValues()
    define(values)
    if {"--help", "-h", "-help"} & set(argv):
        print(f"{parsing.fitted(text)}\n\n{_help(values)}")
        raise SystemExit(0)
    file, rest = take_config(argv)
    path, config = load_config(file) if file else (None, None)
    usual = None if config is None else config.copy_and_resolve_references()
    overrides = [re.sub("^--?", "--", arg) for arg in rest if _OVERRIDE.match(arg)]
    if overrides and config is None:
        raise UserError(f"{overrides[0]} changes a config, but --config=FILE is missing")
    emptied: list[str] = []
    if config is not None:
        rest = _overridden(rest, config, emptied)
    try:
        if config is not None:
            config_flags.DEFINE_config_dict(
                "config", config, flag_values=values, sys_argv=["", *rest]
            )
        _check_values(rest, values)
        found = values(["", *rest])[1:]
    except flags.UnrecognizedFlagError as error:
        name = f"--{error.flagname}"
        raise UserError(f"unknown option {name}{nearest(name, _names(values))}") from error
    except flags.IllegalFlagValueError as error:
        raise UserError(_refusal(error, values)) from error
    except KeyError as error:
        raise UserError(f"the config has no field {error}; --help shows how to name one") from error
    except _FAULTS as error:
        raise UserError(_first_lines(error)) from error
    if words is not None and len(found) > words:
        raise UserError(
            f"{found[words]!r} is one word too many: options begin with --, as --config=…"
        )
    if config is not None:
        config = values.config
        for name in emptied:
            config_path.set_value(name, config, None)
        from jax_irkd import fields

        fields.check(config, usual)
    return Arguments(found, values, config, str(path or ""))


def need_config(arguments: Arguments) -> ConfigDict:
    """The config. Raises UserError when none was given."""
    if arguments.config is None:
        raise UserError("--config is missing; try --config=configs/demo.py")
    return arguments.config


_OVERRIDE = re.compile(r"--?(no)?config\.")


def take_config(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The value of --config, and the other arguments."""
    argv, given, rest = list(argv), [], []
    while argv:
        arg = argv.pop(0)
        name, equals, value = arg.partition("=")
        if name not in ("--config", "-config"):
            rest.append(arg)
            continue
        if not equals and argv and not argv[0].startswith("-"):
            value = argv.pop(0)
        if not value:
            raise UserError("--config has no value; try --config=configs/demo.py")
        given.append(value)
    if len(given) > 1:
        raise UserError(f"--config is given {len(given)} times: {', '.join(given)}; give it once")
    return given[0] if given else "", rest


def load_config(text: str) -> tuple[Path, ConfigDict]:
    """The file and the configuration of `FILE` or `FILE:options`. Raises UserError."""
    name, colon, options = text.partition(":")
    path = find_config(name)
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"config file {path} has no function get_config")
        config = module.get_config(*([options] if colon else []))
    except UserError:
        raise
    except ValueError as error:  # an option that does not exist, a value that is none of them
        raise UserError(one_line(error)) from error
    except Exception as error:
        here = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        line = f", line {here[-1]}" if here else ""
        said = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"config file {path}{line}: {said}") from error
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise UserError(f"get_config of {path} gives a {kind}; it should give a ConfigDict")
    return path, config.lock()


def find_config(name: str) -> Path:
    """The file `name`; where there is none, the one of that name that comes with this package.

    `ntu`, `ntu.py` and `configs/ntu.py` are names of a shipped one. Raises UserError.
    """
    path = expanded(name)
    if path.is_file():
        if path.suffix != ".py":
            raise UserError(f"{name} is no config: a Python file with a function get_config is one")
        return path
    from jax_irkd import configs

    folder = Path(configs.__file__).parent
    shipped = sorted(file.stem for file in folder.glob("[a-z]*.py"))
    if path.parent in (Path(), Path("configs")) and path.suffix in ("", ".py"):
        if path.stem in shipped:
            return folder / f"{path.stem}.py"
        raise UserError(f"config file {name} does not exist{nearest(path.stem, shipped)}")
    raise UserError(f"config file {name} does not exist{nearest(name, shipped)}")


def _overridden(argv: Sequence[str], config: ConfigDict, emptied: list[str]) -> list[str]:
    """`argv` with every override checked; fields that become None go to `emptied` instead."""
    rest, found = list(argv), []
    while rest:
        arg = rest.pop(0)
        if not _OVERRIDE.match(arg):
            found.append(arg)
            continue
        name, section, key = _resolve(arg, config)
        dashes, equals, text = ("--no", "", "") if "noconfig" in arg[:10] else ("--", "", "")
        if "=" in arg:
            equals, text = "=", arg.partition("=")[2]
        elif rest and not isinstance(section[key], bool) and not rest[0].startswith("--"):
            equals, text = "=", rest.pop(0)  # --config.seed 3
        if equals and _becomes_none(name, section, key, text):
            emptied.append(name)
        else:
            found.append(f"{dashes}config{'' if name.startswith('[') else '.'}{name}{equals}{text}")
    return found


def _resolve(arg: str, config: ConfigDict) -> tuple[str, ConfigDict, str]:
    """The path of the field that an override changes, keys that hold dots in brackets; where it is.

    Raises UserError for a field that there is not.
    """
    name = re.fullmatch(r"--?(?:no)?config\.([^=]*)(.*)", arg, re.S).group(1)
    parts = [bare or quoted for bare, quoted in re.findall(_PART, name)]
    section, path, key = config, "", ""
    while parts:
        where = f"--config{'.' if path else ''}{path}"
        if not isinstance(section, ConfigDict):
            raise UserError(f"{where} is a value and has no field {parts[0]!r}")
        keys = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        key = next((key for key in keys if key in section), None)
        if key is None:
            raise UserError(f"{where} has no field {parts[0]!r}{nearest(parts[0], section)}")
        path += f'["{key}"]' if "." in key else f"{'.' if path else ''}{key}"
        parts = parts[key.count(".") + 1 :]
        if parts:
            section = section[key]
    if not key or isinstance(section[key], ConfigDict):
        named = f"--config.{path} is a section; change one of {list(section[key])}" if key else ""
        raise UserError(named or f"{arg} names no field; write --config.FIELD=VALUE")
    return path, section, key


_PART = r"""([^.\[\]"']+)|\[["']([^"']+)["']\]"""


def _becomes_none(path: str, section: ConfigDict, key: str, text: str) -> bool:
    """Whether `text` empties the field. Raises UserError for a text of the wrong kind."""
    from jax_irkd import fields

    plain = path.replace('["', ".").replace('"]', "").removeprefix(".")
    rule, kind = fields.rule_of(plain), section.get_type(key)
    if text in ("None", "none") and not issubclass(str, kind):
        if fields.optional(plain):
            return True
        words = rule or f"of the kind of {section[key]!r}"
        raise UserError(fields.refusal(plain, text, words, section[key]))
    try:
        if kind in (int, float):
            kind(text)
        elif kind is bool and text.lower() not in ("true", "false", "t", "f", "1", "0"):
            raise ValueError
        elif kind is tuple and not isinstance(ast.literal_eval(text), tuple | list):
            # A single item of a tuple may come without its brackets.
            raise ValueError if isinstance(rule, fields.Several) and rule.count else KeyError
    except KeyError:
        return False
    except (ValueError, SyntaxError):
        words = rule or {int: "a whole number", float: "a number", bool: "True or False"}.get(kind)
        said = fields.refusal(plain, text, words or "in brackets", section[key])
        raise UserError(said) from None
    return False


def _check_values(argv: Iterable[str], values: flags.FlagValues) -> None:
    """Raises UserError for an option without its value: absl would take the next option for it."""
    argv = list(argv)
    for position, arg in enumerate(argv):
        name = arg.lstrip("-")
        if not arg.startswith("-") or name not in values or values[name].boolean:
            continue
        following = argv[position + 1 : position + 2]
        if not following or re.match(r"--?[a-zA-Z]", following[0]):
            raise UserError(f"--{name} has no value; write --{name}=VALUE")


def _refusal(error: flags.IllegalFlagValueError, values: flags.FlagValues) -> str:
    """What absl refuses, in the words of this package."""
    found = re.match(r"flag --(\w+)=(.*?): ", one_line(error))
    if not found or found[1] not in values:
        return one_line(error)
    (name, value), flag = found.groups(), values[found[1]]
    if choices := getattr(flag.parser, "enum_values", ()):
        return f"--{name} is {value!r}{nearest(value, choices)}"
    if flag.boolean:
        return f"--{name} is {value!r}; write --{name} or --no{name}"
    return f"--{name} is {value!r}; it must be {flag.parser.syntactic_help}"


def _names(values: flags.FlagValues) -> list[str]:
    own = sorted(name for name in values if not name.startswith("config"))
    return ["--config", *(f"--{name}" for name in own)]


def _help(values: flags.FlagValues) -> str:
    rows: list[tuple[str, Any]] = [
        ("--config=FILE[:method=…]", "a config, as configs/ntu.py"),
        ("--config.x.y=VALUE", "changes one of its fields"),
    ]
    for name in sorted(values):
        flag = values[name]
        default = f" (default: {flag.value})" if flag.value not in (None, "", False) else ""
        shown = f"--{name}" if flag.boolean else f"--{name}=…"
        rows.append((shown, f"{flag.help}{default}"))
    width = max(len(name) for name, _ in rows)
    lines = (parsing.fitted_line(f"  {name:{width}}  {said}") for name, said in rows)
    return "\n".join(["options:", *lines])


def _first_lines(error: Exception) -> str:
    return one_line(error.args[0] if error.args else error)

"""Options that a command reads by argparse: one kind of help, and mistakes in one line.

Nothing heavy is imported, as in `commands`.
"""

import re
from collections.abc import Sequence

from jax_irkd.errors import UserError, nearest


def fitted(text: str) -> str:
    """A docstring as wide as the terminal, 100 columns at most.

    Paragraphs are set anew; commands, tables and what is indented keep their lines.
    """
    text = re.sub(r"\n +(?=\[|--)", " ", text.strip())  # a command's options, wherever they fit
    blocks = [block.splitlines() for block in text.split("\n\n")]
    blocks = [b if any(map(_LINES.match, b)) else [" ".join(b)] for b in blocks]
    return "\n\n".join("\n".join(map(fitted_line, block)) for block in blocks)


_LINES = re.compile(r"\s|python -m|\S+ {2,}\S")


def fitted_line(line: str) -> str:
    """`line` as wide as the terminal; it goes on below its beginning, or its second column."""
    import shutil
    import textwrap

    begin = re.match(r"\s*(\S+ {2,})?", line)[0]
    return textwrap.fill(
        line[len(begin) :],
        min(shutil.get_terminal_size().columns, 100),
        initial_indent=begin,
        subsequent_indent=" " * (len(begin) + 4 * line.lstrip().startswith("python -m")),
        break_long_words=False,
        break_on_hyphens=False,
    )


def plainly(message: str) -> str:
    """What argparse says is wrong, in the words of this package."""
    named = re.fullmatch(r"argument (\S+): (.*)", message)
    if not named:
        return f"{message}; --help lists what there is"
    name, message = named.groups()
    if message.startswith("expected"):
        return f"{name} has no value; --help lists what there is"
    if choice := re.fullmatch(r"invalid choice: (\S+) \(choose from (.*)\)", message):
        value, *choices = (word.strip("'") for word in (choice[1], *choice[2].split(", ")))
        return f"{name} is {value!r}{nearest(value, choices)}"
    if kind := re.fullmatch(r"invalid (int|float) value: (.*)", message):
        return f"{name} is {kind[2]}; it must be a {'whole ' * (kind[1] == 'int')}number"
    return f"{name}: {message}"


def parser(module: str, text: str):
    """An argparse parser for the command `module`, described by its docstring `text`.

    It raises UserError for wrong arguments and names the nearest option for an unknown one. The
    help tells every default. In values that begin with ~ it stands for the home folder: a shell
    leaves it alone behind an equals sign.
    """
    import argparse
    import itertools

    from jax_irkd.host.files import at_home

    class Formatter(argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str:
            said, default = action.help or "", action.default
            silent = default is None or default in ("", argparse.SUPPRESS) or action.nargs == 0
            if silent or not action.option_strings or "default" in said:
                return said
            return f"{said} (default: {str(default).replace('%', '%%')})".lstrip()

    class Parser(argparse.ArgumentParser):
        def error(self, message: str):
            raise UserError(plainly(message))

        def parse_args(self, args=None, namespace=None):
            self._check_names(args or ())
            found, rest = self.parse_known_args(args, namespace)
            if rest:
                raise UserError(f"{rest[0]!r} is one word too many; --help shows what comes where")
            for name, value in vars(found).items():
                setattr(found, name, at_home(value))
            return found

        def _check_names(self, args: Sequence[str]) -> None:
            """Before what is missing is told: it may be what was misspelt."""
            known = self._option_string_actions
            given = itertools.takewhile(lambda arg: arg != "--", args)
            names = [arg.partition("=")[0] for arg in given if re.match("--?[a-zA-Z]", arg)]
            wrong = [name for name in names if name not in known]
            if wrong and not {"-h", "--help"} & set(names):
                shown = sorted(name for name in known if name.startswith("--"))
                raise UserError(f"unknown option {wrong[0]}{nearest(wrong[0], shown)}")

    return Parser(
        prog=f"python -m {module}",
        description=fitted(text),
        formatter_class=Formatter,
        allow_abbrev=False,
    )

"""From a claim on a folder to its results and page: the way of every run."""

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jax_irkd.errors import UserError, plural
from jax_irkd.host import devices, locks
from jax_irkd.host.files import read_json, write_whole
from jax_irkd.runs.identity import decisive, digest
from jax_irkd.runs.results import IDENTITY, PAGE, finished, has_begun, write_results
from jax_irkd.training.evaluation import Scores

BUSY = "{by} works in {folder}; wait until it ends, or let this one wait with --busy=wait"
WAITING = "{by} works in {folder}; waiting until it ends"


def carry_out(
    folder: Path,
    identity: Mapping[str, Any],
    train: Callable[[], tuple[Scores, dict[str, Any]]],
    write_page: Callable[[dict[str, Any]], None],
    *,
    formerly: Mapping[str, Any] | None = None,
    wait: bool = False,
    restart: bool = False,
) -> dict[str, Any]:
    """The results of the run `identity` in `folder`; what is finished is not run again.

    `train` gives the scores on the test split and what else belongs into the results; `write_page`
    gets the results, also when a run was killed between them and its page. The first process
    writes, the others wait. `formerly` as `differences` takes it. One command at a time works in
    a folder: another one waits, with `wait`, or is refused. `restart` empties the folder first.
    """
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:

        def take() -> None:
            stack.enter_context(locks.held(folder, wait=wait, busy=BUSY, waiting=WAITING))
            if restart:
                empty(folder)
            claim(folder, identity, formerly)

        devices.first_does(take)
        if finished(folder) is None:
            scores, results = train()
            if first:
                write_results(folder, scores, results | {"identity": digest(identity)})
        if first and not (folder / PAGE).exists():
            write_page(finished(folder))
        devices.barrier("results")
        return finished(folder)


def empty(folder: Path) -> None:
    """Delete what `folder` holds, but for the lock. Raises UserError for what cannot be deleted."""
    for path in folder.iterdir():
        try:
            if path.name == locks.LOCK:
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:
            raise UserError(f"cannot delete {path}: {error.strerror or error}") from error


def differences(
    folder: Path,
    wanted: Mapping[str, Any],
    formerly: Mapping[str, Any] | None = None,
    unknown: Sequence[str] = (),
) -> list[str]:
    """What the run in `folder` has otherwise than `wanted`, in words; none for an empty folder.

    `formerly` holds fields as older versions of this package wrote them, None where they did not:
    they count as well. Fields in `unknown` are not compared. Raises UserError when it cannot be
    said which run the folder holds.
    """
    path, formerly = folder / IDENTITY, formerly or {}
    if not path.exists():
        return _without_identity(folder, wanted, unknown)
    try:
        held = read_json(path)
        if not isinstance(held, dict):
            raise UserError(f"{path} holds no configuration")
    except UserError as error:
        if not has_begun(folder):
            return []  # a process ended while it wrote its first file
        raise UserError(f"{error}; {_anew(folder)}") from error
    held = decisive(held)
    if "data" in wanted and "data" not in held and (results := finished(folder)):
        held["data"] = results.get("fingerprint")  # of before the data was part of it
    named = [
        name
        for name in sorted(set(held) | set(wanted))
        if name not in unknown
        and held.get(name) != wanted.get(name)
        and not (name in formerly and held.get(name) == formerly[name])
    ]
    if named and not has_begun(folder):
        return []  # claimed, and given up before the first step
    return [_difference(name, held.get(name), wanted.get(name)) for name in named]


def _without_identity(folder: Path, wanted: Mapping[str, Any], unknown: Sequence[str]) -> list[str]:
    results = finished(folder)
    if results is None and not has_begun(folder):
        return []
    if results is not None and (unknown or results.get("identity") == digest(wanted)):
        return []
    raise UserError(
        f"{folder} holds a run, but its {IDENTITY} is lost, and so is which configuration it had; "
        + _anew(folder)
    )


def _difference(name: str, held: Any, wanted: Any) -> str:
    if name == "data":
        return "it was made from another build of the data set, or from other films"
    return f"{name} is {held!r}, asked for {wanted!r}"


def _anew(folder: Path) -> str:
    return (
        f"use another --workdir, or begin it anew with method={folder.name} after the config and "
        "--restart"
    )


def check_free(
    folder: Path,
    wanted: Mapping[str, Any],
    formerly: Mapping[str, Any] | None = None,
    unknown: Sequence[str] = (),
) -> None:
    """Raises UserError, naming the fields, when `folder` holds another run than `wanted`."""
    names = differences(folder, wanted, formerly, unknown)
    if not names:
        return
    shown = "; ".join(names[:3])
    longer = finished(folder) is not None and all("num_epochs is" in name for name in names)
    hint = (
        "; the learning rates of a run depend on its length, so a finished one is not lengthened: "
        "train it anew, or start another run from what it has learnt, "
        f"--config.weights.{'teacher' if folder.name == 'teacher' else 'student'}={folder} with "
        "another --workdir"
    )
    raise UserError(
        f"{folder} holds a run with another configuration "
        f"({plural(len(names), 'field')}: {shown}); "
        f"{_anew(folder)}{hint if longer else ''}"
    )


def claim(
    folder: Path, wanted: Mapping[str, Any], formerly: Mapping[str, Any] | None = None
) -> None:
    """Make `folder` hold runs of the configuration `wanted` only.

    Raises UserError, naming the fields, when it holds another, and when it cannot be written.
    """
    check_free(folder, wanted, formerly)
    path = folder / IDENTITY
    if jax.process_index() != 0 or (path.exists() and has_begun(folder)):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(wanted, indent=1, sort_keys=True))
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; use another --workdir"
        ) from error

"""From a claim on a folder to its results and page: the way of every run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jax_irkd.errors import UserError
from jax_irkd.host import devices
from jax_irkd.host.files import read_json, write_whole
from jax_irkd.runs.identity import digest
from jax_irkd.runs.results import IDENTITY, PAGE, finished, write_results
from jax_irkd.training.evaluation import Scores


def carry_out(
    folder: Path,
    identity: Mapping[str, Any],
    train: Callable[[], tuple[Scores, dict[str, Any]]],
    write_page: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """The results of the run `identity` in `folder`; what is finished is not run again.

    `train` gives the scores on the test split and what else belongs into the results; `write_page`
    gets the results, also when a run was killed between them and its page. The first process
    writes, the others wait.
    """
    claim(folder, identity)
    first = jax.process_index() == 0
    if finished(folder) is None:
        scores, results = train()
        if first:
            write_results(folder, scores, results | {"identity": digest(identity)})
    if first and not (folder / PAGE).exists():
        write_page(finished(folder))
    devices.barrier("results")
    return finished(folder)


def claim(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Make `folder` hold runs of the configuration `wanted` only.

    Raises UserError, naming the fields, when it holds another, and when it cannot be written.
    """
    path = folder / IDENTITY
    if path.exists():
        held = read_json(path, "begin the run anew with --restart, or use another --workdir")
        names = [k for k in sorted(set(held) | set(wanted)) if held.get(k) != wanted.get(k)]
        if names:
            shown = [f"{k} is {held.get(k)!r}, asked for {wanted.get(k)!r}" for k in names[:3]]
            raise UserError(
                f"{folder} holds a run with another configuration ({len(names)} fields: "
                f"{'; '.join(shown)}); use another --workdir, or --restart to begin it anew"
            )
        return
    if jax.process_index() != 0:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(wanted, indent=1, sort_keys=True))
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; use another --workdir"
        ) from error

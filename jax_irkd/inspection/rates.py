"""`inspect rates`: which learning rate suits a configuration, before hours are spent on one."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from jax_irkd import fields
from jax_irkd.data import loading
from jax_irkd.data.spec import ROLES, SEES
from jax_irkd.errors import UserError
from jax_irkd.host.files import expanded, write_whole
from jax_irkd.host.terminal import Progress
from jax_irkd.inspection.sparkline import sparkline
from jax_irkd.reporting import charts, pictures
from jax_irkd.runs.network import load_network
from jax_irkd.training import setup
from jax_irkd.training.phase import Phase
from jax_irkd.training.rates import RangeTest, range_test
from jax_irkd.weights import start


def find(config: ConfigDict, console: Console, low: float, high: float, steps: int) -> RangeTest:
    """Run the range test of the config's own phase, and say what it found."""
    if not 0 < low < high:
        raise UserError(f"--low={low:g} and --high={high:g}: the rate grows from one to the other")
    dataset = setup.open_data(config)
    phase = phase_of(config, dataset)
    role = ROLES[phase.modality]
    setup.check_phase(config, dataset, role)
    with Progress(f"rates of {phase.name}", steps) as bar:
        found = range_test(
            phase, config, dataset, low=low, high=high, steps=steps,
            shown=lambda step, loss: bar.update(step, f"loss {loss:.3f}"),
        )  # fmt: skip
    line = sparkline(found.means.tolist(), 60)
    console.print(f"loss from {found.rates[0]:.1e} to {found.rates[-1]:.1e}: {line}")
    console.print(
        f"lowest at a rate of {found.lowest:.1e}; a tenth of it is a good peak: "
        f"--config.{role}_training.learning_rate={found.suggested:.1e} "
        f"(now {phase.training.learning_rate:g})",
        highlight=False,
        soft_wrap=True,
    )
    if np.argmin(found.means) == len(found.means) - 1:
        console.print(
            f"the loss still fell at the end: look further, --high={10 * high:g}", highlight=False
        )
    return found


def phase_of(config: ConfigDict, dataset: loading.Dataset) -> Phase:
    """What `config.method` trains. Raises UserError where it needs a teacher that is not named."""
    role = "teacher" if config.method == "teacher" else "student"
    if config.method == "tstdd":
        raise UserError("tstdd has a loop of its own; inspect rates is for the other methods")
    made, teacher = {}, None
    if role == "student" and config.distillers:
        if not config.teacher:
            raise UserError(
                f"method {config.method!r} learns from a teacher: name its run, --config.teacher="
                "WORKDIR/teacher, or look at method=teacher or method=baseline first"
            )
        made = setup.make_distillers(config.distillers)
        teacher = load_network(expanded(config.teacher))[0]
    return Phase(
        name=config.method,
        modality=SEES[role],
        model=setup.make_network(config, role, len(dataset.class_names)),
        training=config[f"{role}_training"],
        distillers=made,
        shares=fields.make_shares(config.distillers) if made else {},
        teacher=teacher,
        pretrained=start.start_from(config.weights[role], dataset.class_names),
    )


def draw(found: RangeTest, path: Path) -> None:
    """The loss over the rate's power of ten, as a picture."""
    powers, title = np.log10(found.rates), "loss as the learning rate grows, and its running mean"
    parts = [
        charts.Series("each step", "baseline", powers, found.losses),
        charts.Series("running mean", "teacher", powers, found.means),
    ]
    chart = charts.line_chart(parts, label=title, across="power of ten of the learning rate")
    write_whole(path, pictures.png(charts.sheet([(title, chart)], label=title)))

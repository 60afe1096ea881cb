"""What `jax_irkd.inspect` shows: pairs of a dataset, a config's plan, runs, learning rates."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jax_irkd.command_line import Arguments, need_config
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.host.files import expanded
from jax_irkd.inspection.sparkline import sparkline
from jax_irkd.reporting.wording import flatten, percent, signed

# What draws is imported where it is used: `inspect run` needs no JAX.


def inspect_data(arguments: Arguments, console: Console) -> None:
    """A contact sheet of RGB–infrared pairs."""
    from jax_irkd.inspection import contact_sheet
    from jax_irkd.training.setup import open_data

    config, given = need_config(arguments), arguments.flags
    dataset = open_data(config)
    reader = contact_sheet.reader_of(config, dataset, given.split)
    picture, captions = contact_sheet.contact_sheet(
        config,
        reader,
        dataset.class_names,
        clips=given.clips,
        training=not given.split.startswith("test"),
        augmented=given.augmented,
        seed=given.seed,
    )
    out = _out(given.out or "sheet.png")
    _save(lambda: Image.fromarray(picture).save(out), out)
    for caption in captions:
        console.print(caption, highlight=False, markup=False)
    seen = "as the network sees them" if given.augmented else "as they are stored"
    console.print(f"{len(captions)} of {len(reader.records)} clips, {seen}: {out}", soft_wrap=True)


def inspect_config(arguments: Arguments, console: Console) -> None:
    """The resolved config, its learning-rate curves, and what it would cost."""
    from jax_irkd.inspection import cost

    config, given = need_config(arguments), arguments.flags
    for name, value in flatten(config.to_dict()):
        console.print(f"{name} = {value}", highlight=False, markup=False, soft_wrap=True)
    dataset = _dataset_if_there(config, console)
    if dataset is None:
        console.print(
            f"reckoned with {given.classes} classes and "
            + (f"{given.train_clips} training clips" if given.train_clips else "no known clips")
            + "; --train_clips and --classes say otherwise"
        )
    plans = cost.plan(config, dataset, clips=given.train_clips, classes=given.classes)
    console.print(_plans_table(plans))
    for part in plans:
        line = sparkline(part.rates.tolist(), 60)
        ends = f"{part.epochs[-1]:.3g} epochs, peak {part.rates.max():.3g}"
        console.print(f"learning rate of {part.name}: {line}  {ends}", highlight=False)
    console.print(
        "memory: an upper estimate of what training holds a device; distillers add little to it",
        highlight=False,
    )
    if given.out:
        out = _out(given.out)
        _save(lambda: _draw_rates(plans, out), out)
        console.print(f"wrote {out}", soft_wrap=True)


def _dataset_if_there(config: ConfigDict, console: Console) -> loading.Dataset | None:
    from jax_irkd.training.setup import open_data

    try:
        return open_data(config)
    except UserError as error:
        console.print(str(error), style="yellow", highlight=False, soft_wrap=True, markup=False)
        return None


def _plans_table(plans: Sequence) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("")
    for part in plans:
        table.add_column(f"{part.name} ({part.modality})", justify="right")

    def count(value):
        return "unknown" if value is None else f"{value:,}"

    rows = {
        "training clips": lambda p: count(p.clips),
        "steps an epoch": lambda p: count(p.steps_per_epoch),
        "steps": lambda p: count(p.num_steps),
        "clips a step (a device)": lambda p: f"{p.batch_size} ({p.per_device})",
        "parameters": lambda p: f"{p.cost.parameters:,}",
        "computed in": lambda p: p.cost.dtype,
        "FLOPs a clip, forward": lambda p: short_flops(p.cost.forward_flops),
        "FLOPs a step": lambda p: short_flops(p.update_flops),
        "FLOPs in all": lambda p: short_flops(p.num_steps and p.update_flops * p.num_steps),
    }
    for title, cell in rows.items():
        table.add_row(title, *map(cell, plans))
    for title in dict.fromkeys(name for part in plans for name in part.memory):
        held = [part.memory.get(title) for part in plans]
        table.add_row(f"memory: {title}", *("–" if h is None else _mebibytes(h) for h in held))
    table.add_row("memory a device", *(_mebibytes(p.needed) for p in plans))
    return table


def short_flops(flops: float | None) -> str:
    """Operations in a unit a person can compare: 14.3 G, 2.1 P."""
    if flops is None or math.isnan(flops):
        return "unknown"
    power = min(int(math.log10(max(flops, 1)) / 3), 5)
    return f"{flops / 1000**power:.4g} {' kMGTP'[power].strip()}".rstrip()


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**20:.2f} MiB"


def _draw_rates(plans: Sequence, path: Path) -> None:
    from jax_irkd.host.files import write_whole
    from jax_irkd.reporting import charts, pictures

    panels = []
    for part in plans:
        steps = f", {part.num_steps:,} steps" if part.num_steps else ""
        title = f"{part.name}: learning rate by epoch{steps}"
        line = charts.Series(part.name, "teacher", np.asarray(part.epochs), np.asarray(part.rates))
        panels.append((title, charts.line_chart([line], label=title, across="epoch")))
    write_whole(path, pictures.png(charts.sheet(panels, label="learning rates")))


def inspect_run(arguments: Arguments, console: Console) -> None:
    """Figures and curves of several runs, and the settings they differ in."""
    from jax_irkd.inspection import comparison

    folders = arguments.words[1:]
    if not folders:
        raise UserError("which run? python -m jax_irkd.inspect run RUN [RUN ...]")
    runs = comparison.read(folders)
    for shared in comparison.shared_facts(runs):
        console.print(shared, highlight=False, markup=False, soft_wrap=True)
    for table in comparison.tables(runs, console.width):
        console.print(table)
    console.print(comparison.curves(runs, console.width))
    rows = comparison.differences(runs)
    if rows:
        console.print("what their configs differ in:", highlight=False)
        names = comparison.Named("setting", [name for name, _ in rows])
        columns = [
            comparison.Named(run.name, [values[place] for _, values in rows])
            for place, run in enumerate(runs)
        ]
        for table in comparison.side_by_side(names, columns, console.width, "left"):
            console.print(table)
    if arguments.flags.out:
        out = _out(arguments.flags.out)
        _save(lambda: comparison.draw(runs, out), out)
        console.print(f"wrote {out}", soft_wrap=True)


def inspect_rates(arguments: Arguments, console: Console) -> None:
    """A learning-rate range test of the config's method."""
    from jax_irkd.host import devices
    from jax_irkd.inspection import rates

    config, given = need_config(arguments), arguments.flags
    devices.start(distributed="off")
    found = rates.find(config, console, given.low, given.high, given.steps)
    if given.out:
        out = _out(given.out)
        _save(lambda: rates.draw(found, out), out)
        console.print(f"wrote {out}", soft_wrap=True)


def inspect_strangers(arguments: Arguments, console: Console) -> None:
    """What a calibrated run tells from the actions it knows; the table goes on its page, too."""
    from jax_irkd.inspection import strangers
    from jax_irkd.reporting import write

    folder, *films = arguments.words[1:] or [""]
    if not folder:
        raise UserError("which run? python -m jax_irkd.inspect strangers RUN [FILMS]")
    found = strangers.measure(expanded(folder), films)
    table = Table(strangers.HEADERS[0], box=box.SIMPLE)
    for header in strangers.HEADERS[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    for told in found:
        table.add_row(*strangers.row(told))
    console.print(table)
    write.add_section(expanded(folder), strangers.section(found))
    console.print(f"on the page of {folder}", highlight=False, soft_wrap=True)


def inspect_answers(arguments: Arguments, console: Console) -> None:
    """Every method of finished studies beside one of them, clip by clip."""
    from jax_irkd.metrics import significance
    from jax_irkd.runs import answers

    paths, against = [expanded(name) for name in arguments.words[1:]], arguments.flags.against
    if not paths:
        raise UserError("which answers? python -m jax_irkd.inspect answers STUDY/answers.csv")
    found = answers.joined(paths)
    table = Table("method", box=box.SIMPLE)
    for header in (
        "seeds",
        "top-1",
        f"over {escape(against)}",
        "by seed",
        "p\n(Holm)",
        "could\nsee",
    ):
        table.add_column(header, justify="right", no_wrap=header != "by seed")
    for one in answers.compare(found, against):
        gain = one.difference
        ends = f"{signed(gain.difference)} [{signed(gain.low)}, {signed(gain.high)}]"
        by_seed = " ".join(map(signed, one.by_seed))
        sees = f"{100 * significance.detectable(gain.standard_error):.1f}"
        row = one.method, str(len(one.seeds)), percent(one.top1), escape(ends), by_seed
        table.add_row(*row, f"{one.p_holm:.2g}", sees)
    console.print(table)
    console.print(
        f"{len(found.clip_ids)} test clips; paired differences in points, 95 % intervals of draws "
        "of performances and seeds; could see: the smallest true difference found four times in "
        "five",
        highlight=False,
    )


def _out(name: str) -> Path:
    path = expanded(name)
    return path if path.suffix else path.with_suffix(".png")


def _save(write, path: Path) -> None:
    try:
        write()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}; choose another --out") from error

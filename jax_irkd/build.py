"""Datasets from raw files, without TensorFlow.

    python -m jax_irkd.build ntu_rgbd_ir/ten --manual_dir=RAW_FILES --data_dir=DATASETS

The same command again continues an interrupted build.
"""

import argparse
import dataclasses
import importlib
import pkgutil
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from jax_irkd import tfds_builders
from jax_irkd.errors import UserError, nearest
from jax_irkd.host import commands, parsing

# Worker processes import this module again, so everything heavy is imported where it is used.
REBUILT = ".rebuilt"  # where --overwrite builds, until it is done


def datasets() -> list[str]:
    """The datasets there are builders for, sorted: folders whose name begins with no underscore."""
    found = (module.name for module in pkgutil.iter_modules(tfds_builders.__path__))
    return sorted(name for name in found if not name.startswith("_"))


def build(argv: list[str]) -> None:
    """Builds the dataset. Raises UserError for what the user can correct."""
    arguments = parse(argv)
    with commands.importing():
        import tensorflow_datasets  # noqa: F401  # what a builder needs, while Ctrl-C ends at once

        from jax_irkd.host.terminal import make_console
        from jax_irkd.tfds_builders._shared.options import BuildOptions

    names = [field.name for field in dataclasses.fields(BuildOptions)]
    options = BuildOptions(**{name: getattr(arguments, name) for name in names})
    builder = make_builder(arguments.dataset, arguments.data_dir, options)
    if arguments.check:
        _require_folder(arguments.manual_dir, builder)
        builder.inventory(Path(arguments.manual_dir)).show(make_console(120))
        return
    if builder.is_prepared() and not arguments.overwrite:
        _say_already_built(builder, options)
        return
    _require_folder(arguments.manual_dir, builder)
    from jax_irkd.tfds_builders._shared.lock import locked

    with locked(builder.config_folder):
        final = Path(builder.data_dir)
        _finish_exchange(final)
        if final.exists():
            if not arguments.overwrite:  # built while this command started
                _say_already_built(builder, options)
                return
            # Beside the old one, which stays in use until the new one is whole.
            home = builder.config_folder
            builder = make_builder(arguments.dataset, home / REBUILT, options)
            builder.cache_home = home  # what --keep_cache kept, or a killed build left
        builder.holds_lock = True
        _prepare(builder, arguments.manual_dir)
        if Path(builder.data_dir) != final:
            _exchange(Path(builder.data_dir), final)
    print(f"{builder.report.head()}\nbuilt {final}")


def make_builder(dataset: str, data_dir: str | Path, options=None):
    """The builder of NAME or NAME/CONFIG. Raises UserError for an unknown one."""
    name, _, config = dataset.partition("/")
    if name not in datasets():
        raise UserError(f"unknown dataset {name!r}{nearest(name, datasets())}")
    if options and options.background and name != "pku_mmd_ir":
        raise UserError(
            f"--background is for pku_mmd_ir, whose videos are annotated; {name} has trimmed clips "
            "(in folder_ir a folder called background does the same)"
        )
    kind = importlib.import_module(f"jax_irkd.tfds_builders.{name}.{name}_dataset_builder").Builder
    known = [f"{name}/{each.name}" for each in kind.BUILDER_CONFIGS]
    if config and dataset not in known:
        raise UserError(f"unknown configuration {dataset!r}{nearest(dataset, known or [name])}")
    return kind(options=options, data_dir=Path(data_dir).absolute(), config=config or None)


def _prepare(builder, manual_dir: str) -> None:
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(
        manual_dir=Path(manual_dir).absolute(), try_download_gcs=False
    )
    try:
        builder.download_and_prepare(download_config=config)
    except OSError as error:
        raise UserError(f"{error.filename or builder.data_dir}: {error.strerror}") from error


def _exchange(new: Path, final: Path) -> None:
    """Puts the new dataset in the old one's place, which is never empty but for one moment."""
    old = _replaced(final)
    shutil.rmtree(old, ignore_errors=True)
    final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(final.parent / REBUILT, ignore_errors=True)


def _finish_exchange(final: Path) -> None:
    """Brings back the old dataset of a command that was killed between two renames."""
    old = _replaced(final)
    if old.exists() and not final.exists():
        old.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _replaced(dataset: Path) -> Path:
    return dataset.with_name(f"replaced.{dataset.name}")


def _say_already_built(builder, options) -> None:
    stored = dict(builder.info.metadata or {})
    print(f"already built: {builder.data_dir} (--overwrite builds it again)")
    stored.setdefault("background", False)  # older ones say it only where it is true
    different = {k: v for k, v in options.recorded.items() if k in stored and stored[k] != v}
    if different:
        was = {name: stored[name] for name in different}
        print(f"note: it was built with {was}, you asked for {different}")


def _require_folder(manual_dir: str | None, builder) -> None:
    how = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
    if not manual_dir:
        raise UserError(f"--manual_dir=FOLDER with the raw files is missing. {how}")
    if not Path(manual_dir).is_dir():
        raise UserError(f"the folder --manual_dir={manual_dir} does not exist. {how}")
    if not any(Path(manual_dir).iterdir()):
        raise UserError(f"the folder --manual_dir={manual_dir} is empty. {how}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    from jax_irkd.tfds_builders._shared.options import BuildOptions

    defaults = BuildOptions()
    parser = parsing.parser("jax_irkd.build", __doc__)
    add = parser.add_argument
    named = f"one of {', '.join(datasets())}; a configuration behind a slash, as ntu_rgbd_ir/sixty"
    add("dataset", help=named)
    add("--manual_dir", help="folder with the raw files, unpacked or zipped, at any depth")
    add("--data_dir", default="data", help="where datasets are kept (default: data)")
    add("--check", action="store_true", help="take inventory and estimate, build nothing")
    add("--overwrite", action="store_true", help="build again what is already built")
    add(
        "--max_frames",
        type=int,
        default=defaults.max_frames,
        help="frames kept per clip and modality, evenly spaced; 0 keeps all (default: 64)",
    )
    add(
        "--short_side",
        type=int,
        default=defaults.short_side,
        help="larger frames are shrunk to this shorter side in pixels (default: 256)",
    )
    add("--quality", type=int, default=defaults.quality, help="JPEG quality (default: 90)")
    add(
        "--range",
        default=defaults.range,
        help="pixels of more than eight bits: auto (each clip's percentiles) or MIN,MAX",
    )
    add(
        "--trust_names",
        action="store_true",
        help="take infrared files for infrared, whatever their colours say",
    )
    add(
        "--unpaired",
        action="store_true",
        help="folder_ir: keep clips of one modality beside pairs, as more training clips",
    )
    add(
        "--background",
        action="store_true",
        help="pku_mmd_ir: one more class, of stretches between the annotations",
    )
    add("--crop_file", default="", help="per-camera crop of RGB to the infrared field of view")
    add("--workers", type=int, default=0, help="processes; 0 uses all cores (default: 0)")
    add(
        "--max_skipped",
        type=float,
        default=defaults.max_skipped,
        help="refuse to finish when a larger share of the clips is skipped (default: 0.01)",
    )
    add(
        "--skip_unreadable",
        action="store_true",
        help="go on without folders and archives that cannot be read",
    )
    add("--keep_cache", action="store_true", help="keep the encoded clips after the build")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return commands.run(build, argv, resumes=True)


if __name__ == "__main__":
    sys.exit(main())

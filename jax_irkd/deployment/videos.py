"""Predictions of the videos of a command line, one after the other, whatever happens to one."""

import argparse
import json
import sys
from pathlib import Path

from jax_irkd.deployment.answers import as_json, as_text, own_names, write_files
from jax_irkd.deployment.classifier import open_classifier
from jax_irkd.deployment.judgement import UNCALIBRATED, Judge
from jax_irkd.deployment.prediction import VideoSettings, predict
from jax_irkd.deployment.recognizer import engine_of
from jax_irkd.errors import FULL, UserError, once
from jax_irkd.video import formats, playback
from jax_irkd.video.archives import name_of
from jax_irkd.video.depth import parse_range


def predict_all(flags: argparse.Namespace) -> int:
    """Every video of the command line, whatever happens to the others."""
    sources, lost = playback.find_videos(flags.videos)
    paths = [Path(name_of(source)) for source in sources]
    called = own_names(paths)
    targets = _annotated(flags.annotate, called)
    if flags.out:
        _make_folder(Path(flags.out))
    if flags.range:
        parse_range(flags.range)
    classifier = open_classifier(flags.run, flags.which, flags.engine)
    if engine := engine_of(classifier):
        print(f"engine: {engine}", file=sys.stderr)
    names = classifier.class_names
    if not Judge(classifier, flags.threshold).calibration:
        once(f"{flags.run} {UNCALIBRATED}")
    settings = VideoSettings(
        flags.topk,
        flags.trimmed,
        flags.seconds,
        flags.stride,
        flags.threshold,
        flags.batch,
        flags.range,
        flags.windows,
    )
    for error in lost:
        _tell(error, error.name, flags.json)
    failed, total = len(lost), len(lost) + len(paths)
    for source, path in zip(sources, paths):
        try:
            result = predict(classifier, source, settings)
            for warning in result.warnings:
                print(f"warning: {path} {warning}", file=sys.stderr)
            text = as_json(result, names, flags.topk) if flags.json else None
            print(json.dumps(text) if text else as_text(result, names, flags.topk), flush=True)
            if flags.out:
                write_files(result, names, flags.topk, Path(flags.out, called[path]))
            if targets:
                from jax_irkd.deployment.annotate import annotate

                annotate(result, names, targets[path])
        except BrokenPipeError:
            raise
        except (UserError, OSError) as error:
            if getattr(error, "errno", None) in FULL:
                raise
            failed += 1
            _tell(error, str(path), flags.json)
    if failed and total > 1:
        print(f"{failed} of {total} videos could not be read", file=sys.stderr)
    return 0 if not failed else 1 if failed < total else 2


def _tell(error: Exception, video: str, as_lines: bool) -> None:
    print(f"error: {error}", file=sys.stderr)
    if as_lines:
        print(json.dumps({"video": video, "error": str(error)}), flush=True)


def _annotated(target: str | None, called: dict[Path, str]) -> dict[Path, Path]:
    """Where each annotated video goes: a file for one video, a folder for several."""
    if not target:
        return {}
    target, paths = Path(target), list(called)
    if formats.is_video(target.name) and not target.is_dir():
        if len(paths) > 1:
            raise UserError(
                f"--annotate={target} is one file for {len(paths)} videos; give a folder"
            )
        if not target.absolute().parent.is_dir():
            raise UserError(f"there is no folder {target.parent} for --annotate; make it first")
        # Numbered pictures have a name of their own, which is no file.
        if target.exists() and paths[0].exists() and target.samefile(paths[0]):
            raise UserError(f"--annotate={target} would overwrite the video itself; rename it")
        return {paths[0]: target}
    _make_folder(target)
    return {path: target / f"{called[path]}_annotated.mp4" for path in paths}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror})") from error

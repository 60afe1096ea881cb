"""Predictions of a live source: a camera, a network stream, a file played in real time."""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment.answers import clock_time, judged, predictions
from jax_irkd.deployment.judgement import NOTHING, REASONS, UNCALIBRATED, Verdict
from jax_irkd.deployment.recognizer import Prediction, Recognizer, engine_of
from jax_irkd.errors import UserError, once
from jax_irkd.host.interrupts import as_ctrl_c
from jax_irkd.video import playback
from jax_irkd.video.pixels import colourfulness
from jax_irkd.video.streams import Stream, kind_of, name_of

WAITING = 4  # frames that may wait, however often an answer is due


class Frame(NamedTuple):
    """One frame at the network's size, and the picture it was made from."""

    prepared: np.ndarray
    image: np.ndarray


class Answer(NamedTuple):
    """A prediction, when its newest frame came (seconds from the first), and its JSON line."""

    prediction: Prediction
    moment: float
    latency: float
    line: dict[str, Any]


def stream(flags: argparse.Namespace) -> int:
    """Predictions of a live source until it ends, Ctrl-C, or SIGTERM as from systemd."""
    kind_of(flags.stream)
    with contextlib.ExitStack() as stack:
        board = _board(flags, stack)
        target, remark = _target(flags.annotate), _remarker(board)
        start = time.monotonic()
        recognizer = Recognizer(
            flags.run,
            seconds=flags.seconds,
            stride=flags.stride,
            which=flags.which,
            range=flags.range,
            windows=flags.windows,
            threshold=flags.threshold,
            engine=flags.engine,
            notify=remark,
        )
        if not recognizer.judge.calibration:
            once(f"{flags.run} {UNCALIBRATED}")
        took = time.monotonic() - start
        recorder = target and stack.enter_context(_recorder(target, recognizer))
        by = f" by {engine}" if (engine := engine_of(recognizer.classifier)) else ""
        print(f"ready after {took:.1f} s{by}; Ctrl-C ends", file=sys.stderr)
        source = Stream(
            flags.stream,
            _preparer(recognizer.spec, board, remark),
            capacity=max(flags.stride, WAITING),
            patience=flags.patience,
            infrared=recognizer.spec.modality == "infrared",
            notify=_notifier(board),
            remark=remark,
        )
        with source, as_ctrl_c():
            if board:
                board.follow(lambda: (source.received, source.drop_rate))
            _answer_all(recognizer, source, flags, board, recorder)
    return 0


def _answer_all(recognizer: Recognizer, source: Any, flags, board, recorder) -> None:
    """Answers to where they are wanted, until the source ends; then a line about all of them."""
    latencies = []
    try:
        for answer in _answers(recognizer, source, flags.topk, recorder):
            latencies.append(answer.latency)
            print(json.dumps(answer.line) if flags.json else _as_text(answer), flush=True)
            if board:
                board.answer(answer.line)
        if board:
            board.tell("ended", "the source has ended")
    except KeyboardInterrupt:
        print("", file=sys.stderr)
    except UserError as error:
        if board:
            board.tell("ended", str(error))
        raise
    finally:
        if board and not board.closed:
            board.tell("ended", "it was stopped")
    delay = f", median latency {1e3 * np.median(latencies):.0f} ms" if latencies else ""
    print(
        f"{len(latencies)} predictions from {source.received} frames, {source.drop_rate:.1%} "
        f"dropped{delay}",
        file=sys.stderr,
    )


def _answers(recognizer: Recognizer, source: Any, topk: int, recorder) -> Iterator[Answer]:
    """What is said of the stream, as it comes; with a recorder every frame is recorded."""
    start, newest = None, None
    for moment, frame in source:
        start = moment if start is None else start
        prediction = recognizer.push_prepared(frame.prepared, moment, frame.image)
        if prediction is not None:
            newest = Verdict(prediction.probabilities, prediction.reason)
            latency = time.monotonic() - moment
            names = recognizer.classifier.class_names
            line = {
                "time": round(moment - start, 3),
                "latency": round(latency, 4),
                "dropped": round(source.drop_rate, 4),
                **judged(prediction),
                "predictions": predictions(prediction.probabilities, names, topk),
            }
            yield Answer(prediction, moment - start, latency, line)
        if recorder:
            recorder.add(frame.image, moment - start, newest)


def _as_text(answer: Answer) -> str:
    prediction, dropped = answer.prediction, answer.line["dropped"]
    said = f"{prediction.probability:6.1%}  {prediction.label}"
    if not prediction.recognised:
        said = f"     –  {NOTHING}: {REASONS[prediction.reason]}"
    return (
        f"{clock_time(answer.moment)}  {said}"
        f"  ({1e3 * answer.latency:.0f} ms, {dropped:.1%} dropped)"
    )


def _preparer(
    spec: InputSpec, board: Any, remark: Callable[[str], None]
) -> Callable[[np.ndarray], Frame]:
    """`prepare_frame`, which says once when the stream has the wrong colours, and shows the
    picture to who looks at the board."""
    seen = False

    def prepare(image: np.ndarray) -> Frame:
        nonlocal seen
        if not seen:
            seen = True
            for text in playback.modality_warning(colourfulness(image), spec.modality):
                remark(f"the stream {text}")
        if board:
            board.show(image)
        return Frame(playback.prepare_frame(image, spec), image)

    return prepare


def _notifier(board: Any) -> Callable[[str], None]:
    def notify(text: str) -> None:
        print(text, file=sys.stderr)
        if board:
            board.tell("lost", text)

    return notify


def _remarker(board: Any) -> Callable[[str], None]:
    def remark(text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)
        if board:
            board.remark(text)

    return remark


def _board(flags: argparse.Namespace, stack: contextlib.ExitStack) -> Any:
    """What the page of --serve shows, None without one. It can be opened before the network is
    loaded."""
    if flags.serve is None:
        return None
    from jax_irkd.deployment.board import Board
    from jax_irkd.deployment.serving import Server, parse_address

    server = stack.enter_context(
        contextlib.closing(Server(parse_address(flags.serve), flags.token))
    )
    board = Board(name_of(flags.stream), Path(flags.run).name)
    server.start(board)
    print(f"watch it at {server.url}", file=sys.stderr)
    return board


def _target(annotate: str | None) -> Path | None:
    if not annotate:
        return None
    from jax_irkd.deployment.recording import recording_path

    return recording_path(annotate)


def _recorder(target: Path, recognizer: Recognizer):
    from jax_irkd.deployment.recording import Recorder

    print(f"recording to {target}", file=sys.stderr)
    return Recorder(target, recognizer.classifier.class_names)

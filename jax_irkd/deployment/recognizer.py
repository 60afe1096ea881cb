"""Recognition while frames come in: each is looked at once, and answers come every few frames.

from jax_irkd import Recognizer

recognizer = Recognizer("student.irkd")
for frame in camera:
    prediction = recognizer.push(frame)
    if prediction and prediction.recognised:
        print(prediction.label, prediction.probability)
"""

import sys
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment.changes import Changes
from jax_irkd.deployment.classifier import Classifier, open_classifier, shared_frames
from jax_irkd.deployment.judgement import PICTURES, REASONS, Judge, Verdict
from jax_irkd.deployment.samples import Lanes, Sample, Samples
from jax_irkd.detection.consensus import softmax
from jax_irkd.errors import UserError
from jax_irkd.video import grid
from jax_irkd.video.depth import AUTO, parse_range
from jax_irkd.video.pixels import colourfulness
from jax_irkd.video.playback import modality_warning, prepare_frame
from jax_irkd.video.windows import clip_of


class Prediction(NamedTuple):
    """What is happening: `time` is that of the newest frame, `seconds` what its push took.

    `label` is empty where nothing was recognised; `reason` then says why (a key of
    `judgement.REASONS`). `probability` is that of the likeliest class in any case, calibrated where
    the network is, as `probabilities` are.
    """

    label: str
    probability: float
    probabilities: np.ndarray
    time: float
    seconds: float
    reason: str = ""

    @property
    def recognised(self) -> bool:
        return not self.reason


class Recognizer:
    """The frames of the last seconds of a stream, and a prediction every `stride` frames.

    `network` is a run's folder, an exported file or a classifier. A window has the network's
    segments, spread over time, not over frames, so that dropped frames do not distort the motion.
    It is `seconds` long, up to a sixth more or less, so that segments fall on frames that other
    windows look at too (`video.grid`; `grid.length / rate` is its length). Where the network allows
    it (`temporal` none or causal) each such frame is computed once, when it comes: a prediction at
    every frame (`stride=1`) costs one frame, not as many as there are segments. Other networks, and
    frames of more than eight bits that each window brings down by its own percentiles, get whole
    windows. With causal a frame's logits depend on all frames of its lane since the beginning.

    `rate` is that of a source without time stamps, and the one by which `stride` is a time. `range`
    is the rule for frames of more than eight bits (`auto` or `MIN,MAX`, see `video.depth`; empty:
    that of the data the network learned from). `windows`: shared raises where the network needs
    whole windows, whole gives them to every network. The program is compiled here, which takes
    seconds, unless `warm_up` is False: then by the first prediction or by `warm_up()`. `threshold`
    is the least probability of an answer that counts, in place of the calibrated one (`judgement`).
    `notify` is told in a line what changes in the source. Memory: the window's frames at the
    network's size.

    `engine` (auto, jax, onnxruntime, openvino) is what runs a network that is given by its path.
    Raises UserError for values that make no sense.
    """

    def __init__(
        self,
        network: str | Path | Classifier,
        *,
        seconds: float = 2.0,
        stride: int = 16,
        rate: float = 30.0,
        which: str = "last",
        range: str = "",
        windows: str = "auto",
        warm_up: bool = True,
        threshold: float | None = None,
        notify: Callable[[str], None] = lambda text: print(f"warning: {text}", file=sys.stderr),
        engine: str = "auto",
    ):
        if stride < 1 or seconds <= 0 or rate <= 0:
            raise UserError(
                f"stride={stride}, seconds={seconds} and rate={rate} must all be positive"
            )
        named = isinstance(network, str | Path)
        self.classifier = open_classifier(network, which, engine) if named else network
        self.spec = spec_of(self.classifier)
        self.judge = Judge(self.classifier, threshold)
        self.levels = parse_range(range or range_of(self.classifier))
        self.seconds, self.stride, self.rate, self.notify = seconds, stride, rate, notify
        count = self.spec.num_segments
        self.grid = grid.lay(max(seconds * rate, count), stride, count)
        self._frames = shared_frames(self.classifier, windows)
        self.reset()
        if warm_up:
            self.warm_up()

    def warm_up(self) -> float:
        """Compile what predictions need, unless that is done; the seconds that took."""
        start = clock.monotonic()
        clip = np.zeros(self.spec.shape, np.uint8)
        if self._frames:
            np.asarray(self._frames.step(clip[:1], self._frames.start)[0])
        else:
            self.classifier(clip[None])
        return clock.monotonic() - start

    def push(self, frame: np.ndarray, time: float | None = None) -> Prediction | None:
        """Add a uint8 frame `h w`, `h w 1` or RGB `h w 3` of any size; None between predictions.
        Frames of one channel may be uint16.

        `time` is in seconds, growing; without it frames come at `rate`. The first prediction comes
        after `stride` frames and as many as the network has segments; until the window is full,
        from what there is. A source that changes its size or kind of picture begins anew, and so
        does one that brings nothing for longer than a window.
        """
        prepared, image = prepare_frame(frame, self.spec), np.asarray(frame)
        if not self._clock:
            for text in modality_warning(colourfulness(image), self.spec.modality):
                self.notify(f"the source {text}")
        return self.push_prepared(prepared, time, image)

    def push_prepared(
        self, frame: np.ndarray, time: float | None = None, image: np.ndarray | None = None
    ) -> Prediction | None:
        """`push` for a frame that `prepare_frame` made, in another thread perhaps, of `image`."""
        start = clock.monotonic()
        if image is not None:
            for text in self._changes.look(image, time):
                self.notify(text)
            if self._changes.cut:
                self._forget()
        time = self._clock / self.rate if time is None else time
        if self._last is not None and time < self._last:
            self.reset()  # The source began anew: what was before is another scene.
        self._forget_after_gap(time)
        self._last = time
        self._clock += 1
        self._pushed += 1
        self._since += 1
        sample = self._samples.add(time, frame)
        # Windows that leave frames out between them compute theirs when they are asked for.
        if sample and self.grid.windows <= self.grid.count:
            self._look(sample)
        if self._since < self.stride or self._pushed < self.spec.num_segments:
            return None
        if not len(self._samples):
            return None
        self._since = 0
        return self._predict(time, start)

    def reset(self) -> None:
        """Forget the frames so far, as after a cut."""
        self._changes, self._clock, self._fault, self._gap = Changes(), 0, "", False
        self._forget()

    def _forget_after_gap(self, time: float) -> None:
        """No window reaches over a gap of its length, and a network's past should not either."""
        length = self.grid.length / self.rate
        gap = 0.0 if self._last is None else time - self._last
        before, self._gap = self._gap, gap > length
        if not self._gap:
            return
        if not before:  # of a source that always is so slow it is said once
            self.notify(
                f"the source brought nothing for {gap:.1f} s, more than a window ({length:.1f} s); "
                "what came before is forgotten"
            )
        self._forget()

    def _forget(self) -> None:
        self._samples = Samples(self.grid, self.rate)
        self._lanes = Lanes(self._frames, self.grid) if self._frames else None
        self._since, self._pushed, self._last = 0, 0, None

    def _look(self, sample: Sample) -> None:
        """The sample's logits, where its pixels are the same in every window."""
        if self._lanes and sample.logits is None and self.levels.is_fixed([sample.frame]):
            self._lanes.look(sample, clip_of([sample.frame], self.spec.channels, self.levels)[0])

    def _predict(self, time: float, start: float) -> Prediction:
        window = self._samples.window()
        for sample in dict.fromkeys(window):
            self._look(sample)
        frames = [sample.frame for sample in window]
        clip = clip_of(frames, self.spec.channels, self.levels)
        if all(sample.logits is not None for sample in window):
            mean = np.mean([sample.logits for sample in window], axis=0)
            probabilities = softmax(mean[None])[0]
        else:
            probabilities = self.classifier(clip[None])[0]
        seen = [place for place, sample in enumerate(window) if sample not in window[:place]]
        verdict = self.judge(probabilities, clip[seen])
        self._tell(verdict)
        best = int(verdict.probabilities.argmax())
        return Prediction(
            self.classifier.class_names[best] if verdict.recognised else "",
            float(verdict.probabilities[best]),
            verdict.probabilities,
            time,
            clock.monotonic() - start,
            verdict.reason,
        )

    def _tell(self, verdict: Verdict) -> None:
        """Say when pictures begin to show nothing."""
        fault = verdict.reason if verdict.reason in PICTURES else ""
        if fault and fault != self._fault:
            self.notify(f"the source shows nothing: {REASONS[fault]}")
        self._fault = fault


def spec_of(classifier: Classifier) -> InputSpec:
    """The frames a classifier reads."""
    return InputSpec(classifier.modality, classifier.num_segments, tuple(classifier.size))


def range_of(classifier: Classifier) -> str:
    """How the data a classifier learned from brought more than eight bits down."""
    return getattr(classifier, "range", "") or AUTO


def engine_of(classifier: Classifier) -> str:
    """What runs a classifier; empty where somebody's own does not say."""
    return getattr(classifier, "engine", "")

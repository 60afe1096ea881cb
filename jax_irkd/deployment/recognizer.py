"""Recognition while frames come in: the last seconds are kept, and classified every few frames.

from jax_irkd import Recognizer

recognizer = Recognizer("student.irkd")
for frame in camera:
    prediction = recognizer.push(frame)
    if prediction:
        print(prediction.label, prediction.probability)
"""

import collections
import time as clock
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_irkd.data.sampling import segment_positions
from jax_irkd.data.spec import InputSpec
from jax_irkd.deployment.classifier import Classifier, open_classifier
from jax_irkd.errors import UserError
from jax_irkd.video.depth import AUTO, parse_range
from jax_irkd.video.playback import prepare_frame
from jax_irkd.video.windows import clip_of


class Prediction(NamedTuple):
    """What is happening: `time` is that of the newest frame, `seconds` the time it took to say."""

    label: str
    probability: float
    probabilities: np.ndarray
    time: float
    seconds: float


class Recognizer:
    """The last `seconds` of a stream in a ring buffer, and a prediction every `stride` frames.

    `network` is a run's folder, an exported file or a classifier. The segments are spread over
    time, not over frames, so that dropped frames do not distort the motion. Memory: the frames of
    the last `seconds` at the network's size. `range` is the rule for frames of more than eight bits
    (`auto` or `MIN,MAX`, see `video.depth`; empty: that of the data the network learned from).
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
    ):
        if stride < 1 or seconds <= 0 or rate <= 0:
            raise UserError(
                f"stride={stride}, seconds={seconds} and rate={rate} must all be positive"
            )
        named = isinstance(network, str | Path)
        self.classifier = open_classifier(network, which) if named else network
        self.spec = spec_of(self.classifier)
        self.levels = parse_range(range or range_of(self.classifier))
        self.seconds, self.stride, self.rate = seconds, stride, rate
        self._positions = segment_positions(self.spec.num_segments)
        self._ring: collections.deque[tuple[float, np.ndarray]] = collections.deque()
        self._since, self._pushed = 0, 0

    def warm_up(self) -> float:
        """Compile before the first frame comes; the seconds that took."""
        start = clock.monotonic()
        self.classifier(np.zeros((1, *self.spec.shape), np.uint8))
        return clock.monotonic() - start

    def push(self, frame: np.ndarray, time: float | None = None) -> Prediction | None:
        """Add a uint8 frame `h w`, `h w 1` or RGB `h w 3` of any size; None between predictions.
        Frames of one channel may be uint16.

        `time` is in seconds, growing; without it frames come at `rate`. The first prediction comes
        after `stride` frames and as many as the network has segments.
        """
        return self.push_prepared(prepare_frame(frame, self.spec), time)

    def push_prepared(self, frame: np.ndarray, time: float | None = None) -> Prediction | None:
        """`push` for a frame that `prepare_frame` made, in another thread perhaps."""
        time = self._pushed / self.rate if time is None else time
        if self._ring and time < self._ring[-1][0]:
            self.reset()  # The source began anew: what was before is another scene.
        self._ring.append((time, frame))
        self._pushed += 1
        self._since += 1
        while self._ring[0][0] <= time - self.seconds:
            self._ring.popleft()
        if self._since < self.stride or self._pushed < self.spec.num_segments:
            return None
        self._since = 0
        start = clock.monotonic()
        probabilities = self.classifier(self._clip()[None])[0]
        best = int(probabilities.argmax())
        return Prediction(
            self.classifier.class_names[best],
            float(probabilities[best]),
            probabilities,
            time,
            clock.monotonic() - start,
        )

    def reset(self) -> None:
        """Forget the frames so far, as after a cut."""
        self._ring.clear()
        self._since = self._pushed = 0

    def _clip(self) -> np.ndarray:
        """The frames nearest to the middles of equal parts of the buffered time."""
        times = np.array([time for time, _ in self._ring])
        step = np.median(np.diff(times)) if len(times) > 1 else 0.0
        moments = times[0] + self._positions * (times[-1] - times[0] + step)
        # A frame shows the moments from its own time on, until the next one.
        indices = np.maximum(np.searchsorted(times, moments + step * 1e-3, side="right") - 1, 0)
        frames = [self._ring[index][1] for index in indices]
        return clip_of(frames, self.spec.channels, self.levels)


def spec_of(classifier: Classifier) -> InputSpec:
    """The frames a classifier reads."""
    return InputSpec(classifier.modality, classifier.num_segments, tuple(classifier.size))


def range_of(classifier: Classifier) -> str:
    """How the data a classifier learned from brought more than eight bits down."""
    return getattr(classifier, "range", "") or AUTO

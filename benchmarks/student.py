"""The student at work: speed beside PyTorch, what a stream adds, long videos, time to start.

    python -m benchmarks.student [--frames=10000] [--only=network,stream,video,start]

Uses an untrained ResNet-18 on eight infrared frames of 224 pixels; speed does not depend on what
was learned. The comparison with PyTorch needs the extra `torch`, which has the same network here.
"""

import argparse
import functools
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import jax
import numpy as np

from benchmarks import _measure
from benchmarks._measure import Result
from benchmarks.build import scene
from jax_irkd.config import paper_setup
from jax_irkd.data.synthetic.raw_ntu import write_video
from jax_irkd.deployment import archive, timing
from jax_irkd.deployment.classifier import open_classifier
from jax_irkd.deployment.recognizer import Recognizer
from jax_irkd.host import devices
from jax_irkd.models.tsn import TSN
from jax_irkd.training.checkpoints import Checkpoints

CLASSES = [f"class {number}" for number in range(10)]


def make_run(folder: Path, temporal: str = "none") -> Path:
    """An untrained student as training would leave it."""
    config = paper_setup("baseline", "cross_subject", 0)
    config.dtype, config.student_model.temporal = "float32", temporal
    model = TSN(num_classes=len(CLASSES), depth=18, temporal=temporal)
    variables = jax.jit(lambda key, x: model.init(key, x, train=False))(
        jax.random.key(0), np.zeros((1, 1, 224, 224, 1), np.float32)
    )
    meta = {
        "name": "baseline",
        "modality": "infrared",
        "class_names": CLASSES,
        "dataset": "none",
        "config": json.loads(config.to_json_best_effort()),
        "input_offset": False,
        "step": 1,
    }
    state = {name: {"model": variables[name]} for name in ("params", "batch_stats")}
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(1, jax.device_get(state), meta)
    return folder


def network(run: Path, student: Path, repeats: int) -> list[Result]:
    """Flax, the exported file and PyTorch eager, in turns."""
    found = {path.name: open_classifier(path, engine="jax") for path in (run, student)}
    eager = torch_student()
    if eager is None:
        print("PyTorch is not installed: pip install torch to compare")
    timings = timing.measure(found, 1, 1)  # Compiles.
    clips = np.random.default_rng(0).integers(0, 256, (1, 8, 256, 308, 1), dtype=np.uint8)
    steps = found | ({"PyTorch eager": eager} if eager else {})
    calls = {name: functools.partial(step, clips) for name, step in steps.items()}
    taken = _measure.alternate(calls, repeats)
    note = f"{timings[0].parameters / 1e6:.2f} M parameters, {timings[0].flops / 1e9:.2f} GFLOP"
    made = [
        _measure.spread(1e3 * value for value in took.wall).result(
            f"a clip by the student, {name}", "ms", note="" if name.startswith("Py") else note
        )
        for name, took in taken.items()
    ]
    if eager:
        share = _measure.ratio(taken["student.irkd"], taken["PyTorch eager"])
        made.append(share.result("exported student / PyTorch eager", "×", "≤ 1.1"))
    return made


def torch_student():
    """The same ResNet-18 in PyTorch on uint8 clips; None where torch is missing."""
    try:
        import torch
        from torch import nn
    except ImportError:
        return None

    class Block(nn.Module):
        def __init__(self, inside, outside, stride):
            super().__init__()
            self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
            self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
            self.norms = nn.ModuleList(nn.BatchNorm2d(outside) for _ in range(2))
            self.shortcut = nn.Identity()
            if stride > 1 or inside != outside:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
                )

        def forward(self, x):
            y = self.norms[0](self.first(x)).relu()
            return (self.norms[1](self.second(y)) + self.shortcut(x)).relu()

    layers = [nn.Conv2d(1, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inside = 64
    for level in range(4):
        for index in range(2):
            outside = 64 * 2**level
            layers.append(Block(inside, outside, 2 if level and not index else 1))
            inside = outside
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, len(CLASSES))]
    model = nn.Sequential(*layers).eval()

    def step(clips):
        with torch.inference_mode():
            cut = torch.from_numpy(clips)[0, :, 16:240, 42:266, 0]
            frames = ((cut.float() / 255 - 0.449) / 0.226)[:, None]
            return model(frames).mean(0).softmax(0).numpy()

    return step


def stream(student: Path, predictions: int = 8) -> list[Result]:
    """What `Recognizer.push` adds to the network's own time, with frames of 1080p."""
    recognizer = Recognizer(str(student), stride=16, windows="whole")
    clip = np.zeros((1, 8, 256, 308, 1), np.uint8)
    frames = list(scene((1920, 1080), 16, 0))
    alone, pushed, prepared = [], [], []
    for _ in range(predictions):
        start = time.perf_counter()
        recognizer.classifier(clip)
        alone.append(time.perf_counter() - start)
        start = time.perf_counter()
        for frame in frames[:-1]:
            recognizer.push(frame)
        prepared.append((time.perf_counter() - start) / 15)
        start = time.perf_counter()
        assert recognizer.push(frames[-1])
        pushed.append(time.perf_counter() - start)
    own, all_in, other = (1e3 * np.median(times) for times in (alone, pushed, prepared))
    note = f"network {own:.1f} ms, push {all_in:.1f} ms, other frames {other:.1f} ms"
    return [
        Result("stream: push of the last frame / network", all_in / own, "×", "≤ 1.1", note=note)
    ]


VIDEO = """
import sys, time
from jax_irkd.deployment.prediction import VideoSettings, predict
class Idle:
    class_names, modality, num_segments, size = ("a", "b"), "infrared", 8, (256, 308)
    def __call__(self, clips):
        time.sleep(float(sys.argv[2]))
        import numpy as np
        return np.full((len(clips), 2), 0.5, np.float32)
classifier = Idle()
if sys.argv[3] != "idle":
    from jax_irkd.deployment.classifier import open_classifier
    classifier = open_classifier(sys.argv[3])
    import numpy as np
    classifier(np.zeros((1, 8, 256, 308, 1), np.uint8))
start = time.perf_counter()
settings = VideoSettings(trimmed=False, stride=int(sys.argv[4]))
result = predict(classifier, sys.argv[1], settings)
took = time.perf_counter() - start
# Not ru_maxrss, which a child inherits from the process that started it.
status = open("/proc/self/status").read()
memory = int(status.split("VmHWM:")[1].split()[0]) / 2**20
print(took, memory, result.frames)
"""


def video(student: Path, folder: Path, frames: int) -> list[Result]:
    """A long 1080p video: memory, and speed beside PyAV alone."""
    memories, made = [], []
    for count in (frames // 4, frames):
        path = folder / f"long_{count}.avi"
        write_video(path, _looped(count), size=(1920, 1080), codec="h264")
        plain = _plain_decoding(path)
        stride = 64
        pause = plain / (count / stride) / 2  # The network is idle half of the time.
        took, memory, _ = _child(VIDEO, path, pause, "idle", stride)
        title = f"{count} frames of 1080p: speed of PyAV alone"
        note = f"{count / took:.0f} frames/s, {memory:.2f} GB without a network"
        made.append(Result(title, 100 * plain / took, "%", "≥ 80", note=note))
        memories.append(memory)
    took, memory, _ = _child(VIDEO, path, 0, student, 256)
    growth = memories[1] / memories[0]
    return [
        *made,
        Result("with the student, stride 256", frames / took, "frames/s", note=f"{memory:.2f} GB"),
        Result(f"memory of {frames} frames / of {frames // 4}", growth, "×"),
    ]


def _looped(count: int):
    frames = list(scene((1920, 1080), 40, 0))
    return (frames[index % len(frames)] for index in range(count))


def _plain_decoding(path: Path) -> float:
    start = time.perf_counter()
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            pass
    return time.perf_counter() - start


def _child(code: str, *arguments) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def start_up(student: Path, folder: Path) -> list[Result]:
    """From the command to the first answer, the first time and with a compiled program at hand."""
    clip = write_video(folder / "clip.avi", 60, infrared=True, size=(512, 424))
    command = [sys.executable, "-m", "jax_irkd.predict", f"--run={student}", str(clip)]
    made = []
    for name in ("first", "second"):
        start = time.perf_counter()
        environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        took = time.perf_counter() - start
        made.append(Result(f"start to first prediction, {name} time", took, "s", "≤ 3"))
    return made


PARTS = {
    "network": lambda run, student, folder, flags: network(run, student, flags.repeats),
    "stream": lambda run, student, folder, flags: stream(student),
    "video": lambda run, student, folder, flags: video(student, folder, flags.frames),
    "start": lambda run, student, folder, flags: start_up(student, folder),
}


def results(flags: argparse.Namespace) -> list[Result]:
    """Everything that `flags.only` names, printed as it comes."""
    made = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, student = make_run(folder / "run"), folder / "student.irkd"
        archive.export_run(run, student)
        for part in flags.only:
            found = PARTS[part](run, student, folder, flags)
            _measure.show(found)
            made += found
    return made


def main() -> None:
    parser = _measure.make_parser(__doc__)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", type=_measure.several(PARTS), default=[*PARTS])
    flags = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    devices.start("off")  # as `predict` does
    _measure.run("student", results, flags, flags.json)


if __name__ == "__main__":
    main()

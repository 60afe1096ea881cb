"""What a build costs beside the bare work: throughput per core, scaling, memory, record size.

    python -m benchmarks.build

Generates 1080p H.264 clips with one keyframe and intra-coded infrared, like NTU RGB+D's, then
compares (1) PyAV + OpenCV alone with the build's encoder on the same frames, (2) builds with one
and two workers, beside PyAV + OpenCV alone in one and two processes: what the machine's second
core adds at most, and (3) measures the peak memory of a worker on a video of 10,000 1080p frames.
"""

import argparse
import functools
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks._bare_video import bare
from benchmarks._measure import Result, make_parser, run, show, spread
from jax_irkd.data.synthetic import filming, raw_ntu
from jax_irkd.host.memory import keep_freed_memory
from jax_irkd.tfds_builders._shared import encoding

RGB_SIZE, INFRARED_SIZE = (1920, 1080), (512, 424)
GRAIN = 128  # Pixels; frames of 455x256 then take 16 kB as JPEG, as NTU RGB+D's do.
SPANS = [(start, start + 100) for start in range(200, 9_800, 480)]


def scene(size: tuple[int, int], frames: int, seed: int) -> Iterator[np.ndarray]:
    """Frames of a textured room with a person walking through; about 35 kB per frame in H.264."""
    rng = np.random.default_rng(seed)
    width, height = size

    def texture(shape: tuple[int, int], grain: int) -> np.ndarray:
        coarse = rng.integers(40, 216, (shape[1] // grain, shape[0] // grain, 3), dtype=np.uint8)
        return cv2.resize(coarse, shape, interpolation=cv2.INTER_CUBIC)

    room, person = texture(size, GRAIN), texture((width // 7, height // 2), GRAIN // 3)
    for index in range(frames):
        frame = room.copy()
        left = width // 4 + (index * 9) % (width // 3)
        frame[height // 4 : height // 4 + person.shape[0], left : left + person.shape[1]] = person
        yield frame


def clip_key(number: int) -> str:
    """The name of a clip: other people first, then other actions."""
    return f"S001C{number % 3 + 1:03d}P{number % 40 + 1:03d}R001A{number // 40 + 1:03d}"


def write_film(path: Path, size: tuple[int, int], frames: int, seed: int) -> None:
    """A film as NTU RGB+D stores it, an infrared one where the name says so."""
    if not path.stem.endswith("_ir"):
        raw_ntu.write_video(path, scene(size, frames, seed), size=size, codec="h264")
        return
    grey = (np.repeat(frame[..., :1], 3, axis=2) for frame in scene(size, frames, 99 + seed))
    raw_ntu.write_video(path, grey, size=size, infrared=True)


def make_clip(folder: Path, frames: int, number: int) -> None:
    """A pair as NTU RGB+D stores it."""
    for path, size in zip(raw_ntu.ntu_paths(folder, clip_key(number)), (RGB_SIZE, INFRARED_SIZE)):
        write_film(path, size, frames, number)


def make_clips(folder: Path, clips: int, frames: int, workers: int = 1) -> None:
    """Pairs as NTU RGB+D stores them."""
    make = functools.partial(make_clip, folder, frames)
    for _ in filming.in_parallel(make, range(clips), workers, chunk=1):
        pass


def seconds(step, repeats: int = 3) -> float:
    """Processor time of the best of a few runs: a busy machine does not show in it."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        step()
        times.append(time.process_time() - begin)
    return min(times)


def build_seconds(raw: Path, workers: int) -> tuple[float, float, float]:
    """Seconds on the clock and of the processors for a build, and megabytes per record.

    The workers' processor time counts only once they have ended: it is true for one worker.
    """
    from jax_irkd.build import make_builder
    from jax_irkd.tfds_builders._shared.options import BuildOptions

    out = Path(tempfile.mkdtemp())
    builder = make_builder("ntu_rgbd_ir", out, BuildOptions(workers=workers))
    builder.show_progress = False
    import tensorflow_datasets as tfds

    begin, used = time.perf_counter(), time.process_time()
    config = tfds.download.DownloadConfig(manual_dir=raw, try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
    spent, used = time.perf_counter() - begin, time.process_time() - used
    shutil.rmtree(out)
    return spent, used, builder.report.bytes / builder.report.built / 1e6


def bare_seconds(paths: list[Path], processes: int) -> float:
    """Seconds on the clock for the bare work on all of `paths` by processes already started."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, cv2.setNumThreads, (1,)) as pool:
        pool.map(bare, paths[:1] * processes, chunksize=1)
        begin = time.perf_counter()
        pool.map(bare, paths, chunksize=1)
        return time.perf_counter() - begin


def long_video(folder: Path, frames: int) -> Path:
    """A long 1080p video, made cheaply: one clip's packets written over and over."""
    part = folder / "part.avi"
    raw_ntu.write_video(part, scene(RGB_SIZE, 50, 0), size=RGB_SIZE, codec="h264", gop=50)
    path = folder / "long.avi"
    with av.open(str(part)) as source, av.open(str(path), "w", format="avi") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        data = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for number in range(frames):
            payload, keyframe = data[number % len(data)]
            packet = av.Packet(payload)
            packet.stream, packet.dts, packet.pts = copy, number, number
            packet.time_base, packet.is_keyframe = stream.time_base, keyframe
            target.mux(packet)
    return path


def peak(path: Path, queue: multiprocessing.Queue) -> None:
    """Encodes 20 instances of a long video; puts seconds, frames and megabytes of memory."""
    keep_freed_memory()  # As the build's workers do.
    begin = time.perf_counter()
    _, total, fault = encoding.encode_ranges(path, SPANS)
    if fault:
        raise fault
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    queue.put((time.perf_counter() - begin, total, megabytes))


def results(arguments: argparse.Namespace) -> list[Result]:
    """Everything this benchmark measures, printed as it comes."""
    folder, made = Path(tempfile.mkdtemp()), []

    def tell(*found: Result) -> None:
        show(found)
        made.extend(found)

    try:
        raw = folder / "raw"
        make_clips(raw, arguments.clips, arguments.frames)
        pair = raw_ntu.ntu_paths(raw, "S001C001P001R001A001")
        cv2.setNumThreads(1)
        plain = seconds(lambda: [bare(path) for path in pair])
        ours = seconds(
            lambda: [encoding.encode_clip(path, infrared="_ir" in path.stem) for path in pair]
        )
        note = f"PyAV + OpenCV {plain:.2f} s a clip pair, ours {ours:.2f} s"
        tell(Result("encoder: share of the bare throughput", 100 * plain / ours, "%", note=note))
        paths = sorted(raw.rglob("*.avi"))
        alone = seconds(lambda: [bare(path) for path in paths], repeats=1)
        _, used, size = build_seconds(raw, 1)
        note = f"{arguments.clips} clips, {size:.2f} MB a record"
        tell(
            Result("whole build: share of the bare throughput", 100 * alone / used, "%", note=note)
        )
        scaling = {"two workers": lambda n: build_seconds(raw, n)[0]}
        scaling["bare in two processes"] = lambda n: bare_seconds(paths, n)
        gains = {name: [] for name in scaling}
        for _ in range(arguments.repeats):  # In turns: a noisy neighbour then meets all of them.
            for name, step in scaling.items():
                gains[name].append(step(1) / step(2))
        for name, found in gains.items():
            tell(spread(found).result(f"{name} / one", "×"))
        queue = multiprocessing.get_context("spawn").Queue()
        path = long_video(folder, arguments.long)
        child = multiprocessing.get_context("spawn").Process(target=peak, args=(path, queue))
        child.start()
        spent, total, megabytes = queue.get()
        child.join()
        tell(
            Result(f"{total} frames of 1080p: peak memory", megabytes, "MB", note=f"{spent:.0f} s")
        )
    finally:
        shutil.rmtree(folder)
    return made


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--frames", type=int, default=70)
    parser.add_argument("--long", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    run("build", results, arguments, arguments.json)


if __name__ == "__main__":
    main()

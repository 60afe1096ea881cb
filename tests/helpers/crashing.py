"""An encoder and a film that kill their process, in a module that is quickly imported there."""

import multiprocessing
import os
import signal

from jax_irkd.tfds_builders._shared.cache import EncodingResult, EncodingTask, Record


def crash_on_b(task: EncodingTask) -> EncodingResult:
    if task.key == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    frames = {"rgb": [b"a"], "infrared": [b"b"]}
    return EncodingResult([Record(task.key, {"clip_id": task.key}, frames)], [], [])


class CrashingFilm(os.PathLike):
    """The path of a film that kills the worker which opens it."""

    def __fspath__(self) -> str:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGSEGV)
        return "films/bad.mp4"

"""An encoder that kills its process, in a module that is quickly imported there."""

import os
import signal

from jax_irkd.tfds_builders._shared.cache import EncodingResult, EncodingTask, Record


def crash_on_b(task: EncodingTask) -> EncodingResult:
    if task.key == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    frames = {"rgb": [b"a"], "infrared": [b"b"]}
    return EncodingResult([Record(task.key, {"clip_id": task.key}, frames)], [], [])

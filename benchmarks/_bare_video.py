"""The bare work of a build: decoding and storing frames with PyAV and OpenCV, nothing else.

python -m benchmarks._bare_video FOLDER
"""

import sys
from pathlib import Path

import av
import cv2

from jax_irkd.tfds_builders._shared import encoding


def bare(path: Path, max_frames: int = 64) -> int:
    """Decodes all frames and keeps the chosen ones as JPEG; how many bytes those take."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        wanted, size = set(encoding.evenly_spaced(stream.frames, max_frames)), 0
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                image = frame.to_ndarray(format="bgr24")
                scale = 256 / min(image.shape[:2])
                if scale < 1:
                    small = round(image.shape[1] * scale), round(image.shape[0] * scale)
                    image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
                if path.stem.endswith("_ir"):
                    image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
                size += len(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])
    return size


if __name__ == "__main__":
    cv2.setNumThreads(1)
    for film in sorted(Path(sys.argv[1]).rglob("*.avi")):
        bare(film)

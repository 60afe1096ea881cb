"""Single frames to the size a network was trained on, without anything heavier than OpenCV."""

import cv2
import numpy as np


def fit(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`frame` scaled to cover `size` (height, width), keeping its aspect, and centre-cropped."""
    scale = max(size[0] / frame.shape[0], size[1] / frame.shape[1])
    height = max(size[0], round(frame.shape[0] * scale))
    width = max(size[1], round(frame.shape[1] * scale))
    if (height, width) != frame.shape[:2]:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        frame = cv2.resize(frame, (width, height), interpolation=method)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return frame[top : top + size[0], left : left + size[1]]

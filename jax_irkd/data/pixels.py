"""How pixels are normalised before they reach a network, as constants in [0, 1] units.

A network receives `(pixel / 255 - mean) / std`, per channel. The augmentation applies
these numbers and the weight import undoes them, so both read them here.
"""

import numpy as np

RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)
INFRARED_MEAN = (0.449,)
INFRARED_STD = (0.226,)


def replicated_channel(
    mean: float = INFRARED_MEAN[0],
    std: float = INFRARED_STD[0],
    rgb_mean: tuple[float, ...] = RGB_MEAN,
    rgb_std: tuple[float, ...] = RGB_STD,
) -> tuple[np.ndarray, np.ndarray]:
    """Slope and offset, `(3,)` each, from a normalised grey value to normalised RGB.

    A pixel p in all three channels is r_c = (p - m_c) / s_c to an RGB network and
    v = (p - m) / s to an infrared one, hence r_c = slope_c v + offset_c with
    slope_c = s / s_c and offset_c = (m - m_c) / s_c.
    """
    rgb_mean, rgb_std = np.asarray(rgb_mean, np.float64), np.asarray(rgb_std, np.float64)
    return std / rgb_std, (mean - rgb_mean) / rgb_std

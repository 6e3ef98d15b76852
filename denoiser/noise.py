"""How noisy is a picture: an estimator that needs no model."""

import numpy as np

_PATCH = 8
_SAMPLES = 30_000


def estimate_sigma(image: np.ndarray) -> float:
    """Estimate the standard deviation of white Gaussian noise.

    Patches of a picture lie near a low-dimensional subspace, so the smallest eigenvalues of their
    covariance are those of the noise alone: eigenvalues are dropped from the top until the mean of
    the rest does not exceed its median (Chen, Zhu and Heng, ICCV 2015). Patches span the channels.

    Args:
        image: (H, W, C), floating point, or integers over their full range.

    Returns:
        Noise level in units of the image, integers counting as [0, 1]; 0 for a picture with too
        few pixels to tell.
    """
    patches = _patches(image)  # (N, patch * patch * C)
    if patches.shape[0] < 4 * patches.shape[1]:
        return 0.0
    eigenvalues = np.linalg.eigvalsh(np.cov(patches, rowvar=False).astype(np.float64))
    for count in range(eigenvalues.size, 0, -1):  # ascending: the first are the smallest
        smallest = eigenvalues[:count]
        if smallest.mean() <= np.median(smallest):
            break
    return float(np.sqrt(max(0.0, smallest.mean())))


def _patches(image: np.ndarray) -> np.ndarray:
    """Cut at most `_SAMPLES` patches on a regular grid, as rows of float32."""
    height, width, channels = image.shape
    size = _PATCH**2 * channels
    if min(height, width) < _PATCH:
        return np.empty((0, size), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image, (_PATCH, _PATCH), (0, 1))
    step = max(1, int(np.ceil(np.sqrt(windows.shape[0] * windows.shape[1] / _SAMPLES))))
    white = np.float32(np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1)
    return windows[::step, ::step].reshape(-1, size).astype(np.float32) / white

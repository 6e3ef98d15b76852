"""How noisy is a picture: an estimator that needs no model, and what to believe of one's map."""

import cv2
import numpy as np

from denoiser.picture import white_of_light

_PATCH = 8
_SAMPLES = 30_000

LIKE = 0.12
"""Standard deviation of the Gaussian that says what is of like brightness, in [0, 1] units."""
SHADES = 17
CLIPPED = 1 / 255
"""How near to black or white a place tells nothing of the noise of others."""
CALMEST = 1 / 255
"""Noise level in [0, 1] units that halves the weight of a place against one without any noise."""
APART = 2.0
"""How many times more or less noise than is common a place may have."""
FLAT_PX = 17
"""Side of the smallest squares of one colour that are no part of a photograph."""


def estimate_sigma(image: np.ndarray) -> float:
    """Estimate the standard deviation of white Gaussian noise.

    Patches of a picture lie near a low-dimensional subspace, so the smallest eigenvalues of their
    covariance are those of the noise alone: eigenvalues are dropped from the top until the mean of
    the rest does not exceed its median (Chen, Zhu and Heng, ICCV 2015). Patches span the channels.

    Args:
        image: (H, W, C), white as `picture.white_of_light` has it.

    Returns:
        Noise level in [0, 1] units; 0 for a picture with too few pixels to tell.
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


def pool(levels: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """Average noise levels that were found place by place over places of like brightness.

    An estimator takes some texture for noise and some noise for texture. But a camera's noise
    depends on the brightness of a place (Foi et al. 2008), not on what is seen there. Texture is
    taken for noise more often than the reverse, so calm places count more: by 1 / (level +
    CALMEST).

    Args:
        levels: (h, w) noise levels, float32; 0 tells nothing of other places.
        brightness: (h, w) of the same places, in [0, 1].

    Returns:
        (h, w) levels, each between half and twice what it was: a picture may be made of parts that
        are not alike.
    """
    tells = (levels > 0) & (brightness > CLIPPED) & (brightness < 1 - CLIPPED)
    if not tells.any():
        tells[...] = True
    shades, found = brightness[tells], levels[tells]
    trust = 1 / (found + np.float32(CALMEST))
    nodes = np.linspace(0, 1, SHADES, dtype=np.float32)
    common = np.empty_like(nodes)
    for index, node in enumerate(nodes):
        weight = np.exp(-(((shades - node) / LIKE) ** 2) / 2) + 1e-4  # never none at all
        common[index] = np.average(found, weights=weight * trust)
    pooled = np.interp(brightness, nodes, common).astype(np.float32)
    kept: np.ndarray = np.clip(pooled, levels / np.float32(APART), levels * np.float32(APART))
    return kept


def mirror_into_flats(image: np.ndarray) -> np.ndarray | None:
    """Put a mirror image of what lies beside it into whatever is perfectly flat, in place.

    Frames, letterboxes and what is hidden around a cut-out have no noise, and an estimator would
    take what lies near them to have less than it has.

    Args:
        image: (3, H, W) float32.

    Returns:
        (H, W) bool, what was flat; None if nothing is, or all.
    """
    green = image[1]
    rows, columns = (length // 8 for length in green.shape)
    cells = green[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).swapaxes(1, 2)
    first = cells[..., 0, 0]
    alike = cells[(first == cells[..., 3, 4]) & (first == cells[..., 7, 7])]  # few, as a rule
    if not (alike == alike[:, :1, :1]).all((1, 2)).any():
        return None
    planes = np.ascontiguousarray(image.transpose(1, 2, 0))
    kernel = np.ones((FLAT_PX, FLAT_PX), np.uint8)
    middles = (cv2.dilate(planes, kernel) == cv2.erode(planes, kernel)).all(2)
    is_flat = cv2.dilate(middles.astype(np.uint8), kernel)
    flat = np.asarray(is_flat, bool)
    if not flat.any() or flat.all():
        return None
    _, labels = cv2.distanceTransformWithLabels(
        is_flat, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    known, here = np.flatnonzero(~flat), np.flatnonzero(flat)
    nearest = np.zeros(labels.max() + 1, np.intp)  # by label
    nearest[labels.ravel()[known]] = known
    beside = nearest[labels.ravel()[here]]
    (y, x), (near_y, near_x) = (np.unravel_index(places, flat.shape) for places in (here, beside))
    across = np.ravel_multi_index((2 * near_y - y, 2 * near_x - x), flat.shape, mode="clip")
    source = np.where(flat.ravel()[across], beside, across)
    for plane in image:
        plane[flat] = plane.take(source)
    return flat


def _patches(image: np.ndarray) -> np.ndarray:
    """Cut at most `_SAMPLES` patches on a regular grid, as rows of float32."""
    height, width, channels = image.shape
    size = _PATCH**2 * channels
    if min(height, width) < _PATCH:
        return np.empty((0, size), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(image, (_PATCH, _PATCH), (0, 1))
    step = max(1, int(np.ceil(np.sqrt(windows.shape[0] * windows.shape[1] / _SAMPLES))))
    white = np.float32(white_of_light(image))
    return windows[::step, ::step].reshape(-1, size).astype(np.float32) / white

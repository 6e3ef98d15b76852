"""Grain: the noise around a hole is measured and put into its filling, which has none."""

import itertools

import cv2
import numpy as np

RING_PX = 24
"""How far around a hole the noise is measured."""
WIDTHS_PX = (1.0, 2.5)
"""Standard deviations of the Gaussians between which the bands lie."""
FLAT_SHARE = 0.3
"""Share of the places, the calmest, that noise is measured at: elsewhere is texture."""
FLAT_PX = 9


def match(
    filled: np.ndarray, image: np.ndarray, unknown: np.ndarray, share: float, seed: int
) -> np.ndarray:
    """Add the noise that a filling lacks beside its surroundings.

    In each of two bands of frequency the covariance of the channels is measured on the calmest
    places of a ring around the hole, and of the filling; Gaussian noise makes up the difference.

    Args:
        filled: (h, w, C) float32, the image with the hole filled.
        image: (h, w, C) float32, the image; what it holds in the hole does not matter.
        unknown: (h, w) bool, the hole.
        share: How much of it, 0-1.
        seed: The same seed gives the same grain.

    Returns:
        (h, w, C) float32.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RING_PX + 1,) * 2)
    ring = cv2.dilate(unknown.astype(np.uint8), kernel).astype(bool) & ~unknown
    if not ring.any():
        return filled
    whole = np.where(unknown[..., None], filled, image)
    noise = np.random.default_rng(seed).standard_normal(filled.shape, np.float32)
    grain = np.zeros_like(filled)
    for band, white in zip(_bands(whole), _bands(noise), strict=True):
        missing = _covariance(band, ring) - _covariance(band, unknown)
        values, vectors = np.linalg.eigh(missing)
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # (C, C)
        grain += white / white.std() @ root.astype(np.float32)
    return filled + np.float32(share) * grain


def _bands(image: np.ndarray) -> list[np.ndarray]:
    """Divide an image into fine and middle detail, each (h, w, C)."""
    blurred = [image]
    for width in WIDTHS_PX:
        soft = cv2.GaussianBlur(image, (0, 0), width, borderType=cv2.BORDER_REFLECT)
        blurred.append(soft.reshape(image.shape))  # which drops a single channel
    return [fine - coarse for fine, coarse in itertools.pairwise(blurred)]


def _covariance(band: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Covariance (C, C) of a band's channels at the calmest pixels of `place`, (h, w) bool."""
    activity = cv2.blur((band**2).mean(2), (FLAT_PX, FLAT_PX))[place]
    calm = band[place][activity <= np.quantile(activity, FLAT_SHARE)]
    return np.asarray(calm.T @ calm / len(calm), np.float64)

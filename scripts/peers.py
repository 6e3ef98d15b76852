"""What people would use instead: peers to measure beside our models, never shipped."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from denoiser import restore
from denoiser.engine import Model
from denoiser.errors import ArgumentError
from denoiser.noise import estimate_sigma

Denoiser = Callable[[np.ndarray, float | None], np.ndarray]
"""(H, W, 3) float32 noisy, and sigma in [0, 1] units or None if unknown -> restored."""
NAMES = ("nlm", "bm3d", "ffdnet", "ffdnet-clip")


def peer(name: str, weights: Path | None, device: str) -> Denoiser:
    """Find a peer by name.

    Args:
        name: One of `NAMES`.
        weights: Folder of the published FFDNet weights.
        device: Where FFDNet runs, by our engine; the others know the CPU only.

    Raises:
        ArgumentError: A package or the weights are missing.
    """
    if name == "nlm":
        return nlm
    if name == "bm3d":
        return bm3d
    if weights is None:
        raise ArgumentError(f"--peer {name} needs --weights, a folder of published weights")
    import ffdnet  # needs torch, the others do not

    file = weights / ("ffdnet_clip_color.pth" if name == "ffdnet-clip" else "ffdnet_color.pth")
    return functools.partial(ours, model=Model(ffdnet.to_onnx(file), device=device))


def ours(noisy: np.ndarray, sigma: float | None, model: Model) -> np.ndarray:
    """Restore with a model that keeps our contract."""
    level: float | Literal["auto"] = "auto" if sigma is None else sigma
    return restore.denoise(noisy, model, sigma=level)


def to_8bit(image: np.ndarray) -> np.ndarray:
    """Clip to [0, 1] and round to uint8."""
    scaled: np.ndarray = np.rint(np.clip(image, 0, 1) * 255)
    return scaled.astype(np.uint8)


def nlm(noisy: np.ndarray, sigma: float | None) -> np.ndarray:
    """OpenCV's non-local means for colour, on the clipped 8-bit image that it demands.

    Its strength is half of sigma: the best of 0.2 to 2 times sigma on validation pictures.
    """
    import cv2

    level = (estimate_sigma(noisy) if sigma is None else sigma) * 255
    bgr = to_8bit(noisy)[..., ::-1].copy()
    restored: np.ndarray = cv2.fastNlMeansDenoisingColored(
        bgr, None, level * 0.5, level * 0.5, 7, 21
    )
    return restored[..., ::-1].astype(np.float32) / 255


def bm3d(noisy: np.ndarray, sigma: float | None) -> np.ndarray:
    """The bm3d package (colour). For non-commercial use: install it yourself to compare."""
    try:
        from bm3d import bm3d_rgb
    except ImportError as error:
        raise ArgumentError("--peer bm3d needs: pip install bm3d") from error
    level = estimate_sigma(noisy) if sigma is None else sigma
    return np.asarray(bm3d_rgb(noisy.astype(np.float64), level), np.float32)

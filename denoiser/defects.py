"""Scratches and dust of scans: where a model finds them."""

from typing import Literal, get_args

import cv2
import numpy as np

from denoiser import restore
from denoiser.arrays import Progress
from denoiser.engine import Model
from denoiser.errors import ArgumentError

Kind = Literal["scratches", "dust"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SURE, LIKELY = 0.8, 0.3
"""How likely a defect is somewhere, and as far as it then reaches (hysteresis; Canny 1986). Chosen
on validation pictures, see scripts/LOG.md."""
MARGIN_PX = 2
"""Defects are soft: what is found is grown by so much."""


def find_defects(
    image: np.ndarray,
    model: Model,
    kinds: tuple[Kind, ...] = KINDS,
    progress: Progress | None = None,
) -> np.ndarray:
    """Find thin bright or dark defects.

    Args:
        image: (H, W, 3) uint8.
        model: Its task is "detect": it maps a picture to how likely scratches, dust or either of
            them cover a pixel, see `training.corruption.Defects`.
        kinds: What to find.
        progress: Told the pixels that are done.

    Returns:
        (H, W) bool, True where a defect is, margin included.

    Raises:
        ArgumentError: No kind is given, or an unknown one.
        Exception: As `restore.denoise`.
    """
    if not kinds or (unknown := set(kinds) - set(KINDS)):
        wrong = min(unknown) if kinds else "nothing"
        raise ArgumentError(f"cannot find {wrong}: known are {', '.join(KINDS)}")
    return mask_of(find_cover(image, model, progress), kinds)


def find_cover(image: np.ndarray, model: Model, progress: Progress | None = None) -> np.ndarray:
    """Run the model, arguments as in `find_defects`; (H, W, 3) uint8, 255 is certain."""
    return restore.denoise(image, model, sigma=0, progress=progress)


def mask_of(cover: np.ndarray, kinds: tuple[Kind, ...]) -> np.ndarray:
    """Take for a defect what is sure, as far as it is likely, and a margin.

    Args:
        cover: (H, W, 3) uint8, from `find_cover`.
        kinds: What to find.

    Returns:
        (H, W) bool.
    """
    channel = 2 if set(kinds) == set(KINDS) else KINDS.index(kinds[0])
    likely = cover[..., channel] / np.float32(255)
    count, labels = cv2.connectedComponents((likely > LIKELY).astype(np.uint8))
    is_sure = np.zeros(count, bool)
    is_sure[labels[likely > SURE]] = True
    side = 2 * MARGIN_PX + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.dilate(is_sure[labels].astype(np.uint8), kernel), bool)

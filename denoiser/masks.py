"""Masks: files, or the transparency of a picture, become holes."""

import cv2
import numpy as np

from denoiser.errors import ArgumentError, InputError
from denoiser.picture import Picture, white_of

SOFTEST = 4 / 255
"""What a soft mask has below is black: JPEG leaves such traces."""
DISC = 10
"""Most pixels by which a soft mask grows at once."""


def hole_of(
    mask: np.ndarray, *, invert: bool = False, soft: bool = False, dilate_px: int = 0
) -> np.ndarray:
    """Turn a mask into a hole.

    Args:
        mask: (H, W) float32 in [0, 1], white = fill.
        invert: Black = fill.
        soft: Keep greys as a soft edge; else half and more is hole.
        dilate_px: Grow by so many pixels.

    Returns:
        (H, W) float32 in [0, 1], 0 outside the hole.
    """
    hole = 1 - mask if invert else mask
    hole = np.where(hole < SOFTEST, 0, hole) if soft else hole >= 0.5
    hole = hole.astype(np.float32)
    if dilate_px and soft:
        for grown in range(0, dilate_px, DISC):  # one large disc would take its area in time
            side = 2 * min(DISC, dilate_px - grown) + 1
            hole = cv2.dilate(hole, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    elif dilate_px and hole.any():
        away = cv2.distanceTransform((hole == 0).astype(np.uint8), cv2.DIST_L2, 5)
        hole = away <= dilate_px
    return np.asarray(hole, np.float32)


def from_picture(mask: Picture, like: Picture, name: str) -> np.ndarray:
    """Read a mask off a picture: its brightness, and what is transparent is black.

    Args:
        mask: What was painted.
        like: The picture that it belongs to.
        name: Of the mask, for the error.

    Returns:
        (H, W) float32 in [0, 1].

    Raises:
        InputError: The two differ in size, or the mask is ink.
    """
    if mask.pixels.shape[:2] != like.pixels.shape[:2]:
        sizes = ["x".join(map(str, picture.pixels.shape[1::-1])) for picture in (mask, like)]
        turned = mask.pixels.shape[1::-1] == like.pixels.shape[:2]
        hint = " (if EXIF turns the picture, turn the mask as well)" if turned else ""
        raise InputError(
            f"the mask {name} is {sizes[0]}, the picture {sizes[1]}: they must agree{hint}"
        )
    if mask.mode == "CMYK":
        raise InputError(f"the mask {name} is CMYK: use a grey or RGB picture")
    grey = mask.colours.mean(2, dtype=np.float32) / np.float32(white_of(mask.colours))
    if mask.mode.endswith("A"):
        alpha = mask.pixels[..., -1]
        grey *= alpha / np.float32(white_of(alpha))
    return np.asarray(np.clip(grey, 0, 1))


def from_alpha(picture: Picture) -> np.ndarray:
    """Take what is transparent for the mask, (H, W) float32 in [0, 1].

    Raises:
        ArgumentError: There is no transparency.
    """
    if not picture.mode.endswith("A"):
        raise ArgumentError("--mask alpha: the picture has no transparency")
    alpha = picture.pixels[..., -1]
    return np.asarray(1 - np.clip(alpha / np.float32(white_of(alpha)), 0, 1))


def hides(picture: Picture, hole: np.ndarray) -> bool:
    """Whether part of a hole is fully transparent."""
    return picture.mode.endswith("A") and bool((picture.pixels[hole > 0, -1] <= 0).any())


def make_opaque(picture: Picture, hole: np.ndarray) -> None:
    """Let what was filled be seen, in place."""
    alpha = picture.pixels[..., -1]
    alpha[hole > 0] = white_of(alpha)

"""JPEG compression of a batch on the training device: everything of it that loses something."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from denoiser.training.draw import constant

# ITU-T T.81 (1992), tables K.1 and K.2: quantisation at quality 50
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# ITU-R BT.601 as JFIF uses it: rows Y, Cb, Cr
YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
RGB = tuple(map(tuple, np.linalg.inv(YCBCR).tolist()))
DCT = tuple(
    tuple(math.cos((2 * x + 1) * u * math.pi / 16) * (0.5 if u else 8**-0.5) for x in range(8))
    for u in range(8)
)  # (frequency, place), orthonormal


def compress(image: Tensor, quality: Tensor, top: int = 0, left: int = 0) -> Tensor:
    """Compress and expand with 4:2:0 chroma and the standard tables.

    Args:
        image: (N, 3, H, W) float32; clipped to [0, 1] and rounded to 8 bits first.
        quality: (N, 1, 1, 1) in 1-100, as libjpeg counts it.
        top: Rows by which the block grid starts above the image, 0-15.
        left: Columns by which it starts left of it.

    Returns:
        (N, 3, H, W) float32 in [0, 1], in steps of 1/255.
    """
    height, width = image.shape[2:]
    below, beside = -(height + top) % 16, -(width + left) % 16
    pixels = (image.clamp(0, 1) * 255).round()
    padded = F.pad(pixels, (left, beside, top, below), mode="replicate")
    ycbcr = torch.einsum("ij,njhw->nihw", constant(YCBCR, image.device), padded)
    luma, chroma = ycbcr[:, :1] - 128, F.avg_pool2d(ycbcr[:, 1:], 2)
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    luma, chroma = _quantise(luma, LUMA, scale), _quantise(chroma, CHROMA, scale)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    ycbcr = torch.cat([luma + 128, chroma], 1)
    rgb = torch.einsum("ij,njhw->nihw", constant(RGB, image.device), ycbcr)
    return rgb[:, :, top : top + height, left : left + width].round().clamp(0, 255) / 255


def _quantise(plane: Tensor, table: tuple[tuple[int, ...], ...], scale: Tensor) -> Tensor:
    """Round the DCT coefficients of each 8x8 block to multiples of the table's steps."""
    count, channels, height, width = plane.shape
    dct = constant(DCT, plane.device)
    steps = (constant(table, plane.device) * scale + 50) / 100  # (N, 1, 8, 8)
    steps = steps.floor().clamp(1, 255)[:, :, None, :, None, :]
    blocks = plane.reshape(count, channels, height // 8, 8, width // 8, 8)
    coefficients = torch.einsum("ux,ncaxby,vy->ncaubv", dct, blocks, dct)
    coefficients = (coefficients / steps).round() * steps
    blocks = torch.einsum("ux,ncaubv,vy->ncaxby", dct, coefficients, dct)
    return blocks.reshape(plane.shape)

"""How noisy each place of a picture is taken to be: told, or found by the model, tile by tile."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from denoiser import tiles
from denoiser.arrays import Progress
from denoiser.engine import Model
from denoiser.noise import estimate_sigma, mirror_into_flats, pool

OVERLAP_PX = 16
"""Pixels that neighbouring tiles share, those of the restorer too."""
TILE_PX = 1120
"""Side of the tiles in which noise is estimated, at most, unless their halo is very wide: their
memory stays while the restorer takes its own."""


def noise_level(image: np.ndarray, sigma: float | Literal["auto"], model: Model) -> float | None:
    """Noise level that a model is told, in [0, 1] units; None to let it estimate.

    Args:
        image: (H, W, C), as in `restore.denoise`.
        sigma: A level, or "auto" to take what the model or, if it cannot, `estimate_sigma` finds.
        model: Limits the level to what it was trained for.
    """
    if sigma == "auto":
        if model.contract.estimates:
            return None
        level = estimate_sigma(image)
    else:
        level = float(sigma)
    low, high = model.contract.sigma_range
    return min(max(level, low), high)


def find(
    stack: np.ndarray,
    white: np.ndarray,
    levels: Sequence[float | None],
    model: Model,
    tile_px: int,
    progress: Progress | None,
) -> list[np.ndarray]:
    """Find how noisy the places of images are.

    Places are squares of the model's stride, from the upper left corner.

    Args:
        stack: (N, H, W, C).
        white: (N, 1, 1, 1) float32, what stands for white in each.
        levels: N noise levels in [0, 1] units, or None to have the model estimate.
        model: The model.
        tile_px: Side of the restorer's tiles, which these do not exceed but for their wider halo.
        progress: Told for each tile that nothing is restored yet; it may stop the work.

    Returns:
        N maps (H / stride, W / stride), rounded up.

    Raises:
        OutOfMemoryError: The device lacks memory for such tiles.
    """
    stride, halo_px = model.contract.stride, model.contract.noise_halo
    count, height, width = len(stack), *(math.ceil(length / stride) for length in stack.shape[1:3])
    told = [np.float32(level) for level in levels if level is not None]
    if len(told) == count:
        return [np.broadcast_to(level, (height, width)) for level in told]
    noise, brightness = (np.empty((count, height, width), np.float32) for _ in range(2))
    least = tiles.smallest_tile_px(halo_px, OVERLAP_PX, stride)
    noise_tile_px = max(min(tile_px, TILE_PX), least)
    for row, column in itertools.product(*spans(stack, noise_tile_px, halo_px, stride)):
        if progress:
            progress(0, stack.shape[1] * stack.shape[2])
        windows = stack[:, row.window, column.window]
        batch = tiles.to_batch(windows, white, row, column)
        flats = [mirror_into_flats(planes) for planes in batch]
        found = model.estimate(batch)[:, 0]
        inner, outer = zip(*(_places(span, stride) for span in (row, column)), strict=True)
        size = (batch.shape[3] // stride, batch.shape[2] // stride)
        for index in range(count):
            level = resized(found[index], size, Image.Resampling.BOX)
            if (flat := flats[index]) is not None:
                share = resized(flat.astype(np.float32), size, Image.Resampling.BOX)
                level = np.where(share < 1, level, 0)
            noise[index][outer] = level[inner]
            grey = resized(batch[index].mean(0), size, Image.Resampling.BOX)
            brightness[index][outer] = grey[inner]
    return [pool(*both) for both in zip(noise, brightness, strict=True)]


def resized(plane: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    """Resize (H, W) float32 to (width, height)."""
    return np.asarray(Image.fromarray(plane).resize(size, method))


def spans(stack: np.ndarray, tile_px: int, halo_px: int, stride: int) -> list[list[tiles.Span]]:
    """Plan the rows and the columns of tiles of (N, H, W, C)."""
    return [tiles.plan(length, tile_px, halo_px, OVERLAP_PX, stride) for length in stack.shape[1:3]]


def _places(span: tiles.Span, stride: int) -> tuple[slice, slice]:
    """Say which squares a tile is to fill along an axis: in its window, and in the whole image."""
    first = (span.core_start + span.fade_in // 2) // stride
    last = (span.core_stop - span.fade_out // 2) // stride
    start = span.start // stride
    return slice(first - start, last - start), slice(first, last)

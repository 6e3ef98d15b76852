"""Restoring arrays: tiles, engine, blend."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from denoiser import levels, tiles
from denoiser.arrays import Progress, check_image, fit, is_share, lights
from denoiser.engine import Model
from denoiser.errors import ArgumentError, OutOfMemoryError
from denoiser.levels import OVERLAP_PX
from denoiser.picture import LARGEST_FLOAT, has_outliers, white_of_light

SMALLEST_TILE_PX = 320
PROCESS_BYTES = 150_000_000
"""Memory of the program itself."""
TILE_BYTES_PER_PX = 330
"""Memory per pixel of a tile on a CPU, at most."""
VIEW_BYTES_PER_PX = 45
"""The same, in addition, where the mean of several views is taken."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue, as encoded (ITU-R BT.601)."""


class _Removed(NamedTuple):
    """How much is removed of what is found to be noise, 0-1."""

    luma: float
    chroma: float


def denoise(
    image: np.ndarray,
    model: Model,
    *,
    sigma: float | Literal["auto"] = "auto",
    strength: float = 1.0,
    chroma: float | None = None,
    tile_px: int = 0,
    out: np.ndarray | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Remove noise from an image.

    Args:
        image: (H, W) or (H, W, C), C = 1 or 3; uint8, uint16, or floating point with white at 1
            (or where `picture.white_of_light` finds it); what is far beyond is left as it is.
        model: A loaded model, see `denoiser.load_model`.
        sigma: Noise standard deviation in [0, 1] units, or "auto" to estimate it.
        strength: Share of the noise to remove, 0-1.
        chroma: Share of the colour noise to remove, of what differs from a change of `LUMA` alike
            in all channels; None is `strength`. If both are 0, the input is returned bit for bit.
        tile_px: Side of the tiles, 0 for the default; halved while the device lacks memory.
        out: Array for the result, of the shape and dtype of `image`; may be `image` itself.
        progress: Told after each tile.

    Returns:
        The restored image, of the shape and dtype of `image`; floating point is not clipped.

    Raises:
        ShapeError: `image` or `out` has an unsupported shape or dtype.
        ArgumentError: An argument is out of range.
        InputError: `image` holds NaN or infinite values.
        ModelError: The model returned NaN.
        OutOfMemoryError: Not even small tiles fit the device; or memory ran out when `out` is
            `image` and part of it was restored already.
    """
    out = np.empty_like(image) if out is None else out
    check_image(image, out)
    removed = _check(sigma, strength, chroma)
    if not isinstance(tile_px, int | np.integer) or tile_px < 0:
        raise ArgumentError(f"tile_px must be a whole number, 0 or more, not {tile_px!r}")
    source = image[..., None] if image.ndim == 2 else image
    target = out[..., None] if out.ndim == 2 else out
    _denoise_stack(
        target[None],
        source[None],
        model,
        sigma=sigma,
        removed=removed,
        tile_px=tile_px,
        progress=progress,
    )
    return out


def _denoise_stack(
    out: np.ndarray,
    stack: np.ndarray,
    model: Model,
    *,
    sigma: float | Literal["auto"],
    removed: _Removed,
    tile_px: int,
    progress: Progress | None,
) -> list[float]:
    """Remove noise from images (N, H, W, C), as `denoise` does.

    Returns:
        N noise levels that were found or given, in [0, 1] units; their mean where they vary. 0 if
        nothing is to be removed and nobody looked.
    """
    if stack.shape[-1] == 1:  # grey has no chroma
        removed = _Removed(removed.luma, removed.luma)
    if not any(removed) or stack.size == 0:
        out[...] = stack
        return [0.0 if sigma == "auto" else float(sigma)] * len(stack)
    beyond = kept = None
    whites = [white_of_light(image) for image in stack]
    white = np.array(whites, np.float32)[:, None, None, None]
    if any(has_outliers(image, one) for image, one in zip(stack, whites, strict=True)):
        limit = LARGEST_FLOAT * white
        beyond = np.abs(stack) > limit
        kept, stack = stack[beyond], np.clip(stack, -limit, limit).astype(stack.dtype, copy=False)
    told = [levels.noise_level(image, sigma, model) for image in stack]
    tile_px = tile_px or _default_tile_px(model)
    noise: list[np.ndarray] | None = None
    in_place, is_touched = np.may_share_memory(out, stack), False
    while True:
        try:
            if noise is None:
                noise = levels.find(stack, white, told, model, tile_px, progress)
            for rows, band in _bands(stack, white, noise, model, removed, tile_px, progress):
                is_touched = in_place
                _write(out[:, rows], band, white)
            if beyond is not None:
                out[beyond] = kept
            return [float(places.mean()) for places in noise]
        except OutOfMemoryError:
            if is_touched or tile_px < 2 * _smallest_tile_px(model):
                raise
        tile_px //= 2


def denoise_channels(
    pictures: Sequence[np.ndarray],
    mode: str,
    model: Model,
    *,
    sigma: float | Literal["auto"] = "auto",
    strength: float = 1.0,
    chroma: float | None = None,
    tile_px: int = 0,
    progress: Progress | None = None,
) -> list[float]:
    """Remove noise in place from pictures that may have alpha, or be ink.

    Alpha is left as it is, bit for bit. Ink is restored as the light that it leaves: cyan, magenta
    and yellow together as colour, black as grey.

    Args:
        pictures: (H, W, C) each, of one shape and dtype, which as in `denoise`; overwritten. More
            than one are restored as a batch.
        mode: "L", "LA", "RGB", "RGBA" or "CMYK".
        model: A loaded model.
        sigma: As in `denoise`.
        strength: As in `denoise`.
        chroma: As in `denoise`.
        tile_px: As in `denoise`.
        progress: As in `denoise`.

    Returns:
        Of each picture the noise level that was found or given, in [0, 1] units, its mean where it
        varies; 0 if nothing is to be removed and nobody looked. For ink that of cyan, magenta and
        yellow.
    """
    removed = _check(sigma, strength, chroma)
    if not any(removed) and mode == "CMYK":  # ink that becomes light and ink again may be rounded
        mode = "RGB"
    stack = pictures[0][None] if len(pictures) == 1 else np.stack(pictures)
    found = []
    for part, told in lights(stack, mode, progress):
        check_image(part[0], None)
        of_part = _denoise_stack(
            part,
            part,
            model,
            sigma=sigma,
            removed=removed,
            tile_px=tile_px,
            progress=told,
        )
        found.append(of_part)
    if len(pictures) > 1:
        for picture, restored in zip(pictures, stack, strict=True):
            picture[...] = restored
    return found[0]


def tile_within(memory_bytes: int, image: np.ndarray, model: Model, tile_px: int = 0) -> int:
    """Choose the largest tile, up to `tile_px` or the default, for a limit on memory.

    Args:
        memory_bytes: What the process may use in all, approximately.
        image: (H, W, C), the image to restore in place.
        model: The model that will restore it.
        tile_px: Upper limit; 0 for the default.

    Raises:
        ArgumentError: Not even the smallest tile fits.
    """
    largest = tile_px or _default_tile_px(model)
    per_px = TILE_BYTES_PER_PX + (VIEW_BYTES_PER_PX if model.views > 1 else 0)
    padded = [tiles.padded(length, model.contract.stride) for length in image.shape[:2]]
    for side in [largest, *range(largest // 64 * 64, _smallest_tile_px(model) - 1, -64)]:
        height, width = min(side, padded[0]), min(side, padded[1])
        band_bytes = height * padded[1] * image.shape[2] * (8 + image.itemsize)
        tile_bytes = height * width * per_px
        needed = PROCESS_BYTES + 3 * image.nbytes + band_bytes + tile_bytes
        if needed <= memory_bytes:
            return int(side)
    raise ArgumentError(f"this picture needs --max-memory {math.ceil(needed / 1e6)} or more")


def check_tile(tile_px: int, model: Model) -> None:
    """Refuse tiles of which nothing would be kept.

    Raises:
        ArgumentError: They are too small for the model.
    """
    tiles.plan(tile_px + 1, tile_px, model.contract.halo, OVERLAP_PX, model.contract.stride)


def _check(sigma: float | str, strength: float, chroma: float | None) -> _Removed:
    """Refuse arguments out of range; say what they ask for."""
    removed = _Removed(strength, strength if chroma is None else chroma)
    for name, share in {"strength": removed.luma, "chroma": removed.chroma}.items():
        if not is_share(share):
            raise ArgumentError(f"{name} must lie in 0-1, not {share!r}")
    if not is_share(sigma) and not (isinstance(sigma, str) and sigma == "auto"):
        raise ArgumentError(f"sigma must be 'auto' or lie in 0-1, not {sigma!r}")
    return removed


def _default_tile_px(model: Model) -> int:
    return tiles.default_tile_px(model.contract.halo, OVERLAP_PX, model.contract.stride)


def _smallest_tile_px(model: Model) -> int:
    """Smallest tile that is chosen without being asked for."""
    own = tiles.smallest_tile_px(model.contract.halo, OVERLAP_PX, model.contract.stride)
    return max(SMALLEST_TILE_PX, own)


def _restore_batch(
    batch: np.ndarray, noise: Sequence[np.ndarray], model: Model, removed: _Removed
) -> np.ndarray:
    """Restore (N, 3, H, W) float32 in [0, 1] whose places are as noisy as N maps (h, w) say."""
    size = (batch.shape[3], batch.shape[2])
    smooth = [levels.resized(places, size, Image.Resampling.BILINEAR) for places in noise]
    restored = model.run(batch, np.stack(smooth)[:, None])
    if removed != _Removed(1, 1):
        change = restored - batch
        restored = batch + np.float32(removed.chroma) * change
        if removed.luma != removed.chroma:
            grey = np.einsum("c,nchw->nhw", LUMA, change)[:, None]
            restored += np.float32(removed.luma - removed.chroma) * grey
    return restored


def _bands(
    stack: np.ndarray,
    white: np.ndarray,
    noise: Sequence[np.ndarray],
    model: Model,
    removed: _Removed,
    tile_px: int,
    progress: Progress | None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Restore a row of tiles at a time, so that only one row is ever held in float32.

    Args:
        stack: (N, H, W, C); may be overwritten where it has been restored.
        white: (N, 1, 1, 1) float32, what stands for white in each.
        noise: N maps of `levels.find`.
        model: The model.
        removed: How much of the noise.
        tile_px: Side of the tiles.
        progress: Told after each tile.

    Yields:
        Rows, from top to bottom, and (N, C, h, width) float32 in [0, 1], what they are restored to.

    Raises:
        OutOfMemoryError: The device lacks memory for such tiles.
    """
    count, height, width, channels = stack.shape
    stride = model.contract.stride
    row_spans, column_spans = levels.spans(stack, tile_px, model.contract.halo, stride)
    faded = np.empty((count, channels, 0, width), np.float32)  # the overlap with the row above
    rows = stack[:, : row_spans[0].stop].copy()
    for row, following in itertools.zip_longest(row_spans, row_spans[1:]):
        band = np.empty((count, channels, row.core_stop - row.core_start, width), np.float32)
        for column in column_spans:
            batch = tiles.to_batch(rows[:, :, column.window], white, row, column)
            down, across = (
                slice(span.start // stride, span.stop // stride) for span in (row, column)
            )
            local = [places[down, across] for places in noise]
            restored = _restore_batch(batch, local, model, removed)
            start, stop = column.core_start, min(column.core_stop, width)
            core = restored[:, :, row.inner, column.inner][..., : stop - start]
            if channels == 1:
                core = core.mean(1, keepdims=True)
            column.fade(core)
            band[..., start : start + column.fade_in] += core[..., : column.fade_in]
            band[..., start + column.fade_in : stop] = core[..., column.fade_in :]
            if progress:
                above, this = row.core_start, min(row.core_stop, height) - row.core_start
                progress(above * width + this * stop, height * width)
        row.fade(band.swapaxes(2, 3))
        band[:, :, : row.fade_in] += faded
        if following:  # taken before what was restored may be overwritten
            rows = stack[:, following.start : following.stop].copy()
        kept = min(row.core_stop - row.fade_out, height) - row.core_start
        faded = band[:, :, band.shape[2] - row.fade_out :].copy()
        yield slice(row.core_start, row.core_start + kept), band[:, :, :kept]


def _write(out: np.ndarray, band: np.ndarray, white: np.ndarray) -> None:
    """Convert (N, C, h, w) in [0, 1], which is overwritten, to (N, h, w, C) of the image."""
    band *= white
    fit(band, out.dtype)
    np.copyto(out, band.transpose(0, 2, 3, 1), casting="unsafe")

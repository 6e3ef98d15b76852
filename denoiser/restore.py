"""Restoring arrays: noise level, tiles, engine, blend."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from denoiser import tiles
from denoiser.engine import Model, OutOfMemoryError
from denoiser.errors import ArgumentError, InputError, ShapeError
from denoiser.noise import estimate_sigma

Progress = Callable[[int, int], None]
"""Called with the pixels done and the pixels in all."""

OVERLAP_PX = 16
SMALLEST_TILE_PX = 256
PROCESS_BYTES = 250_000_000
TILE_BYTES_PER_PX = 400
"""Memory of the program itself and, per pixel of a tile, of the model: measured on a CPU."""
LARGEST_FLOAT = 4.0
"""Floating point beyond this has its white elsewhere: it is divided by its maximum."""


def denoise(
    image: np.ndarray,
    model: Model,
    *,
    sigma: float | Literal["auto"] = "auto",
    strength: float = 1.0,
    tile_px: int = 0,
    out: np.ndarray | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Remove noise from an image.

    Args:
        image: (H, W) or (H, W, C), C = 1 or 3; uint8, uint16, or floating point with white at 1
            (beyond `LARGEST_FLOAT`: at its maximum).
        model: A loaded model, see `denoiser.load_model`.
        sigma: Noise standard deviation in [0, 1] units, or "auto" to estimate it.
        strength: Share of the noise to remove, 0-1; 0 returns the input bit for bit.
        tile_px: Side of the tiles, 0 for the default; halved while the device lacks memory.
        out: Array for the result, of the shape and dtype of `image`; may be `image` itself.
        progress: Told after each tile.

    Returns:
        The restored image, of the shape and dtype of `image`; floating point is not clipped.

    Raises:
        ShapeError: `image` or `out` has an unsupported shape or dtype.
        ArgumentError: An argument is out of range.
        InputError: `image` holds NaN or infinite values.
    """
    _check(image, sigma, strength, out)
    if out is None:
        out = np.empty_like(image)
    if strength == 0 or image.size == 0:
        out[...] = image
        return out
    source = image[..., None] if image.ndim == 2 else image
    target = out[..., None] if out.ndim == 2 else out
    white = _white(source)
    level = noise_level(source, sigma)
    low, high = model.contract.sigma_range
    level = min(max(level, low), high)
    tile_px = tile_px or _default_tile_px(model)
    while not _denoise_tiled(source, target, model, level, strength, white, tile_px, progress):
        tile_px //= 2
    return out


def noise_level(image: np.ndarray, sigma: float | Literal["auto"]) -> float:
    """Noise level in [0, 1] units: `sigma` itself, or what `estimate_sigma` finds.

    Args:
        image: (H, W, C), as in `denoise`.
        sigma: A level, or "auto".
    """
    if sigma != "auto":
        return float(sigma)
    level = estimate_sigma(image)
    return min(1.0, level / _white(image) if image.dtype.kind == "f" else level)


def denoise_channels(
    pixels: np.ndarray,
    mode: str,
    model: Model,
    *,
    sigma: float | Literal["auto"] = "auto",
    strength: float = 1.0,
    tile_px: int = 0,
    progress: Progress | None = None,
) -> float:
    """Remove noise in place from pixels that may have alpha, or be ink.

    Alpha is left as it is, bit for bit. Ink is restored as the light that it leaves: cyan, magenta
    and yellow together as colour, black as grey.

    Args:
        pixels: (H, W, C), dtype as in `denoise`; overwritten.
        mode: "L", "LA", "RGB", "RGBA" or "CMYK".
        model: A loaded model.
        sigma: As in `denoise`.
        strength: As in `denoise`.
        tile_px: As in `denoise`.
        progress: As in `denoise`.

    Returns:
        The noise level that was removed, in [0, 1] units; for ink that of cyan, magenta, yellow.
    """
    colour = pixels[..., :3] if mode in ("RGB", "RGBA", "CMYK") else pixels[..., :1]
    parts = [colour, pixels[..., 3:]] if mode == "CMYK" else [colour]
    full = pixels.dtype.type(np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1)
    levels = []
    for part in parts:
        if mode == "CMYK":
            np.subtract(full, part, out=part)
        levels.append(noise_level(part, sigma))
        denoise(
            part,
            model,
            sigma=levels[-1],
            strength=strength,
            tile_px=tile_px,
            out=part,
            progress=progress,
        )
        if mode == "CMYK":
            np.subtract(full, part, out=part)
    return levels[0]


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
    tile_px = tile_px or _default_tile_px(model)
    for side in range(tile_px, SMALLEST_TILE_PX - 1, -64):
        row_bytes = side * image.shape[1] * image.shape[2] * (8 + image.itemsize)
        needed = PROCESS_BYTES + 2 * image.nbytes + row_bytes + side**2 * TILE_BYTES_PER_PX
        if needed <= memory_bytes:
            return side
    raise ArgumentError(f"this picture needs more than --max-memory {memory_bytes // 1_000_000}")


def _check(image: np.ndarray, sigma: float | str, strength: float, out: np.ndarray | None) -> None:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ShapeError(f"image must be (H, W), (H, W, 1) or (H, W, 3), not {image.shape}")
    if image.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise ShapeError(f"image must be uint8, uint16 or floating point, not {image.dtype}")
    if out is not None and (out.shape != image.shape or out.dtype != image.dtype):
        raise ShapeError(f"out must be like image: {image.shape} {image.dtype}")
    if not 0 <= strength <= 1:
        raise ArgumentError(f"strength must lie in 0-1, not {strength}")
    if sigma != "auto" and not (isinstance(sigma, float | int) and 0 <= sigma <= 1):
        raise ArgumentError(f"sigma must be 'auto' or lie in 0-1, not {sigma}")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InputError("the image holds NaN or infinite values")


def _white(image: np.ndarray) -> float:
    """Value that stands for 1.0."""
    if image.dtype.kind == "u":
        return float(np.iinfo(image.dtype).max)
    largest = float(image.max(initial=0))
    return largest if largest > LARGEST_FLOAT else 1.0


def _default_tile_px(model: Model) -> int:
    return tiles.default_tile_px(model.contract.halo, OVERLAP_PX, model.contract.stride)


def _denoise_tiled(
    image: np.ndarray,
    out: np.ndarray,
    model: Model,
    level: float,
    strength: float,
    white: float,
    tile_px: int,
    progress: Progress | None,
) -> bool:
    """Restore a row of tiles at a time, so that only one row is ever held in float32.

    Returns:
        False if the device lacks memory for such tiles and `out` is still untouched.
    """
    halo, stride = model.contract.halo, model.contract.stride
    height, width = image.shape[:2]
    row_spans = tiles.plan(height, tile_px, halo, OVERLAP_PX, stride)
    column_spans = tiles.plan(width, tile_px, halo, OVERLAP_PX, stride)
    done, faded = 0, None
    rows = image[: row_spans[0].stop].copy()
    for index, row_span in enumerate(row_spans):
        following = row_spans[index + 1] if index + 1 < len(row_spans) else None
        if following:  # taken before `out`, which may be `image`, is written
            next_rows = image[following.start : following.stop].copy()
        band = np.zeros(
            (row_span.core_stop - row_span.core_start, width, image.shape[2]), np.float32
        )
        for column_span in column_spans:
            try:
                restored = _restore_tile(rows, row_span, column_span, model, level, strength, white)
            except OutOfMemoryError:
                if index or tile_px < 2 * SMALLEST_TILE_PX:
                    raise
                return False
            restored *= column_span.weights()[:, None]
            stop = min(column_span.core_stop, width)
            band[:, column_span.core_start : stop] += restored[:, : stop - column_span.core_start]
            done += (row_span.core_stop - row_span.core_start) * (stop - column_span.core_start)
            if progress:
                progress(min(done, height * width), height * width)
        band *= row_span.weights()[:, None, None]
        if faded is not None:
            band[: row_span.fade_in] += faded
        kept = band.shape[0] - row_span.fade_out
        faded = band[kept:].copy()
        start = row_span.core_start
        stop = min(start + kept, height)
        out[start:stop] = _from_float(band[: stop - start], out.dtype, white)
        if following:
            rows = next_rows
    return True


def _restore_tile(
    rows: np.ndarray,
    row_span: tiles.Span,
    span: tiles.Span,
    model: Model,
    level: float,
    strength: float,
    white: float,
) -> np.ndarray:
    """Run the model on one window of a row; returns its core, (rows, columns, C) float32."""
    window = rows[:, span.start : span.stop].astype(np.float32) / np.float32(white)
    below = row_span.stop - row_span.start - window.shape[0]
    beside = span.stop - span.start - window.shape[1]
    window = np.pad(window, ((0, below), (0, beside), (0, 0)), mode="symmetric")
    grey = window.shape[2] == 1
    colour = np.repeat(window, 3, 2) if grey else window
    batch = np.ascontiguousarray(colour.transpose(2, 0, 1)[None])  # (1, 3, H, W)
    restored = model.run(batch, np.full_like(batch[:, :1], level))[0].transpose(1, 2, 0)
    if grey:
        restored = restored.mean(2, keepdims=True)
    if strength < 1:
        restored = window + np.float32(strength) * (restored - window)
    top, left = row_span.core_start - row_span.start, span.core_start - span.start
    bottom, right = row_span.core_stop - row_span.start, span.core_stop - span.start
    return np.array(restored[top:bottom, left:right])


def _from_float(band: np.ndarray, dtype: np.dtype, white: float) -> np.ndarray:
    if dtype.kind == "u":
        band = np.rint(np.clip(band, 0, 1) * np.float32(white))
    elif white != 1:
        band = band * np.float32(white)
    return band.astype(dtype)

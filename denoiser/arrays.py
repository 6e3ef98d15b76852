"""What an image in an array may be, and what of it is light."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from denoiser.errors import InputError, ShapeError

Progress = Callable[[int, int], None]
"""Called with the pixels done and the pixels in all."""


def check_image(image: np.ndarray, out: np.ndarray | None) -> None:
    """Refuse what is no image, or an `out` that is not like it.

    Raises:
        ShapeError: Unsupported shape or dtype.
        InputError: NaN or infinite values, or such as float32 does not hold.
    """
    if not isinstance(image, np.ndarray):
        raise ShapeError(f"image must be an array, not {type(image).__name__}")
    if isinstance(image, np.ma.MaskedArray):
        raise ShapeError("image must be a plain array: give the filled() one of a masked array")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ShapeError(f"image must be (H, W), (H, W, 1) or (H, W, 3), not {image.shape}")
    if image.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise ShapeError(
            "image must be uint8, uint16 or floating point, in this machine's byte order,"
            f" not {image.dtype}"
        )
    if out is not None and (out.shape != image.shape or out.dtype != image.dtype):
        raise ShapeError(f"out must be like image: {image.shape} {image.dtype}")
    if image.dtype.kind == "f":
        if not np.isfinite(image).all():
            raise InputError("the image holds NaN or infinite values")
        if image.dtype == np.float64 and np.abs(image).max(initial=0) > np.finfo(np.float32).max:
            raise InputError("the image holds values beyond those of float32")


def fit(values: np.ndarray, dtype: np.dtype[Any]) -> None:
    """Clip numbers, in place, to what an image of a dtype holds, and round them if it must."""
    if dtype.kind == "u":
        np.clip(values, 0, np.iinfo(dtype).max, out=values)
        np.rint(values, out=values)
    elif dtype == np.float16:
        np.clip(values, np.finfo(dtype).min, np.finfo(dtype).max, out=values)


def is_share(value: object) -> bool:
    """Whether something is a number in 0-1."""
    return isinstance(value, int | float | np.number) and bool(0 <= value <= 1)


def lights(
    stack: np.ndarray, mode: str, progress: Progress | None
) -> Iterator[tuple[np.ndarray, Progress | None]]:
    """Give what may be restored of pixels that may have alpha, or be ink.

    Args:
        stack: (..., C), written through what is given.
        mode: "L", "LA", "RGB", "RGBA" or "CMYK".
        progress: Shared out among them.

    Yields:
        Views (..., 1) or (..., 3) of grey or colour, each with its share of the callback. Of ink,
        while it is held, the light that it leaves: cyan, magenta and yellow together as colour,
        then black as grey.
    """
    colour = stack[..., :3] if mode in ("RGB", "RGBA", "CMYK") else stack[..., :1]
    if mode != "CMYK":
        yield colour, progress
        return
    full = stack.dtype.type(np.iinfo(stack.dtype).max if stack.dtype.kind == "u" else 1)
    parts = (colour, stack[..., 3:])
    for part, told in zip(parts, shares(progress, len(parts)), strict=True):
        np.subtract(full, part, out=part)
        yield part, told
        np.subtract(full, part, out=part)


def shares(progress: Progress | None, count: int) -> list[Progress | None]:
    """Share a callback out among `count` pieces of work that take as long as each other."""
    if progress is None:
        return [None] * count

    def tell(index: int, done: int, total: int) -> None:
        progress(index * total + done, count * total)

    return [functools.partial(tell, index) for index in range(count)]

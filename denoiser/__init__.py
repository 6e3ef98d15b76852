"""Denoise and inpaint pictures with convolutional autoencoders, offline, on a CPU or a GPU."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from denoiser.engine import Model

__all__ = ["__version__", "denoise", "inpaint", "load_model"]
__version__ = "0.1.0"


def load_model(
    name: str | Path | None = None,
    *,
    task: str = "denoise",
    device: str = "auto",
    threads: int = 0,
    views: int = 1,
) -> "Model":
    """Load a model; the same arguments give the same object again.

    Args:
        name: "fast", "balanced", "best", a released model (see `denoiser models`), a path to an
            ONNX file, or None for the default: "best" on a GPU, else "balanced".
        task: "denoise", "inpaint" or "detect".
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: CPU threads, 0 for all cores.
        views: 1, 2, 4 or 8: of how many mirrored and turned views the result is the mean, in as
            many times the time.

    Raises:
        ModelError: There is no such model, or it is damaged, breaks the contract or has another
            task.
        ArgumentError: There is no such task or device, or another number of views.
        DeviceError: A GPU was asked for and is not usable.
    """
    return _load_model(str(name) if name is not None else None, task, device, threads, views)


@functools.lru_cache(maxsize=4)
def _load_model(name: str | None, task: str, device: str, threads: int, views: int) -> "Model":
    from denoiser import catalog

    return catalog.load(name, task=task, device=device, threads=threads, views=views)


def denoise(
    image: "np.ndarray",
    *,
    model: "Model | str | Path | None" = None,
    sigma: float | Literal["auto"] = "auto",
    strength: float = 1.0,
    chroma: float | None = None,
    tile_px: int = 0,
) -> "np.ndarray":
    """Remove noise from an image.

    Args:
        image: (H, W) or (H, W, C), C = 1 or 3; uint8, uint16, or floating point with white at 1
            or, where more than one pixel in a thousand exceeds 4, at the largest value but for
            such a few.
        model: A model, its name or path; None for the default.
        sigma: Noise standard deviation in [0, 1] units, or "auto" to estimate it.
        strength: Share of the noise to remove, 0-1.
        chroma: Share of the colour noise to remove, of what is not alike in all channels; None is
            `strength`. If both are 0, the input is returned bit for bit.
        tile_px: Side of the tiles; 0 for the default.

    Returns:
        The restored image, of the shape and dtype of `image`, which is not modified.

    Raises:
        ShapeError: `image` has an unsupported shape or dtype.
        ArgumentError: An argument is out of range.
        InputError: `image` holds NaN or infinite values.
        ModelError: There is no such model, or it is made for another task.
        OutOfMemoryError: Not even small tiles fit into memory.

    Example:
        >>> import numpy as np, denoiser
        >>> noisy = np.random.default_rng(0).normal(0.5, 0.1, (64, 64, 3)).astype(np.float32)
        >>> restored = denoiser.denoise(noisy, sigma=0.1)
        >>> restored.shape, bool(restored.std() < noisy.std() / 4)
        ((64, 64, 3), True)
    """
    from denoiser import restore

    found = _model_of(model, "denoise")
    return restore.denoise(
        image, found, sigma=sigma, strength=strength, chroma=chroma, tile_px=tile_px
    )


def inpaint(
    image: "np.ndarray",
    hole: "np.ndarray",
    *,
    model: "Model | str | Path | None" = None,
    feather_px: float = 0.0,
    grain: float = 1.0,
) -> "np.ndarray":
    """Fill the hole; keep every other pixel bit for bit.

    Args:
        image: (H, W) or (H, W, C), C = 1 or 3; uint8, uint16, or floating point with white at 1
            or, where more than one pixel in a thousand exceeds 4, at the largest value but for
            such a few.
        hole: (H, W) bool, True where pixels are replaced.
        model: A model, its name or path; None for the default.
        feather_px: Width of the edge, inside the hole, over which filling and image are blended.
        grain: How much of the noise around the hole is put into the filling, 0-1.

    Returns:
        The filled image, of the shape and dtype of `image`, which is not modified.

    Raises:
        ShapeError: `image` has an unsupported shape or dtype, or `hole` is not (H, W).
        ArgumentError: An argument is out of range, or nothing lies outside the hole.
        InputError: `image` holds NaN or infinite values.
        ModelError: There is no such model, or it is made for another task.
        OutOfMemoryError: Not even small tiles fit into memory.

    Example:
        >>> import numpy as np, denoiser
        >>> image = np.full((64, 64, 3), 200, np.uint8)
        >>> hole = np.zeros((64, 64), bool)
        >>> hole[20:30, 20:40] = True
        >>> image[hole] = 0
        >>> bool(np.abs(denoiser.inpaint(image, hole)[hole].astype(int) - 200).max() < 25)
        True
    """
    from denoiser import filling

    found = _model_of(model, "inpaint")
    return filling.inpaint(image, hole, found, feather_px=feather_px, grain_share=grain)


def _model_of(model: "Model | str | Path | None", task: str) -> "Model":
    from denoiser.catalog import check_task
    from denoiser.engine import Model
    from denoiser.errors import ArgumentError

    if model is None or isinstance(model, str | Path):
        return load_model(model, task=task)
    if not isinstance(model, Model):
        raise ArgumentError(f"model must be a model, its name or path, not {model!r}")
    check_task(model, task)
    return model

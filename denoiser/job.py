"""One picture from file to file: what is asked for, and how a picture is restored by it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from denoiser import images, inpaint, restore
from denoiser.images import Format, Picture

if TYPE_CHECKING:
    from denoiser.engine import Model


@dataclasses.dataclass(frozen=True)
class Writing:
    """How results are written."""

    format: Format | None = None
    """None is what the output's name says; where it has none, the input's."""
    quality: int | None = None
    depth: Literal["keep", "8", "16"] = "keep"
    strip_metadata: bool = False

    def to_json(self) -> str:
        """Everything that shapes the output, as JSON."""
        values = dataclasses.asdict(self) | {"format": self.format and self.format.name}
        return json.dumps(values, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Settings(Writing):
    """What is asked for, the same for every picture of a folder."""

    sigma: float | Literal["auto"] = "auto"
    """In [0, 1] units."""
    strength: float = 1.0
    tile_px: int = 0
    max_memory_mb: int | None = None


@dataclasses.dataclass(frozen=True)
class Filling(Writing):
    """How holes are filled."""

    feather_px: float = 0.0
    grain_share: float = 1.0


def denoise(
    pictures: Sequence[Picture],
    model: "Model",
    settings: Settings,
    progress: restore.Progress | None = None,
) -> list[dict[str, Any]]:
    """Restore pictures of one shape, dtype and mode in place, as one batch.

    Returns:
        A report on each: model, provider, sigma on the 0-255 scale, size, warnings.

    Raises:
        ArgumentError: `max_memory_mb` does not suffice.
        Exception: As `restore.denoise_channels`.
    """
    tile_px, pixels = settings.tile_px, [picture.pixels for picture in pictures]
    if settings.max_memory_mb is not None:
        limit = settings.max_memory_mb * 1_000_000
        tile_px = restore.tile_within(limit, pixels[0], model, tile_px)
    levels = restore.denoise_channels(
        pixels,
        pictures[0].mode,
        model,
        sigma=settings.sigma,
        strength=settings.strength,
        tile_px=tile_px,
        progress=progress,
    )
    return [
        _report(picture, model, settings, level)
        for picture, level in zip(pictures, levels, strict=True)
    ]


def _report(picture: Picture, model: "Model", settings: Settings, level: float) -> dict[str, Any]:
    """Tell what was done to a picture, given the noise level in [0, 1] units."""
    sigma = settings.sigma
    notes = list(picture.notes)
    if sigma != "auto" and "sigma" not in model.contract.inputs:
        notes.append("the model takes no noise level: --sigma is not used")
    elif sigma != "auto" and abs(sigma - level) > 1e-9:
        notes.append(f"the model was not trained for that noise: sigma {level * 255:.0f} is used")
    return _facts(picture, model) | {
        "sigma": round(level * 255, 3),
        "sigma_estimated": sigma == "auto",
        "strength": settings.strength,
        "warnings": notes,
    }


def _facts(picture: Picture, model: "Model") -> dict[str, Any]:
    """What every report tells."""
    return {
        "model": model.contract.name,
        "provider": model.provider,
        "precision": model.precision,
        "gpu_not_used": model.fallback,
        "width": picture.pixels.shape[1],
        "height": picture.pixels.shape[0],
        "warnings": list(picture.notes),
    }


def fill(
    picture: Picture,
    hole: np.ndarray,
    model: "Model",
    settings: Filling,
    progress: restore.Progress | None = None,
) -> dict[str, Any]:
    """Fill a hole in place; alpha is left as it is.

    Args:
        picture: What to fill.
        hole: (H, W), as `inpaint.inpaint` takes it.
        model: What fills.
        settings: How.
        progress: Told after each hole.

    Returns:
        A report: model, provider, size, how many pixels were filled, warnings.

    Raises:
        Exception: As `inpaint.inpaint`.
    """
    for part in restore.lights(picture.pixels, picture.mode):
        inpaint.inpaint(
            part,
            hole,
            model,
            feather_px=settings.feather_px,
            grain_share=settings.grain_share,
            out=part,
            progress=progress,
        )
    report = _facts(picture, model) | {"filled_px": int((hole > 0).sum())}
    if not report["filled_px"]:
        report["warnings"].append("the mask is empty: nothing was filled")
    return report


def write(
    picture: Picture, target: Path | IO[bytes], settings: Writing, **options: Any
) -> list[str]:
    """Write a picture as `images.write` does with more options; returns what got lost."""
    format = settings.format
    if format is None and isinstance(target, Path):
        format = images.format_of(target)
    return images.write(
        picture,
        target,
        format or next(known for known in images.FORMATS if known.name == picture.format),
        quality=settings.quality,
        depth=settings.depth,
        strip_metadata=settings.strip_metadata,
        **options,
    )

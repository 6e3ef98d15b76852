"""Draw the noise of real pictures beside ours: `noise_sheet.py REAL... --out docs/noise.png`.

From each picture a calm place that is neither dark nor bright is taken. Beside it, what the camera
of the recipe makes of the same place smoothed: those of many draws whose noise is about as strong.
The noise is shown three times as strong as it is.
"""

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from denoiser.cli import run, say
from denoiser.errors import InputError
from denoiser.images import as_rgb8, read
from denoiser.training import filters
from denoiser.training.corruption import Camera, Either, Step, corrupt
from denoiser.training.recipe import load_recipe
from denoiser.training.record import to_batch, to_uint8

RECIPE = Path(__file__).parent / "recipes" / "photo.toml"
PATCH_PX, CONTEXT_PX, SCALE = 64, 16, 3
DRAWS, SHOWN, CONTRAST = 64, 4, 3
SMOOTHING_PX = 5
MIDTONES = (40, 200)


def flattest(picture: np.ndarray) -> np.ndarray:
    """Cut the calmest place of (H, W, 3) uint8 with its context.

    Raises:
        InputError: The picture is too small, or all dark or bright.
    """
    side = PATCH_PX + 2 * CONTEXT_PX
    grey = picture.mean(2)
    places = [
        (grey[y : y + side, x : x + side].std(), y, x)
        for y in range(0, grey.shape[0] - side, side)
        for x in range(0, grey.shape[1] - side, side)
        if MIDTONES[0] < grey[y : y + side, x : x + side].mean() < MIDTONES[1]
    ]
    if not places:
        raise InputError("no midtones to look at")
    _, y, x = sorted(places)[len(places) // 50]  # the very calmest may be painted
    return picture[y : y + side, x : x + side].copy()


def camera_steps(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Find the list of steps with the camera in it; zooming would show another place."""
    if any(isinstance(step, Camera) for step in steps):
        return tuple(step for step in steps if step.kind != "zoom")
    ways = [
        way for step in steps if isinstance(step, Either) for way in (step.steps, step.otherwise)
    ]
    return next(found for way in ways if (found := camera_steps(way)))


@click.command(context_settings={"show_default": True})
@click.argument("real", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seed", default=0)
def main(real: tuple[Path, ...], out: Path, seed: int) -> None:
    """Write a sheet: a row per picture, real noise left, then ours, at 300 %."""
    steps = camera_steps(load_recipe(RECIPE).corruption)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for path in real:
        patch = to_batch(flattest(as_rgb8(read(path))))
        smooth = filters.blur(patch, torch.full((1, 1, 1, 1), float(SMOOTHING_PX)), SMOOTHING_PX)
        _, noisy, _ = corrupt(smooth.repeat(DRAWS, 1, 1, 1), steps, generator)
        level = (patch - smooth).std()
        order = ((noisy - smooth).std((1, 2, 3)) / level).log().abs().argsort()
        images = torch.cat([patch, noisy[order[:SHOWN]]])
        images = smooth + CONTRAST * (images - smooth)
        shown = [to_uint8(image[None]) for image in images]
        inner = slice(CONTEXT_PX, CONTEXT_PX + PATCH_PX)
        large = [image[inner, inner].repeat(SCALE, 0).repeat(SCALE, 1) for image in shown]
        framed = [np.pad(image, ((2, 2), (2, 2), (0, 0)), constant_values=255) for image in large]
        rows.append(np.hstack(framed))
    Image.fromarray(np.vstack(rows)).save(out)
    say(f"wrote {out}")


if __name__ == "__main__":
    run(main)

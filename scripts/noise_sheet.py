"""Draw the noise of real pictures beside ours: `noise_sheet.py REAL... --out docs/noise.png`.

From each picture calm places are taken, from dark to bright. Beside each, what the camera of the
recipe makes of the same place smoothed: those of many draws whose noise is about as strong.
The noise is shown three times as strong as it is.
"""

from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from denoiser.console import run, say
from denoiser.errors import InputError
from denoiser.files import check_file
from denoiser.images import as_rgb8, format_of, read
from denoiser.training import filters
from denoiser.training.corruption import Either, corrupt
from denoiser.training.noises import Camera
from denoiser.training.recipe import load_recipe
from denoiser.training.step import Step
from denoiser.training.validation import to_batch, to_uint8

RECIPE = Path(__file__).parent / "recipes" / "photo.toml"
PATCH_PX, CONTEXT_PX, SCALE = 64, 16, 3
DRAWS, SHOWN, CONTRAST = 64, 4, 3
SMOOTHING_PX = 5
MIDTONES = (25, 220)


def calm_places(picture: np.ndarray, count: int) -> list[np.ndarray]:
    """Cut calm places of (H, W, 3) uint8, from dark to bright, with their context.

    Raises:
        InputError: The picture is too small, or all dark or bright.
    """
    side = PATCH_PX + 2 * CONTEXT_PX
    cells = [
        picture[y : y + side, x : x + side]
        for y in range(0, picture.shape[0] - side + 1, side)
        for x in range(0, picture.shape[1] - side + 1, side)
    ]
    cells = [cell for cell in cells if MIDTONES[0] < cell.mean() < MIDTONES[1]]
    if len(cells) < count:
        raise InputError(f"fewer than {count} places of midtones")
    cells.sort(key=np.mean)
    bands = [
        cells[len(cells) * band // count : len(cells) * (band + 1) // count]
        for band in range(count)
    ]
    # the very calmest may be painted
    return [sorted(band, key=lambda cell: cell.mean(2).std())[len(band) // 50] for band in bands]


def camera_steps(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Find the list of steps with the cameras in it; zooming would show another place."""
    ways = [
        way for step in steps if isinstance(step, Either) for way in (step.steps, step.otherwise)
    ]
    if any(isinstance(step, Camera) for way in (steps, *ways) for step in way[:1]):
        return tuple(step for step in steps if step.kind != "zoom")
    return next((found for way in ways if (found := camera_steps(way))), ())


@click.command("noise_sheet.py", context_settings={"show_default": True})
@click.argument("real", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A picture to write.")
@click.option("--places", type=click.IntRange(1), default=3, help="Rows per picture.")
@click.option("--seed", type=click.IntRange(0, 2**32), default=0)
def main(real: tuple[Path, ...], out: Path, places: int, seed: int) -> None:
    """Write a sheet: a row per place, real noise left, then ours, at 300 %."""
    format_of(out)
    check_file(out)
    steps = camera_steps(load_recipe(RECIPE).corruption)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for place in [place for path in real for place in calm_places(as_rgb8(read(path)), places)]:
        patch = to_batch(place.copy())
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

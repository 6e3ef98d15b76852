"""Draw the README's pictures at 200 %: the sample denoised, and inpainted."""

import tempfile
from pathlib import Path

import click
import numpy as np
from demo import SAMPLE, damage
from PIL import Image

from denoiser import denoise, inpaint
from denoiser.console import run

HEIGHT, WIDTH = 200, 240  # of the crop that is shown
GAP_PX = 8


def save(before: np.ndarray, after: np.ndarray, top: int, left: int, path: Path) -> None:
    """Put a crop of two pictures (H, W, 3) uint8 side by side."""
    crops = [
        image[top : top + HEIGHT, left : left + WIDTH].repeat(2, 0).repeat(2, 1)
        for image in (before, after)
    ]
    gap = np.full((2 * HEIGHT, GAP_PX, 3), 255, np.uint8)
    Image.fromarray(np.hstack([crops[0], gap, crops[1]])).save(path, optimize=True)


@click.command("before_after.py")
def main() -> None:
    """Restore the sample and draw docs/sample/before-after.png and inpainted.png anew."""
    noisy = np.array(Image.open(SAMPLE / "noisy.png"))
    save(noisy, denoise(noisy), 110, 90, SAMPLE / "before-after.png")
    with tempfile.TemporaryDirectory() as folder:
        picture, mask = Path(folder) / "damaged.png", Path(folder) / "mask.png"
        damage(picture, mask)
        damaged, hole = np.array(Image.open(picture)), np.array(Image.open(mask)) > 0
    save(damaged, inpaint(damaged, hole), 304, 272, SAMPLE / "inpainted.png")


if __name__ == "__main__":
    run(main)

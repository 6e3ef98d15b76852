"""Draw pictures of the sample at 200 %: denoised, by shares, and inpainted."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from demo import SAMPLE, damage
from PIL import Image

from denoiser import denoise, inpaint
from denoiser.console import run

HEIGHT, WIDTH = 200, 240  # of the crops of pairs
GAP_PX = 8


def save(
    images: Sequence[np.ndarray],
    top: int,
    left: int,
    path: Path,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> None:
    """Put a crop of pictures (H, W, 3) uint8 side by side."""
    side_by_side: list[np.ndarray] = []
    for image in images:
        crop = image[top : top + height, left : left + width].repeat(2, 0).repeat(2, 1)
        side_by_side += [np.full((2 * height, GAP_PX, 3), 255, np.uint8), crop]
    Image.fromarray(np.hstack(side_by_side[1:])).save(path, optimize=True)


@click.command("before_after.py")
def main() -> None:
    """Restore the sample and draw docs/sample/before-after.png, chroma.png and inpainted.png."""
    noisy = np.array(Image.open(SAMPLE / "noisy.png"))
    whole, partly = denoise(noisy), denoise(noisy, strength=0.4)
    grainy = denoise(noisy, strength=0.4, chroma=1)
    save([noisy, whole], 110, 90, SAMPLE / "before-after.png")
    save([noisy, partly, grainy, whole], 190, 200, SAMPLE / "chroma.png", height=100, width=110)
    with tempfile.TemporaryDirectory() as folder:
        picture, mask = Path(folder) / "damaged.png", Path(folder) / "mask.png"
        damage(picture, mask)
        damaged, hole = np.array(Image.open(picture)), np.array(Image.open(mask)) > 0
    save([damaged, inpaint(damaged, hole)], 304, 272, SAMPLE / "inpainted.png")


if __name__ == "__main__":
    run(main)

"""Write noisy copies of clean pictures, to look at a recipe's corruption or to try `--noisy`."""

from pathlib import Path

import click
import torch
from PIL import Image

from denoiser.cli import run, say
from denoiser.errors import ArgumentError
from denoiser.training.corruption import corrupt
from denoiser.training.dataset import load_pictures
from denoiser.training.recipe import load_recipe
from denoiser.training.record import to_batch, to_uint8


@click.command(context_settings={"show_default": True})
@click.option("--recipe", type=click.Path(path_type=Path), required=True, help="A .toml.")
@click.option("--images", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--seed", default=0)
def main(recipe: Path, images: Path, out: Path, seed: int) -> None:
    """Corrupt every picture once: OUT/clean and OUT/noisy get PNG files of the same names."""
    if out.exists():
        raise ArgumentError(f"{out} exists: choose another --out")
    steps = load_recipe(recipe).corruption
    folders = [out / name for name in ("clean", "noisy")]
    for folder in folders:
        folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    pictures = load_pictures(images, 1, say)
    for index, picture in enumerate(pictures):
        clean, noisy, _ = corrupt(to_batch(picture), steps, generator)
        for folder, batch in zip(folders, (clean, noisy), strict=True):
            Image.fromarray(to_uint8(batch)).save(folder / f"{index:05}.png", compress_level=1)
    say(f"{len(pictures)} pictures in {out}")


if __name__ == "__main__":
    run(main)

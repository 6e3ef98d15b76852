"""Write noisy copies of clean pictures, to look at a recipe's corruption or to try `--noisy`."""

from pathlib import Path

import click
import torch
from PIL import Image

from denoiser.console import run, say
from denoiser.errors import ArgumentError
from denoiser.training.corruption import corrupt
from denoiser.training.dataset import read_pictures
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
    generator = torch.Generator().manual_seed(seed)
    for index, picture in enumerate(read_pictures([images], 1, say)):
        clean, noisy, _ = corrupt(to_batch(picture), steps, generator)
        for name, batch in (("clean", clean), ("noisy", noisy)):
            path = out / name / f"{index:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(to_uint8(batch)).save(path, compress_level=1)
    say(f"{index + 1} pictures in {out}")


if __name__ == "__main__":
    run(main)

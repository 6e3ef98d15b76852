"""Write noisy copies of clean pictures, to look at a recipe's corruption or to try `--noisy`."""

import tempfile
from pathlib import Path

import click
import torch
from PIL import Image
from train import find_recipe

from denoiser.console import run, say
from denoiser.errors import ArgumentError
from denoiser.files import check_writable
from denoiser.training.corruption import corrupt
from denoiser.training.dataset import read_pictures
from denoiser.training.recipe import load_recipe
from denoiser.training.validation import to_batch, to_uint8

SMALLEST_PX = 3  # a camera's two outermost rows are mirrored


@click.command("corrupt.py", context_settings={"show_default": True})
@click.option("--recipe", required=True, help="Name in recipes/, or a .toml.")
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Clean pictures.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder to make.")
@click.option("--seed", type=click.IntRange(0, 2**32), default=0)
def main(recipe: str, images: Path, out: Path, seed: int) -> None:
    """Corrupt every picture once: OUT/clean and OUT/noisy get PNG files of the same names."""
    if out.exists():
        raise ArgumentError(f"{out} exists: choose another --out")
    loaded = load_recipe(find_recipe(recipe))
    steps = loaded.corruption
    if not steps or loaded.network.detects:
        raise ArgumentError(f"recipe {loaded.name} makes no noisy pictures")
    check_writable(out)
    generator = torch.Generator().manual_seed(seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        part = Path(folder) / out.name
        for index, picture in enumerate(read_pictures([images], SMALLEST_PX, say)):
            clean, noisy, _ = corrupt(to_batch(picture), steps, generator)
            for name, batch in (("clean", clean), ("noisy", noisy)):
                path = part / name / f"{index:05}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(to_uint8(batch)).save(path, compress_level=1)
        part.rename(out)
    say(f"{index + 1} pictures in {out}")


if __name__ == "__main__":
    run(main)
